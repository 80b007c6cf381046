"""How a daemon ends:

a signal asks, main drains within a grace, then it is cancelled. A second signal: at once.
"""

import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from enum import StrEnum

import outcome
import trio

_log = logging.getLogger(__name__)


class Ending(StrEnum):
    """How `run_until_stopped` came to its end."""

    FINISHED = "finished"  # nobody asked; main returned by itself
    DRAINED = "drained"  # asked, and main returned within the grace
    GRACE_OVER = "grace over"  # asked, and main was cancelled when the grace had passed
    CANCELLED = "cancelled"  # asked twice


class Shutdown:
    """What main sees of its own end: `requested`, and why."""

    def __init__(self) -> None:
        self.requested = trio.Event()
        self.reason = ""

    def request(self, reason: str) -> None:
        """Ask for the end from inside; the same as the first signal. Asking again changes nothing."""
        if not self.requested.is_set():
            self.reason = reason
            self.requested.set()

    def __repr__(self) -> str:
        return f"<Shutdown {'requested: ' + self.reason if self.requested.is_set() else 'not requested'}>"


async def run_until_stopped(
    main: Callable[[Shutdown], Awaitable[None]],
    *,
    grace: float,
    signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
) -> Ending:
    """Run `main(shutdown)`; the way out begins with the first signal and is over `grace` seconds later.

    The first signal sets `shutdown.requested`: main stops taking new work, finishes what it has, returns. If
    it has not returned after `grace` seconds, or a second signal comes, it is cancelled. Raises what main
    raises.
    """
    shutdown = Shutdown()
    scope = trio.CancelScope()
    ending = Ending.FINISHED

    async def run() -> None:
        with scope:
            await main(shutdown)

    async def attend(arrivals: AsyncIterator[int]) -> None:
        nonlocal ending
        async with trio.open_nursery() as ask:

            @ask.start_soon
            async def first_signal() -> None:
                shutdown.request(signal.Signals(await anext(arrivals)).name)

            await shutdown.requested.wait()
            ask.cancel_scope.cancel()
        _log.info("%s: ending within %g s", shutdown.reason, grace)
        ending = Ending.DRAINED
        second = None
        with trio.move_on_after(grace):
            second = await anext(arrivals)
        ending = Ending.GRACE_OVER if second is None else Ending.CANCELLED
        _log.warning("%s: cancelling", "the grace is over" if second is None else signal.Signals(second).name)
        scope.cancel()
        async for _ in arrivals:
            pass  # more signals change nothing: what is left is bounded

    with trio.open_signal_receiver(*signals) as arrivals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attend, arrivals)
            # Captured, so that main's own exception leaves as itself and not in a group of one.
            result = await outcome.acapture(run)
            nursery.cancel_scope.cancel()
    result.unwrap()
    if not scope.cancelled_caught and ending in (Ending.GRACE_OVER, Ending.CANCELLED):
        ending = Ending.DRAINED  # main returned at the very moment
    return ending
