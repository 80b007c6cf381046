"""From an exception to a sentence on stderr and an exit status; None means: a bug, show the traceback."""

INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

CONFIGURATION = 78


class Failed(Exception):
    """The command did its work and the answer is no: `status` says which no; the message may be empty."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status = status


FAILED = 1
USAGE = 2
NOT_FOUND = 3
CONFLICT = 4
UNREACHABLE = 5
TIMED_OUT = 7
CHECK_FAILED = 8


def explain(error: BaseException) -> int | None:
    """Print what the user should know of `error` and return the exit status."""
    from scheduler.config import ConfigError
    from scheduler.control.protocol import EXIT_CODES, ControlError
    from scheduler.home import HomeError, HomeInUse
    from scheduler.store.errors import Conflict, DatabaseRefused, SchemaMismatch, StoreUnavailable

    match refusal := sole(error):
        case Failed():
            return _say(str(refusal), refusal.status)
        case ControlError():
            return _say(refusal.message, EXIT_CODES[refusal.code])
        case ConfigError():
            return _say(str(refusal), CONFIGURATION)
        case StoreUnavailable() | Conflict():
            return _say(str(refusal), UNREACHABLE)
        case DatabaseRefused() | SchemaMismatch():
            return _say(str(refusal), FAILED)
        case HomeInUse():
            return _say(str(refusal), CONFLICT)
        case HomeError():
            return _say(str(refusal), FAILED)
        case KeyboardInterrupt():
            return _say("", INTERRUPTED)
    return None


def sole(error: BaseException) -> BaseException:
    """What nurseries have wrapped on its way out: the one exception of a group of one is that exception."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _say(message: str, status: int) -> int:
    if message:
        from scheduler.cli.output import complain

        complain(message)
    return status
