"""What can be wrong with a DAG file, and what a task may raise to choose its own end."""


class DagError(Exception):
    """A DAG file that cannot be used as it is; the message says what to change.

    `line` is where, in the DAG file, if that is not simply where the error was raised.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class SkipTask(Exception):
    """Raised by a task: end as skipped."""


class FailTask(Exception):
    """Raised by a task: end as failed, without the retries that are left."""
