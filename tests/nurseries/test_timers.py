"""Cancelled timers of the asyncio side leave; the others fire when they are due, whoever set them."""

import asyncio
from typing import Any

import trio
import trio.testing

from nurseries.bridge import open_bridge


async def timers(bridge: Any) -> list[Any]:
    loop: Any = bridge._loop
    return list(loop._timers)


async def test_a_time_out_that_was_not_needed_leaves_no_timer() -> None:
    async def crossing() -> None:
        for _ in range(50):
            async with asyncio.timeout(30):
                await asyncio.sleep(0)

    async with open_bridge() as bridge:
        await bridge.shielded(crossing)
        assert await timers(bridge) == []


async def test_cancelled_timers_behind_a_living_one_leave_with_it() -> None:
    async with open_bridge() as bridge:
        fired: list[str] = []

        async def crossing() -> None:
            loop = asyncio.get_running_loop()
            first = loop.call_later(10, fired.append, "first")
            later = [loop.call_later(20 + n, fired.append, "later") for n in range(5)]
            await asyncio.sleep(0)
            for one in later:
                one.cancel()
            assert len(await timers(bridge)) == 6, "they wait behind one that lives"
            first.cancel()

        await bridge.shielded(crossing)
        assert await timers(bridge) == []
        assert fired == []


async def test_timers_fire_in_order_whether_the_loop_or_somebody_else_set_them() -> None:
    fired: list[str] = []
    async with open_bridge() as bridge:
        loop: Any = bridge._loop
        done = trio.Event()

        async def crossing() -> None:
            running = asyncio.get_running_loop()
            running.call_later(0.02, fired.append, "second")
            running.call_later(0.01, fired.append, "first")

        await bridge.shielded(crossing)
        loop.call_later(0.03, fired.append, "third")  # from a trio task: the loop sleeps and must be woken
        loop.call_later(0.04, done.set)
        with trio.fail_after(10):
            await done.wait()
    assert fired == ["first", "second", "third"]


async def test_a_timer_set_from_trio_wakes_a_loop_that_waits_for_a_later_one() -> None:
    async with open_bridge() as bridge:
        loop: Any = bridge._loop
        loop.call_later(1000, print, "never")
        await trio.testing.wait_all_tasks_blocked()
        done = trio.Event()
        loop.call_later(0.01, done.set)
        with trio.fail_after(10):
            await done.wait()


async def test_a_deadline_still_ends_what_takes_too_long() -> None:
    async def crossing() -> str:
        try:
            async with asyncio.timeout(0.02):
                await asyncio.Event().wait()
        except TimeoutError:
            return "late"
        return "in time"

    async with open_bridge() as bridge:
        for _ in range(5):
            assert await bridge.shielded(crossing) == "late"
