"""The instruments themselves: a test that believes them must be able to."""

import random
from collections.abc import Callable, Collection, Hashable, Sequence
from datetime import UTC, datetime, timedelta, timezone

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from nurseries.clock import Clock, SystemClock
from nurseries.routine import Progress
from nurseries.testing import Conductor, FakeClock, StepRecorder, Stuck, Turn


def test_the_system_clock_is_aware_and_monotonic() -> None:
    clock: Clock = SystemClock()
    assert clock.now().utcoffset() == timedelta(0)
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)
    assert clock.monotonic() <= clock.monotonic()
    assert repr(clock) == "SystemClock()"


def test_a_fake_clock_stands_still_until_it_is_advanced() -> None:
    clock = FakeClock(datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2))))
    checked: Clock = clock
    assert checked.now() == datetime(2026, 3, 1, 10, tzinfo=UTC)
    assert clock.advance(1.5) == datetime(2026, 3, 1, 10, 0, 1, 500000, tzinfo=UTC)
    clock.advance(timedelta(minutes=1))
    assert clock.monotonic() == 61.5
    clock.set(datetime(2020, 1, 1, tzinfo=UTC))
    assert clock.now().year == 2020
    assert clock.monotonic() == 61.5
    with pytest.raises(AssertionError, match="backwards"):
        clock.advance(-1)


async def test_a_recorder_lets_a_test_wait_for_steps() -> None:
    recorder = StepRecorder()
    seen: list[str] = []

    async def wait() -> None:
        await recorder.wait_started("a")
        seen.append("started")
        await recorder.wait_steps("a", at_least=2)
        seen.append("twice")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        for _ in range(2):
            recorder.step_started("a")
            await trio.testing.wait_all_tasks_blocked()
            recorder.step_ended("a", seconds=0, progress=Progress.IDLE, error=None)
            await trio.testing.wait_all_tasks_blocked()
    assert seen == ["started", "twice"]
    assert recorder.count("a") == 2


class TestConductor:
    """Two actors that read, add and write without a lock: only some interleavings lose an update."""

    @staticmethod
    def _play(choose: Callable[[Sequence[Hashable]], Hashable]) -> tuple[int, list[Turn]]:
        total = 0

        async def main() -> tuple[int, list[Turn]]:
            conductor = Conductor()

            async def add() -> None:
                nonlocal total
                seen = total
                await conductor.point("read")
                total = seen + 1
                await conductor.point("wrote")

            turns = await conductor.play({"a": add, "b": add}, choose)
            return total, turns

        return trio.run(main)

    def test_one_after_the_other_is_right(self) -> None:
        total, turns = self._play(lambda parked: parked[0])
        assert total == 2
        assert [(turn.actor, turn.point) for turn in turns[:3]] == [("a", "start"), ("a", "read"), ("a", "wrote")]

    def test_in_turns_loses_an_update(self) -> None:
        turn = iter("ababab")
        total, _ = self._play(lambda _: next(turn))
        assert total == 1

    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 1000))
    def test_the_same_choices_give_the_same_interleaving(self, seed: int) -> None:
        first, again = random.Random(seed), random.Random(seed)
        assert self._play(first.choice) == self._play(again.choice)

    async def test_points_outside_of_a_play_are_passed(self) -> None:
        conductor = Conductor()
        await conductor.point("anything")
        await conductor.point("anything", actor="nobody")

    async def test_an_actor_may_be_blocked_by_another_one(self) -> None:
        conductor, lock, waiting = Conductor(), trio.Lock(), set[Hashable]()

        async def work(name: str) -> None:
            waiting.add(name)
            async with lock:
                waiting.discard(name)
                await conductor.point("has the lock")

        async def blocked() -> Collection[Hashable]:
            return waiting

        actors = {name: (lambda name=name: work(name)) for name in "ab"}
        turn = iter("abab")
        turns = await conductor.play(actors, lambda _: next(turn), blocked=blocked, look_again_s=0.001)
        assert [(turn.actor, turn.point) for turn in turns] == [
            ("a", "start"),
            ("b", "start"),
            ("a", "has the lock"),
            ("b", "has the lock"),
        ]

    async def test_a_deadlock_is_found_and_named(self) -> None:
        conductor, one, two = Conductor(), trio.Lock(), trio.Lock()

        async def work(first: trio.Lock, second: trio.Lock) -> None:
            async with first:
                await conductor.point("first")
                async with second:
                    await conductor.point("second")

        turn = iter(["ab", "ba", "ab", "ba"])
        with pytest.raises(ExceptionGroup) as caught:
            await conductor.play(
                {"ab": lambda: work(one, two), "ba": lambda: work(two, one)},
                lambda parked: next(turn) if len(parked) > 1 else parked[0],
                blocked=_eventually(["ab"], ["ab", "ba"]),
                look_again_s=0.001,
            )
        assert caught.group_contains(Stuck, match="ab")

    async def test_what_an_actor_raises_leaves_the_play(self) -> None:
        async def fail() -> None:
            raise LookupError("broken")

        with pytest.raises(ExceptionGroup) as caught:
            await Conductor().play({"a": fail}, lambda parked: parked[0])
        assert caught.group_contains(LookupError, match="broken")


def _eventually(*answers: list[str]) -> Callable[[], object]:
    script = list(answers)

    async def blocked() -> list[str]:
        return script.pop(0) if len(script) > 1 else script[0]

    return blocked
