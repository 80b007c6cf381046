"""The two ways in which a task is told to end while it runs."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Never


class TaskTimeout(BaseException):
    """The task's execution_timeout has passed."""


class TaskStopped(BaseException):
    """The worker sent SIGTERM: the attempt is cancelled, or the worker is being stopped."""


def raise_on_sigterm() -> None:
    """Let SIGTERM unwind the user's code, so that its `finally` blocks run."""
    signal.signal(signal.SIGTERM, _stop)


def _stop(_signum: int, _frame: FrameType | None) -> Never:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; SIGKILL follows after the grace
    raise TaskStopped


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise TaskTimeout in the main thread after so many seconds; None means no limit."""
    if seconds is None:
        yield
        return

    def expire(_signum: int, _frame: FrameType | None) -> Never:
        raise TaskTimeout

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
