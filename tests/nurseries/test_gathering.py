"""Group commit: who is carried with whom, what each is told, and what a cancel means at every instant."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio
import trio.testing
from attrs import define, field

from nurseries.gathering import LATER, Gathering, Later


class Refused(Exception):
    """For everybody."""


class Broken(Exception):
    """By one request."""


Take = Callable[[], Sequence[Any]]


@define(eq=False)
class Work:
    """Something that takes as long as the test wants, and remembers what was done."""

    at_most: int = 100
    batches: list[list[str]] = field(factory=list)
    """What was begun."""
    done: list[str] = field(factory=list)
    begun: trio.Event = field(factory=trio.Event)
    go: trio.Event = field(factory=trio.Event)
    later: set[str] = field(factory=set)
    gathering: "Gathering[str, str]" = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.gathering = Gathering(
            carry=self.carry, choose=lambda waiting: min(self.at_most, len(waiting)), shared=(Refused,)
        )

    async def carry(self, take: Take) -> list[str | Exception | Later]:
        await trio.lowlevel.checkpoint_if_cancelled()  # as a transaction: cancelled before it, or not at all
        requests = take()
        self.batches.append(list(requests))
        with trio.CancelScope(shield=True):
            self.begun.set()
            await self.go.wait()
        if "refused" in requests:
            raise Refused
        if "broken" in requests:
            raise Broken(*requests)
        answers: list[str | Exception | Later] = []
        for one in requests:
            if one in self.later and one != requests[0]:
                answers.append(LATER)
            elif one == "unlucky":
                answers.append(KeyError(one))
            else:
                self.done.append(one)
                answers.append(f"done {one}")
        return answers


async def ask(work: Work, name: str, told: dict[str, str | Exception]) -> None:
    try:
        told[name] = await work.gathering.ask(name)
    except (Refused, Broken, KeyError) as error:
        told[name] = error


async def all_wait(work: Work, count: int) -> None:
    """Until so many are in the queue behind what is under way."""
    await trio.testing.wait_all_tasks_blocked()
    assert len(work.gathering._waiting) == count


async def play(work: Work, names: Sequence[str]) -> dict[str, str | Exception]:
    """The first alone, and the others while it is under way."""
    told: dict[str, str | Exception] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, work, names[0], told)
        await work.begun.wait()
        for name in names[1:]:
            nursery.start_soon(ask, work, name, told)
            await trio.testing.wait_all_tasks_blocked()  # in this order
        work.go.set()
    assert work.gathering.is_idle
    return told


async def test_a_lone_request_is_carried_at_once() -> None:
    work = Work()
    work.go.set()
    assert await work.gathering.ask("a") == "done a"
    assert await work.gathering.ask("b") == "done b"
    assert work.batches == [["a"], ["b"]]
    assert work.gathering.is_idle


async def test_what_comes_while_one_is_under_way_goes_together() -> None:
    work = Work()
    told = await play(work, "abcd")
    assert work.batches == [["a"], ["b", "c", "d"]]
    assert told == {name: f"done {name}" for name in "abcd"}


async def test_as_many_go_together_as_are_chosen() -> None:
    work = Work(at_most=2)
    await play(work, "abcdef")
    assert work.batches == [["a"], ["b", "c"], ["d", "e"], ["f"]]


async def test_one_that_is_left_for_later_keeps_its_place() -> None:
    work = Work(at_most=3, later={"c", "d"})
    told = await play(work, "abcdef")
    assert work.batches == [["a"], ["b", "c", "d"], ["c", "d", "e"], ["d", "f"]]
    assert told == {name: f"done {name}" for name in "abcdef"}


async def test_an_answer_may_be_an_exception_for_one() -> None:
    work = Work()
    told = await play(work, ["a", "b", "unlucky", "c"])
    assert isinstance(told.pop("unlucky"), KeyError)
    assert told == {name: f"done {name}" for name in "abc"}
    assert len(work.batches) == 2


async def test_one_that_cannot_be_carried_does_not_fail_the_others() -> None:
    work = Work()
    told = await play(work, ["a", "b", "broken", "c"])
    assert work.batches == [["a"], ["b", "broken", "c"], ["b"], ["broken"], ["c"]]
    broken = told.pop("broken")
    assert isinstance(broken, Broken)
    assert broken.args == ("broken",)
    assert told == {name: f"done {name}" for name in "abc"}


async def test_who_comes_while_they_are_tried_one_by_one_waits_for_the_next_batch() -> None:
    work = Work()
    told: dict[str, str | Exception] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, work, "a", told)
        await work.begun.wait()
        for name in ("broken", "b"):
            nursery.start_soon(ask, work, name, told)
        await all_wait(work, 2)
        while len(work.batches) < 3:  # a, both together, one of them alone
            work.begun, before = trio.Event(), work.go
            work.go = trio.Event()
            before.set()
            await work.begun.wait()
        for name in ("c", "d"):
            nursery.start_soon(ask, work, name, told)
        await all_wait(work, 3)
        work.go.set()
    assert [len(batch) for batch in work.batches] == [1, 2, 1, 1, 2]
    assert set(work.batches[-1]) == {"c", "d"}
    assert isinstance(told["broken"], Broken)


async def test_what_is_refused_for_all_is_not_tried_again() -> None:
    work = Work()
    told = await play(work, ["a", "b", "refused"])
    assert len(work.batches) == 2
    assert isinstance(told["b"], Refused)
    assert isinstance(told["refused"], Refused)


async def test_cancelled_while_it_waits_it_is_never_carried() -> None:
    work = Work()
    told: dict[str, str | Exception] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, work, "a", told)
        await work.begun.wait()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(ask, work, "b", told)
                await all_wait(work, 1)
                scope.cancel()
        assert scope.cancelled_caught
        work.go.set()
    assert work.done == ["a"]
    assert work.gathering.is_idle


async def test_cancelled_while_it_is_carried_its_caller_learns_what_became_of_it() -> None:
    work = Work()
    told: dict[str, str | Exception] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, work, "a", told)
        await work.begun.wait()
        scopes = {name: trio.CancelScope() for name in "bc"}

        async def asked(name: str) -> None:
            with scopes[name]:
                await ask(work, name, told)

        for name in "bc":
            nursery.start_soon(asked, name)
            await trio.testing.wait_all_tasks_blocked()
        work.begun, before = trio.Event(), work.go
        work.go = trio.Event()
        before.set()
        await work.begun.wait()  # b leads, and carries c
        for scope in scopes.values():
            scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert set(told) == {"a"}, "nobody has left"
        work.go.set()
    assert told == {name: f"done {name}" for name in "abc"}


async def test_until_the_work_takes_them_they_may_come_and_go() -> None:
    """The leader too: the next one leads."""
    begun, go = trio.Event(), trio.Event()
    batches: list[list[str]] = []

    async def carry(take: Take) -> list[str | Exception | Later]:
        begun.set()
        await go.wait()  # as for a connection: cancelled here, nothing has happened
        batches.append(list(take()))
        assert take() == batches[-1], "the same ever after"
        return [f"done {one}" for one in batches[-1]]

    gathering: Gathering[str, str] = Gathering(carry=carry, choose=len)
    told: dict[str, str] = {}
    scopes = {name: trio.CancelScope() for name in "abcde"}

    async def asked(name: str) -> None:
        with scopes[name]:
            told[name] = await gathering.ask(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(asked, "a")
        await begun.wait()
        for name in "bcd":
            nursery.start_soon(asked, name)
            await trio.testing.wait_all_tasks_blocked()
        begun = trio.Event()
        scopes["a"].cancel()
        await begun.wait()  # b leads
        for name in "cb":
            scopes[name].cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert scopes[name].cancelled_caught
        nursery.start_soon(asked, "e")
        await trio.testing.wait_all_tasks_blocked()
        go.set()
    assert batches == [["d", "e"]]
    assert told == {"d": "done d", "e": "done e"}
    assert gathering.is_idle


async def test_work_cut_off_before_anything_happened_gives_back_what_it_took() -> None:
    """Whoever was cancelled meanwhile withdraws then."""
    taken = [trio.Event() for _ in range(3)]
    go = [trio.Event() for _ in range(3)]
    batches: list[list[str]] = []

    async def carry(take: Take) -> list[str | Exception | Later]:
        turn = len(batches)
        batches.append(list(take()))
        taken[turn].set()
        await go[turn].wait()
        return [f"done {one}" for one in batches[turn]]

    gathering: Gathering[str, str] = Gathering(carry=carry, choose=len)
    told: dict[str, str] = {}
    scopes = {name: trio.CancelScope() for name in "abcd"}

    async def asked(name: str) -> None:
        with scopes[name]:
            told[name] = await gathering.ask(name)

    async with trio.open_nursery() as nursery:
        for name in "abcd":
            nursery.start_soon(asked, name)
            await trio.testing.wait_all_tasks_blocked()
        go[0].set()
        await taken[1].wait()
        scopes["c"].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not scopes["c"].cancelled_caught, "held: b may have done it for c"
        scopes["b"].cancel()
        await taken[2].wait()
        go[2].set()
    assert scopes["c"].cancelled_caught
    assert batches == [["a"], ["b", "c", "d"], ["d"]]
    assert told == {"a": "done a", "d": "done d"}
    assert gathering.is_idle


async def test_an_error_before_anything_was_taken_is_for_all_who_wait() -> None:
    """An outage is not waited for by one after the other."""
    go = trio.Event()
    calls = 0

    async def carry(take: Take) -> list[str | Exception | Later]:
        nonlocal calls
        calls += 1
        await go.wait()
        raise Refused

    gathering: Gathering[str, str] = Gathering(carry=carry, choose=len, shared=(Refused,))
    refused: list[str] = []

    async def asked(name: str) -> None:
        with pytest.raises(Refused):
            await gathering.ask(name)
        refused.append(name)

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(asked, name)
        await trio.testing.wait_all_tasks_blocked()
        go.set()
    assert calls == 1
    assert sorted(refused) == ["a", "b", "c"]


@pytest.mark.parametrize("seed", range(20))
async def test_a_storm_of_cancels_leaves_nobody_in_doubt(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """Whoever was told "done" was carried to the end exactly once; whoever was cancelled never was."""
    rng = random.Random(seed)
    done: list[int] = []

    async def carry(take: Take) -> list[int | Exception | Later]:
        requests: Sequence[int] = []
        if rng.random() < 0.5:
            requests = take()
        await trio.sleep(rng.random())  # may be cancelled: nothing has happened
        requests = take()
        with trio.CancelScope(shield=True):
            await trio.sleep(rng.random())
        if len(requests) > 1 and rng.random() < 0.1:
            raise Broken
        some = requests[: rng.randint(1, len(requests))]
        done.extend(some)
        return [*some, *[LATER] * (len(requests) - len(some))]

    gathering: Gathering[int, int] = Gathering(carry=carry, choose=lambda waiting: rng.randint(1, len(waiting)))
    told: set[int] = set()
    cancelled: set[int] = set()

    async def caller(name: int) -> None:
        await trio.sleep(rng.uniform(0, 20))
        was_told = False
        with trio.move_on_after(rng.expovariate(1 / 5)) as scope:
            assert await gathering.ask(name) == name
            was_told = True
        assert was_told or scope.cancelled_caught
        (told if was_told else cancelled).add(name)

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            for name in range(200):
                nursery.start_soon(caller, name)
    assert len(done) == len(set(done))
    assert set(done) == told
    assert told
    assert cancelled
    assert gathering.is_idle
