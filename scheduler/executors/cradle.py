"""The worker's side of one task process: its line, its output, and what is known of its end."""

import contextlib
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import define

from scheduler.executors.channel import Channel
from scheduler.executors.readiness import Readiness

if TYPE_CHECKING:
    from scheduler.executors.parent import Parent


def _nobody() -> None:
    """Nobody listens yet."""


@define(eq=False, kw_only=True)
class Cradle:
    """One process forked, or about to be, for one attempt; it waits for its job."""

    parent: "Parent"
    number: int
    channel: Channel
    output: int
    """Read end of the log pipe."""
    readiness: Readiness
    """Who watches descriptors here."""
    pid: int = 0
    """0 until forked."""
    pidfd: int = -1
    """Opened by its parent, so that it can be signalled without a doubt who gets it; -1 if that was not possible."""
    exit_code: int | None = None
    """Set when it has been reaped and its group killed."""
    import_failure: str | None = None
    """Why the DAG file could not be imported."""
    orphaned: str | None = None
    """Why nobody will report its exit: its parent is gone, or could not fork it."""
    on_news: Callable[[], None] = _nobody

    @property
    def is_over(self) -> bool:
        """No more news will come."""
        return self.exit_code is not None or self.import_failure is not None or self.orphaned is not None

    def kill_alone(self) -> bool:
        """SIGKILL to this process, whose number cannot be another's by now. False when it could not be sent."""
        if self.pidfd < 0:
            return False
        with contextlib.suppress(ProcessLookupError):  # it has gone by itself
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        return True

    def forked(self, pid: int, pidfd: int) -> None:
        """Its parent has forked it."""
        self.pid = pid
        if self.channel.closed:  # nobody waits for it any more
            if pidfd >= 0:
                os.close(pidfd)
        else:
            self.pidfd = pidfd
        self.on_news()

    def close(self) -> None:
        """Give the descriptors back; a process that still waits for its job leaves."""
        if not self.channel.closed:
            self.readiness.unwatch(self.channel.fileno())
            self.channel.close()
        if self.output >= 0:
            self.readiness.unwatch(self.output)
            os.close(self.output)
            self.output = -1
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
