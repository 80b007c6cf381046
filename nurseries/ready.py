"""What is ready on the asyncio side runs without a turn of trio's loop for each piece.

trio-asyncio takes one callback from its queue, runs it, and waits for the next: also when the next is there already,
which costs a whole turn of trio's loop with its system calls, some four times for each statement that is sent to a
database. asyncio's own loops run everything that is ready and look at the sockets once. So does this, for a bounded
number of callbacks: then everybody else has a turn.
"""

from typing import Any

import trio

AT_ONCE = 32
"""Callbacks run before trio's other tasks have a turn."""


class _Ready:
    """Stands for the receiving end of the loop's queue."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._taken = 0

    def receive_nowait(self) -> Any:
        return self._queue.receive_nowait()

    async def receive(self) -> Any:
        """The next callback; a checkpoint only if there is none, or if many were there one after the other."""
        if self._taken < AT_ONCE:
            try:
                taken = self._queue.receive_nowait()
            except trio.WouldBlock:
                pass
            else:
                self._taken += 1
                return taken
        self._taken = 0
        return await self._queue.receive()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)


def run_ready_at_once(loop: Any) -> None:
    """Have this `TrioEventLoop`, which has just been opened, run what is ready. Touches only this loop."""
    loop._q_recv = _Ready(loop._q_recv)  # noqa: SLF001 - there is no public way: an upgrade runs test_ready.py
