"""Callbacks that are ready run together; nobody else is kept waiting for long, and the order is asyncio's."""

import asyncio
import socket
from itertools import pairwise
from typing import Any

import trio

from nurseries.bridge import Bridge, open_bridge
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


async def test_an_answer_on_a_socket_costs_one_turn_of_trio() -> None:
    """Its reader, the future that it resolves, the coroutine that waits and what it sends next: all in one turn."""
    turns = 0

    class Count(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            nonlocal turns
            turns += 1

    rounds = 50

    async def crossing() -> int:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            _, other = await asyncio.open_connection(sock=theirs)
            await asyncio.sleep(0.01)
            before = turns
            for _ in range(rounds):
                other.write(b"x")
                assert await reader.readexactly(1) == b"x"
            taken = turns - before
            writer.close()
            other.close()
            return taken

    instrument = Count()
    async with open_bridge() as bridge:
        trio.lowlevel.add_instrument(instrument)
        try:
            taken = await bridge.shielded(crossing)
        finally:
            trio.lowlevel.remove_instrument(instrument)
    assert taken <= 2 * rounds, "one turn to see it, one to go to sleep"


async def test_a_bridge_is_used_from_a_task_that_is_older_than_it() -> None:
    """Its sockets are watched by tasks of such a context, which knows no loop; what they run asks for one."""
    heard: list[bytes] = []
    opened, crossed = trio.Event(), trio.Event()
    bridges: list[Bridge] = []

    async def crossing() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            theirs.send(b"x")
            async with asyncio.timeout(5):
                heard.append(await reader.readexactly(1))
            async with asyncio.timeout(5):  # set where the answer has woken us
                await asyncio.sleep(0)
            writer.close()

    async def older() -> None:
        await opened.wait()
        await bridges[0].shielded(crossing)
        crossed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(older)
        await trio.lowlevel.checkpoint()
        async with open_bridge() as bridge:
            bridges.append(bridge)
            opened.set()
            with trio.fail_after(10):
                await crossed.wait()
    assert heard == [b"x"]


async def test_who_starts_a_trio_task_or_ends_the_loop_from_an_answer_is_served() -> None:
    async def in_trio() -> str:
        await trio.lowlevel.checkpoint()
        return "trio"

    async with open_bridge() as bridge:

        async def crossing() -> str:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                reader, writer = await asyncio.open_connection(sock=ours)
                theirs.send(b"x")
                await reader.readexactly(1)
                answer: str = await bridge.call_trio(in_trio)
                writer.close()
                return answer

        with trio.fail_after(10):
            assert await bridge.shielded(crossing) == "trio"
            loop: Any = bridge._loop
            ours, theirs = socket.socketpair()
            with ours, theirs:
                loop.add_reader(ours, loop.stop)
                theirs.send(b"x")
                await loop.wait_stopped()
                loop.remove_reader(ours)
