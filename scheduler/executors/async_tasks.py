"""Runs `async def` tasks under trio, with the time-out and SIGTERM as cancel scopes."""

import signal
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from scheduler.executors.stops import TaskStopped, TaskTimeout


def run_async(call: Callable[[], Awaitable[Any]], *, timeout: float | None) -> Any:
    """What `await call()` returns.

    Raises what it raises; TaskTimeout after `timeout` seconds; TaskStopped on SIGTERM.
    """
    return trio.run(_run, call, float("inf") if timeout is None else timeout)


async def _run(call: Callable[[], Awaitable[Any]], timeout: float) -> Any:
    value: Any = None
    error: BaseException | None = None
    stopped = trio.CancelScope()
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_signal, signals, stopped)
            with stopped, trio.move_on_after(timeout) as limit:
                try:
                    value = await call()
                except trio.Cancelled:
                    raise
                except BaseException as raised:
                    error = raised
            nursery.cancel_scope.cancel()
    if stopped.cancelled_caught:
        raise TaskStopped
    if limit.cancelled_caught:
        raise TaskTimeout
    if error is not None:
        raise error
    return value


async def _cancel_on_signal(signals: Any, scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()
