"""The only door to asyncio: one function across, one result back.

trio above, asyncio below. What must not be torn apart is *one* crossing: trio cannot cancel a crossing twice
and a clean-up that would need a second crossing never starts once a cancel is pending. So a unit of work lies
on the asyncio side as a whole, shielded, with its own deadline there (`deadline`), and is short by
construction.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import trio
import trio_asyncio

from nurseries.buffers import read_in_pieces
from nurseries.errors import CrossingCancelled
from nurseries.ready import run_ready_at_once
from nurseries.timers import tidy_timers

T = TypeVar("T")

_log = logging.getLogger(__name__)

_REMEMBERED_ERRORS = 1000


def deadline(seconds: float) -> AbstractAsyncContextManager[Any]:
    """A time limit for use *inside* a crossing: leaves with `TimeoutError` when `seconds` are over.

    It fires once. What runs in its `finally` blocks needs bounds of its own.
    """
    return asyncio.timeout(seconds)


class Bridge:
    """An open door.

    Its crossings may be made from any trio task of this run, also one started before it opened.
    """

    def __init__(self, loop: "trio_asyncio.TrioEventLoop", on_error: Callable[[BaseException], None] | None) -> None:
        self._loop = loop
        self._on_error = on_error
        self._error_times: deque[float] = deque(maxlen=_REMEMBERED_ERRORS)
        self.error_counts: Counter[str] = Counter()

    async def shielded(self, crossing: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run `await crossing(*args)` on the asyncio side, out of reach of any cancel.

        A cancel that is already pending is raised before the crossing begins: nothing happened. One that
        arrives during the crossing does not touch it: the caller gets the result, and `Cancelled` at its next
        checkpoint, so what must follow is synchronous code on the next line. The crossing has to bound itself
        (`deadline`).

        Raises what the crossing raises; `CrossingCancelled` if it was cancelled on the asyncio side.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            result = await self._cross(crossing, args)
        return result  # noqa: RET504 - a cancel scope may swallow, says its type; without a deadline it never does

    async def cancellable(self, crossing: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run `await crossing(*args)` on the asyncio side; a cancel reaches it there, once.

        For work that leaves nothing behind when it is torn off, such as reads. The crossing should bound its
        own clean-up: nobody hurries it.

        Raises what the crossing raises; `CrossingCancelled` if it was cancelled on the asyncio side.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        return await self._cross(crossing, args)

    async def call_trio(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """From *inside* a crossing, run a trio function and return its result.

        For instruments, not for transactions.
        """
        result: T = await self._loop.trio_as_future(function, *args)
        return result

    def recent_errors(self, seconds: float = 60.0) -> int:
        """How many asyncio exceptions nobody awaited came up within the last `seconds` (at most 1000)."""
        since = trio.current_time() - seconds
        return sum(1 for at in self._error_times if at >= since)

    async def _cross(self, crossing: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
        try:
            result: T = await trio_asyncio.aio_as_trio(crossing, loop=self._loop)(*args)
        except asyncio.CancelledError as error:
            # trio's own cancel arrives as trio.Cancelled; this one came from below and must not pass for it.
            raise CrossingCancelled(f"{crossing!r} was cancelled on the asyncio side") from error
        return result

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take an asyncio exception that nobody awaits: count it, except that a bug ends the loop."""
        error: BaseException | None = context.get("exception")
        if isinstance(error, AssertionError):
            loop.default_exception_handler(context)
            return
        kind = type(error).__name__ if error is not None else "message"
        self.error_counts[kind] += 1
        self._error_times.append(trio.current_time())
        count = self.error_counts[kind]
        if count & (count - 1) == 0:  # the 1st, 2nd, 4th, 8th, ...: an outage makes hundreds of the same
            _log.warning(
                "asyncio: %s (%s so far: %d)",
                context.get("message", "unhandled error"),
                kind,
                count,
                exc_info=error,
            )
        if error is not None and self._on_error is not None:
            self._on_error(error)

    def __repr__(self) -> str:
        return f"<Bridge {'open' if self._loop.is_running() else 'closed'}, {self.error_counts.total()} errors>"


@asynccontextmanager
async def open_bridge(*, on_error: Callable[[BaseException], None] | None = None) -> AsyncIterator[Bridge]:
    """An asyncio loop on top of this trio run, for as long as the block lasts.

    An asyncio exception that nobody awaits is logged, counted in `Bridge.error_counts` by type, and given to
    `on_error` (synchronous, must not raise). An `AssertionError` is a bug: it ends the loop and leaves this
    block in an exception group.
    """
    async with trio_asyncio.open_loop() as loop:
        tidy_timers(loop)
        run_ready_at_once(loop, make_current=partial(trio_asyncio.current_loop.set, loop))
        read_in_pieces(loop)
        bridge = Bridge(loop, on_error)
        loop.set_exception_handler(bridge._unhandled)  # noqa: SLF001 - private to the users of a bridge, not to this file
        yield bridge
