"""The two ways in which a task is told to end while it runs."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class TaskTimeout(BaseException):
    """The task's execution_timeout has passed."""


class TaskStopped(BaseException):
    """The worker sent SIGTERM: the attempt is cancelled, or the worker is being stopped."""


def raise_on_sigterm() -> None:
    """Let SIGTERM unwind the user's code, so that its `finally` blocks run."""
    signal.signal(signal.SIGTERM, _stop)


def ignore_sigterm() -> None:
    """From now on only SIGKILL ends the process."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _stop(_signum: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; SIGKILL follows after the grace
    _raise(TaskStopped())


_held = False
_waiting: BaseException | None = None


def _raise(stop: BaseException) -> None:
    global _waiting
    if not _held:
        raise stop
    _waiting = stop


def forget_stops() -> None:
    """A stop that was held back and never raised belongs to the attempt that has ended."""
    global _held, _waiting
    _held, _waiting = False, None


@contextlib.contextmanager
def stops_held() -> Iterator[None]:
    """For what must not be interrupted half way; a stop that comes meanwhile is raised at the end."""
    global _held, _waiting
    _held = True
    try:
        yield
    finally:
        _held = False
    if _waiting is not None:
        stop, _waiting = _waiting, None
        raise stop


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise TaskTimeout in the main thread after so many seconds; None means no limit."""
    if seconds is None:
        yield
        return

    def expire(_signum: int, _frame: FrameType | None) -> None:
        _raise(TaskTimeout())

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
