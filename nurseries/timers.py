"""Timers of the asyncio side without their litter.

Nearly every statement sets a time-out and cancels it a millisecond later. trio-asyncio keeps a cancelled timer until
it would have fired, and wakes for each of them: on an idle program that is most wake-ups, on a busy one thousands of
dead timers in a heap. And a new timer goes round through the loop's queue. Here the cancelled ones leave as soon as
they come to the front, as in asyncio's own loops, and new ones go straight to where they wait.
"""

import heapq
from typing import Any

import trio


def tidy_timers(loop: Any) -> None:
    """Have this `TrioEventLoop`, which has just been opened, forget cancelled timers. Touches only this loop."""
    timers: list[Any] = loop._timers  # noqa: SLF001 - there is no public way: an upgrade runs test_timers.py
    queue = loop._queue_handle  # noqa: SLF001
    main: list[trio.lowlevel.Task] = []

    def note_main_task() -> None:
        main.append(trio.lowlevel.current_task())

    def drop_cancelled(leaving: Any) -> None:
        while timers and (timers[0] is leaving or timers[0].cancelled()):  # it says so itself only after this
            heapq.heappop(timers)

    def queue_handle(handle: Any) -> Any:
        is_timer = hasattr(handle, "when")
        if is_timer and main and _current_task() is main[0]:
            # called by what the loop itself is running: it looks at its timers before it waits again
            loop._check_closed()  # noqa: SLF001
            heapq.heappush(timers, handle)
        else:
            queue(handle)
        return handle

    loop.call_soon(note_main_task)
    loop._timer_handle_cancelled = drop_cancelled  # noqa: SLF001
    loop._queue_handle = queue_handle  # noqa: SLF001


def _current_task() -> trio.lowlevel.Task | None:
    try:
        return trio.lowlevel.current_task()
    except RuntimeError:  # outside trio, or in its clean-up
        return None
