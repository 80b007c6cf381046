"""What is ready on the asyncio side runs where it became ready, without turns of trio's loop in between.

trio-asyncio has one task that takes callbacks from a queue, one at a time, each under a cancel scope of its own; a
socket that has become readable wakes a task of its own, which fills that queue and waits until it has been emptied.
So an answer from a database costs three turns of trio's loop, with a system call each, and more for each callback.
asyncio's own loops run everything that is ready and look at the sockets once. So does this: whoever is awake, the
loop's task or that of a socket, runs what is ready, for a bounded number of callbacks: then everybody else has a turn.

Who runs what: callbacks that are plain functions run in either; those that start a trio task, and the one that ends
the loop, in the loop's own task. Nothing here waits while it runs, so no two of them run at the same time.
"""

import heapq
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from sniffio import thread_local as sniffio_library

AT_ONCE = 32
"""Callbacks run before trio's other tasks have a turn."""


class _Ready:
    """The queue of a loop, and who runs what is in it."""

    def __init__(self, loop: Any, make_current: Callable[[], object]) -> None:
        self.loop = loop
        self.make_current = make_current
        self.handles: deque[Any] = deque()
        self._running = False
        self._sleeper: trio.lowlevel.Task | None = None
        """The loop's own task, while it sleeps."""
        self._wakes_at = math.inf
        """When it wakes by itself."""

    def send_nowait(self, handle: Any) -> None:
        """Queue a callback, or set a timer; called in trio's thread, from wherever."""
        if hasattr(handle, "when"):
            heapq.heappush(self.loop._timers, handle)
        else:
            self.handles.append(handle)
        if not self._running:
            self.see_to_the_rest()

    def see_to_the_rest(self) -> None:
        """Wake the loop's own task, if there is something for it to do before it wakes by itself."""
        timers = self.loop._timers
        if self._sleeper is not None and (self.handles or (timers and timers[0].when() < self._wakes_at)):
            trio.lowlevel.reschedule(self._sleeper)
            self._sleeper = None

    def run(self, *first: Any) -> bool:
        """Run `first`, due timers and what is queued, a bounded number of them; was there anything?"""
        due = list(first)
        timers = self.loop._timers
        while timers and timers[0].when() <= self.loop.time():
            due.append(heapq.heappop(timers))
        before, sniffio_library.name = sniffio_library.name, "asyncio"
        self._running = True
        try:
            for handle in due:
                if not handle._cancelled:
                    handle._run()
            for _ in range(AT_ONCE):
                if not self.handles or _starts_a_task(self.handles[0]):
                    break
                handle = self.handles.popleft()
                due.append(handle)
                if not handle._cancelled:
                    handle._run()
        finally:
            self._running = False
            sniffio_library.name = before
        return bool(due)

    async def main_loop_one(self, no_wait: bool = False) -> None:
        """A turn of the loop's own task."""
        ran = self.run()
        if self.handles:
            if _starts_a_task(self.handles[0]):
                handle = self.handles.popleft()
                handle._context.run(self.loop._nursery.start_soon, handle._run, name=handle._callback)
                await handle._started.wait()
            elif not no_wait:
                await trio.lowlevel.checkpoint()
        elif not no_wait:
            await self._sleep()
        elif not ran:
            raise trio.WouldBlock

    async def _sleep(self) -> None:
        timers = self.loop._timers
        self._wakes_at = timers[0].when() if timers else math.inf
        self._sleeper = trio.lowlevel.current_task()

        def abort(_: Any) -> trio.lowlevel.Abort:
            self._sleeper = None
            return trio.lowlevel.Abort.SUCCEEDED

        with trio.CancelScope(deadline=self._wakes_at):
            await trio.lowlevel.wait_task_rescheduled(abort)

    async def io_task(self, fd: Any, handle: Any, wait_ready: Callable[[Any], Awaitable[None]]) -> None:
        """Watch one socket in one direction."""
        # what runs here asks the task that it runs in for its loop
        self.make_current()
        with handle._scope:
            try:
                while not handle._cancelled:
                    try:
                        await wait_ready(fd)
                    except OSError:
                        if handle._cancelled:  # and the socket was closed, without a turn of the loop in between
                            break
                        raise
                    if not handle._cancelled:
                        self._run_for(handle)
                        if self.handles:
                            await self.loop.synchronize()
            except Exception as error:
                handle._raise(error)

    def _run_for(self, handle: Any) -> None:
        try:
            self.run(handle)
        except SystemExit as leaving:  # how the loop is told to end; its own task must hear it
            self.loop.call_soon(_leave, leaving)
        finally:
            self.see_to_the_rest()


def _starts_a_task(handle: Any) -> bool:
    return hasattr(handle, "_started")


def _leave(leaving: SystemExit) -> None:
    raise leaving


def run_ready_at_once(loop: Any, *, make_current: Callable[[], object]) -> None:
    """Have this `TrioEventLoop`, which has just been opened, run what is ready. Touches only this loop.

    `make_current` makes it the loop of the trio task that calls.
    """
    # there is no public way: an upgrade of trio-asyncio runs test_ready.py and test_timers.py
    ready = _Ready(loop, make_current)
    loop.call_soon(_nothing)  # the loop's task waits at the old queue, and may wait there no longer
    while True:
        try:
            ready.handles.append(loop._q_recv.receive_nowait())
        except trio.WouldBlock:
            break
    loop._q_send = ready
    loop._main_loop_one = ready.main_loop_one
    loop._io_task = ready.io_task
    if not loop.get_debug():
        loop._check_callback = _unchecked  # by inspecting each; asyncio's own loops do it for debugging only


def _unchecked(callback: Any, method: str) -> None:
    """Takes every callback for a plain function."""


def _nothing() -> None:
    """Only wakes."""
