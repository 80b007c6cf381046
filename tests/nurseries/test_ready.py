"""Callbacks that are ready run together; nobody else is kept waiting for long, and the order is asyncio's."""

import asyncio
from itertools import pairwise
from typing import Any

import trio

from nurseries.bridge import open_bridge
from nurseries.ready import AT_ONCE


async def test_callbacks_keep_their_order() -> None:
    seen: list[int] = []

    async def crossing() -> None:
        loop = asyncio.get_running_loop()
        for i in range(10 * AT_ONCE):
            loop.call_soon(seen.append, i)
        done = loop.create_future()
        loop.call_soon(done.set_result, None)
        await done

    async with open_bridge() as bridge:
        await bridge.shielded(crossing)
    assert seen == list(range(10 * AT_ONCE))


async def test_callbacks_that_never_end_leave_room_for_everybody_else() -> None:
    """One that always asks to be called again: trio's tasks, timers and cancels get their turns all the same."""
    calls = 0
    stop = False

    async def crossing() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def again() -> None:
            nonlocal calls
            calls += 1
            if stop:
                done.set_result(None)
            else:
                loop.call_soon(again)

        again()
        await done

    async with open_bridge() as bridge, trio.open_nursery() as nursery:
        nursery.start_soon(bridge.shielded, crossing)
        turns: list[int] = []
        while len(turns) < 20:
            await trio.lowlevel.checkpoint()
            turns.append(calls)
        stop = True
    # trio shuffles its tasks: between two turns of ours the loop may have had two, each of one bounded lot
    assert max(b - a for a, b in pairwise(turns)) <= 2 * (AT_ONCE + 1)
    assert turns[-1] > AT_ONCE


async def test_what_is_ready_runs_within_one_turn_of_trio() -> None:
    """The point of it: a chain of callbacks, each made by the one before, does not cost a turn of trio each."""
    turns = 0

    class Count(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            nonlocal turns
            turns += 1

    async def crossing() -> int:
        loop = asyncio.get_running_loop()
        before = turns
        for _ in range(AT_ONCE // 2):
            done: asyncio.Future[Any] = loop.create_future()
            loop.call_soon(done.set_result, None)
            await done
        return turns - before

    instrument = Count()
    async with open_bridge() as bridge:
        trio.lowlevel.add_instrument(instrument)
        try:
            taken = await bridge.shielded(crossing)
        finally:
            trio.lowlevel.remove_instrument(instrument)
    assert taken <= 3
