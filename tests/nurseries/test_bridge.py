"""The bridge's promises, N12 to N14, and a cancel storm without a database."""

import asyncio
import gc
import random
from contextlib import asynccontextmanager

import pytest
import trio

from nurseries.bridge import Bridge, deadline, open_bridge
from nurseries.errors import CrossingCancelled


async def unhandled(error: BaseException) -> None:
    """On the asyncio side: a task that fails while nobody awaits it."""

    async def fail() -> None:
        raise error

    asyncio.get_running_loop().create_task(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()


class TestCrossings:
    async def test_a_real_asyncio_function_is_crossed_into_and_back(self) -> None:
        async def crossing(a: int, b: int) -> int:
            queue: asyncio.Queue[int] = asyncio.Queue()
            async with asyncio.TaskGroup() as group:
                group.create_task(queue.put(a))
                group.create_task(queue.put(b))
            await asyncio.sleep(0.001)
            return await queue.get() + await queue.get()

        async with open_bridge() as bridge:
            assert await bridge.shielded(crossing, 1, 2) == 3
            assert await bridge.cancellable(crossing, 3, 4) == 7

    async def test_what_the_crossing_raises_arrives_unchanged(self) -> None:
        error = LookupError("which one?")

        async def crossing() -> None:
            await asyncio.sleep(0)
            raise error

        async with open_bridge() as bridge:
            for cross in (bridge.shielded, bridge.cancellable):
                with pytest.raises(LookupError) as caught:
                    await cross(crossing)
                assert caught.value is error

    async def test_a_task_started_before_the_bridge_may_cross(self) -> None:
        async def crossing() -> str:
            await asyncio.sleep(0)
            return "across"

        results: list[str] = []
        send, receive = trio.open_memory_channel[Bridge](0)

        async def early() -> None:
            results.append(await (await receive.receive()).shielded(crossing))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(early)
            async with open_bridge() as bridge:
                await send.send(bridge)
                while not results:
                    await trio.sleep(0)

    async def test_a_crossing_may_call_back_into_trio(self) -> None:
        async def in_trio(word: str) -> str:
            await trio.sleep(0)
            return word.upper()

        async with open_bridge() as bridge:

            async def crossing() -> str:
                return await bridge.call_trio(in_trio, "word")

            assert await bridge.shielded(crossing) == "WORD"

    async def test_the_deadline_ends_a_crossing_that_the_shield_protects(self) -> None:
        async def crossing() -> None:
            async with deadline(0.01):
                await asyncio.sleep(3600)

        async with open_bridge() as bridge:
            with pytest.raises(TimeoutError):
                await bridge.shielded(crossing)


class TestCancellation:
    async def test_n12_a_cancel_during_a_shielded_crossing_arrives_after_the_result(self) -> None:
        steps: list[str] = []
        async with open_bridge() as bridge:
            with trio.CancelScope() as scope:

                async def crossing() -> str:
                    scope.cancel()
                    await asyncio.sleep(0.01)
                    steps.append("committed")
                    return "result"

                steps.append(await bridge.shielded(crossing))
                steps.append("the next line runs")
                await trio.lowlevel.checkpoint()
                steps.append("unreachable")
        assert steps == ["committed", "result", "the next line runs"]
        assert scope.cancelled_caught

    async def test_n12_a_pending_cancel_means_that_nothing_happens(self) -> None:
        happened = False

        async def crossing() -> None:
            nonlocal happened
            happened = True

        async with open_bridge() as bridge:
            for cross in (bridge.shielded, bridge.cancellable):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await cross(crossing)
                assert scope.cancelled_caught
        assert not happened

    async def test_n13_a_cancellable_crossing_is_cancelled_on_its_own_side(self) -> None:
        seen: list[str] = []

        async def crossing() -> None:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                seen.append("cancelled")
                await asyncio.sleep(0.01)  # once only: the clean-up is not hurried
                seen.append("cleaned up")
                raise

        async with open_bridge() as bridge:
            with trio.move_on_after(0.01) as scope:
                await bridge.cancellable(crossing)
        assert scope.cancelled_caught
        assert seen == ["cancelled", "cleaned up"]

    async def test_n13_a_cancel_from_below_does_not_pass_for_ours(self) -> None:
        async def crossing() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(3600)

        async with open_bridge() as bridge:
            for cross in (bridge.shielded, bridge.cancellable):
                with pytest.raises(CrossingCancelled):
                    await cross(crossing)

    async def test_n12_a_storm_of_cancels_leaks_nothing_and_hides_no_commit(self) -> None:
        """Five "connections", a limiter as wide, more callers than that, and cancels at random moments."""
        picks = random.Random(7)
        limit, checked_out, begun, committed, told = 5, 0, 0, 0, 0
        slots = trio.CapacityLimiter(limit)

        @asynccontextmanager
        async def connection():
            nonlocal checked_out
            checked_out += 1
            assert checked_out <= limit
            try:
                await asyncio.sleep(0)
                yield
            finally:
                await asyncio.sleep(0)  # giving it back awaits, as it does with a real pool
                checked_out -= 1

        async def crossing(delay: float) -> bool:
            nonlocal begun, committed
            async with connection(), deadline(3):
                begun += 1
                await asyncio.sleep(delay)
                committed += 1
            return True

        async def transact(bridge: Bridge) -> None:
            nonlocal told
            async with slots:
                if await bridge.shielded(crossing, picks.random() * 0.002):
                    told += 1  # synchronous, on the next line

        async def caller(bridge: Bridge) -> None:
            for _ in range(20):
                with trio.move_on_after(picks.random() * 0.004):
                    await transact(bridge)

        async with open_bridge() as bridge:
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(caller, bridge)
            assert bridge.error_counts.total() == 0
        assert checked_out == 0
        assert slots.borrowed_tokens == 0
        assert begun == committed == told
        assert 0 < begun < 400, "some were cancelled before they began, some were not"

    async def test_negative_control_a_crossing_for_each_statement_leaks(self) -> None:
        """Why a whole transaction is one crossing: the clean-up that crosses again never starts."""
        checked_out = 0

        async def take() -> None:
            nonlocal checked_out
            checked_out += 1

        async def give_back() -> None:
            nonlocal checked_out
            checked_out -= 1

        async with open_bridge() as bridge:
            with trio.CancelScope() as scope:
                await bridge.cancellable(take)
                try:
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
                finally:
                    await bridge.cancellable(give_back)
        assert checked_out == 1


class TestUnhandledErrors:
    async def test_n14_they_are_counted_and_the_loop_lives(self) -> None:
        heard: list[BaseException] = []
        async with open_bridge(on_error=heard.append) as bridge:
            for _ in range(3):
                await bridge.shielded(unhandled, ConnectionResetError("gone"))
            await bridge.shielded(unhandled, OSError("away"))
            assert bridge.error_counts == {"ConnectionResetError": 3, "OSError": 1}
            assert bridge.recent_errors(seconds=60) == 4
            assert [str(error) for error in heard] == ["gone", "gone", "gone", "away"]

            async def alive() -> int:
                return 1

            assert await bridge.shielded(alive) == 1

    async def test_n14_an_outage_does_not_flood_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        async with open_bridge() as bridge:
            for _ in range(100):
                await bridge.shielded(unhandled, ConnectionResetError("gone"))
        assert len(caplog.records) == 7  # 1, 2, 4, ... 64

    async def test_n14_an_assertion_error_ends_the_loop(self) -> None:
        ended = False

        async def daemon() -> None:
            nonlocal ended
            async with open_bridge() as bridge:
                try:
                    await bridge.shielded(unhandled, AssertionError("a bug"))
                    await trio.sleep_forever()
                finally:
                    ended = True

        with pytest.raises(ExceptionGroup) as caught:
            await daemon()
        assert ended
        assert caught.group_contains(AssertionError, match="a bug")

    async def test_n14_a_complaint_without_an_exception_is_counted_too(self) -> None:
        async def crossing() -> None:
            asyncio.get_running_loop().call_exception_handler({"message": "a transport was not closed"})

        async with open_bridge() as bridge:
            await bridge.shielded(crossing)
            assert bridge.error_counts == {"message": 1}
            assert "open, 1 errors" in repr(bridge)
        assert "closed" in repr(bridge)
