"""Timers of the asyncio side without their litter.

Nearly every statement sets a time-out and cancels it a millisecond later. trio-asyncio keeps a cancelled timer until
it would have fired, and wakes for each of them: on an idle program that is most wake-ups, on a busy one thousands of
dead timers in a heap. Here the cancelled ones leave as soon as they come to the front, as in asyncio's own loops.
"""

import heapq
from typing import Any


def tidy_timers(loop: Any) -> None:
    """Have this `TrioEventLoop`, which has just been opened, forget cancelled timers. Touches only this loop."""
    timers: list[Any] = loop._timers  # noqa: SLF001 - there is no public way: an upgrade runs test_timers.py

    def drop_cancelled(leaving: Any) -> None:
        while timers and (timers[0] is leaving or timers[0].cancelled()):  # it says so itself only after this
            heapq.heappop(timers)

    loop._timer_handle_cancelled = drop_cancelled  # noqa: SLF001
