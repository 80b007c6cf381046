"""What one runner writes, cut into the logs of its attempts.

An attempt that writes nothing and succeeds has no log file: to make one can take longer than to run it.
"""

import os
from collections import deque

from attrs import define, field

from scheduler.executors.reuse_attempt import SharedAttempt
from scheduler.executors.reuse_words import mark

_CHUNK = 65536
_READS = 64
_OVERHEARD_BYTES = 2000


@define(eq=False)
class Output:
    """The read end of a runner's pipe; it does not block."""

    fd: int
    writers: deque[SharedAttempt] = field(factory=deque)
    """In the order in which they write; the first one may be writing."""
    overheard: bytearray = field(factory=bytearray)
    """Written while no attempt ran."""
    _rest: bytearray = field(factory=bytearray)

    def read(self) -> int | None:
        """Take what is there, or much of it; how much that was. None at its end, when nobody can write any more."""
        taken = 0
        for _ in range(_READS):
            try:
                data = os.read(self.fd, _CHUNK)
            except BlockingIOError:
                return taken
            if not data:
                return None
            taken += len(data)
            self._rest += data
            self._cut()
        return taken

    def _cut(self) -> None:
        while self.writers:
            end = mark(self.writers[0].workload.token)
            at = self._rest.find(end)
            if at < 0:
                # The mark may have come in part; it begins with a byte that is rare in what people read.
                at = self._rest.rfind(end[:1], max(0, len(self._rest) - len(end) + 1))
                self._pass_on(len(self._rest) if at < 0 else at)
                return
            self._pass_on(at)
            del self._rest[: len(end)]
            self.writers.popleft()
        self.overheard += self._rest[: _OVERHEARD_BYTES - len(self.overheard)]
        self._rest.clear()

    def _pass_on(self, count: int) -> None:
        if count:
            self.writers[0].write(bytes(self._rest[:count]))
            del self._rest[:count]

    def end_of(self, attempt: SharedAttempt) -> None:
        """It writes no more, whether its mark has come or not."""
        if self.writers and self.writers[0] is attempt:
            self._pass_on(len(self._rest))
            self.writers.popleft()

    def forget(self, attempt: SharedAttempt) -> None:
        """It will write nothing here: it was taken back."""
        self.writers.remove(attempt)
