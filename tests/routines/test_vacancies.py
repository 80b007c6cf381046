"""The end of a run is looked after only if somebody may wait for it, and then it always is."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from attrs import define, evolve, field

from nurseries.routine import Routine
from nurseries.switchboard import Switchboard, Wakeup
from scheduler.executors.base import Executor
from scheduler.loading.sources import PinnedSources
from scheduler.model import Catchup, Dag, Task
from scheduler.procedures.dispatch import Dispatch
from scheduler.procedures.vacancies import Company, Vacancies
from scheduler.routines.create_runs import CreateRuns
from scheduler.routines.start_runs import StartRuns
from scheduler.store.writer import Transaction
from tests.world import World, chain, every, open_world


@define(eq=False)
class Runner:
    """Steps a routine when it is poked, as the supervisor does; counts its looks."""

    world: World
    routine: Routine
    wakeup: Wakeup
    looks: int = 0

    async def run(self) -> int:
        """Until nobody pokes any more; how often it looked."""
        self.looks = 0
        while self.wakeup.is_poked:
            self.wakeup.forget()
            before = self.world.store.transactions
            await self.routine.step()
            self.looks += self.world.store.transactions > before
        return self.looks


def start_runs(world: World, switchboard: Switchboard, company: Company) -> Runner:
    world.store.poke = switchboard.poke
    vacancies = Vacancies(told=switchboard.subscribe(*StartRuns.waits_by), company=company)
    routine = StartRuns(store=world.store, graphs=world.graphs, vacancies=vacancies)
    return Runner(world, routine, switchboard.subscribe(*StartRuns.wakes_on))


def create_runs(world: World, switchboard: Switchboard, company: Company, folder: Path) -> Runner:
    world.store.poke = switchboard.poke
    vacancies = Vacancies(told=switchboard.subscribe(*CreateRuns.waits_by), company=company)
    dispatch = Dispatch(
        store=world.store,
        executor=Nobody(),  # type: ignore[arg-type]
        place=world.place,
        pictures=world.pictures,
        sources=PinnedSources(folder),
    )
    routine = CreateRuns(store=world.store, graphs=world.graphs, dispatch=dispatch, vacancies=vacancies)
    return Runner(world, routine, switchboard.subscribe(*CreateRuns.wakes_on))


class Nobody:
    """An executor without workers."""

    def berths(self) -> list[Executor]:
        return []


async def finish_one(world: World) -> None:
    """One run of one task comes to its end."""
    workloads = await world.admit(1)
    await world.start(workloads)
    await world.end(workloads)
    await world.judge()


async def states(world: World) -> list[str]:
    return sorted(row["state"] for row in await world.rows("SELECT state FROM dag_run"))


ALONE = Company(is_there=False)


async def test_ends_of_runs_that_nobody_waits_for_cost_start_runs_nothing(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(evolve(chain(1), max_active_runs=3))
        runner = start_runs(world, Switchboard(), ALONE)
        runner.wakeup.poke()
        assert await runner.run() == 1, "the first step looks, whatever it is for"
        for _ in range(3):
            await world.trigger("chain")
        assert await runner.run() == 0
        for _ in range(2):
            await finish_one(world)
            assert runner.wakeup.is_poked
            assert await runner.run() == 0
        for _ in range(3):
            await world.trigger("chain")
        assert await runner.run() == 1, "one had to queue"
        await finish_one(world)
        assert await runner.run() > 0
        assert await states(world) == ["running"] * 3 + ["success"] * 3
        await runner.routine.step()
        await finish_one(world)
        await finish_one(world)
        assert await runner.run() == 0, "nobody waits any more"


async def test_in_company_every_end_is_looked_after(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(1))
        company = Company()
        runner = start_runs(world, Switchboard(), company)
        runner.wakeup.poke()
        await runner.run()
        for expected in (1, 0):
            await world.trigger("chain")
            await finish_one(world)
            assert await runner.run() == expected
            company.is_there = False
            runner.wakeup.poke()
            await runner.run()


@define(eq=False)
class Meanwhile:
    """Has things happen just before given statements of one writer."""

    world: World
    writer: str
    at: dict[int, list[Callable[[], Awaitable[None]]]]
    seen: int = 0
    texts: list[str] = field(factory=list)

    async def before(self, transaction: Transaction, text: str) -> None:
        if transaction.name == self.writer:
            self.texts.append(text)
            self.seen += 1
            for happens in self.at.pop(self.seen, []):
                await self.world.bridge.call_trio(happens)

    async def after(self, transaction: Transaction, text: str) -> None:
        """Nothing."""


@pytest.mark.parametrize(("waits_at", "ends_at"), [(w, e) for w in range(5) for e in range(w, 5)])
async def test_whenever_somebody_begins_to_wait_and_whenever_a_run_ends_he_is_let_in(
    dsn: str, waits_at: int, ends_at: int
) -> None:
    """Before a look (0), before its statements and its commit (1 to 3), or after it (4): nobody is left behind."""
    async with open_world(dsn, connections=3) as world:
        await world.put(evolve(chain(1), max_active_runs=1))
        runner = start_runs(world, Switchboard(), ALONE)
        runner.wakeup.poke()
        await runner.run()
        await world.trigger("chain", run_id="first")
        await runner.run()

        async def waits() -> None:
            await world.trigger("chain", run_id="second")

        async def ends() -> None:
            await finish_one(world)

        todo: dict[int, list[Callable[[], Awaitable[None]]]] = {}
        todo.setdefault(waits_at, []).append(waits)
        todo.setdefault(ends_at, []).append(ends)
        for happens in todo.pop(0, []):
            await happens()
        after = todo.pop(4, [])
        world.store.stepper = Meanwhile(world, "start_queued_runs", todo)
        runner.routine.vacancies.told.poke()  # type: ignore[attr-defined]
        runner.wakeup.poke()
        await runner.run()
        assert not todo, "the look had as many statements"
        for happens in after:
            await happens()
        await runner.run()
        assert await states(world) == ["running", "success"]


async def test_create_runs_rests_until_a_slot_is_due_and_looks_while_a_dag_is_full(dsn: str, tmp_path: Path) -> None:
    async with open_world(dsn) as world:
        hourly = Dag(
            dag_id="hourly",
            schedule=every(3600),
            tasks=(Task(task_id="t"),),
            max_active_runs=1,
            catchup=Catchup.LAST,
        )
        await world.put(chain(1), hourly)
        runner = create_runs(world, Switchboard(), ALONE, tmp_path)
        told = runner.routine.vacancies.told  # type: ignore[attr-defined]
        runner.wakeup.poke()
        assert await runner.run() == 1
        before = len(await states(world))  # of the slot that is due at once, if there is one
        for _ in range(before):
            await finish_one(world)
        await runner.run()
        await world.trigger("chain")
        await finish_one(world)
        assert await runner.run() == 0, "no slot is due"
        done = ["success"] * (before + 1)
        world.later(seconds=3601)
        await runner.routine.step()
        assert await states(world) == done, "it rests: by trio's clock it is not time yet"
        told.poke()
        await runner.routine.step()
        assert await states(world) == ["running", *done]
        world.later(seconds=3601)
        told.poke()
        await runner.routine.step()
        assert await states(world) == ["running", *done], "full"
        await finish_one(world)
        assert await runner.run() > 0, "it has waited for that"
        assert await states(world) == ["running", *done, "success"]
