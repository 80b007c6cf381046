"""From a trigger, or a slot of the timetable, to started tasks in one transaction."""

from pathlib import Path

import pytest

from nurseries.switchboard import Switchboard
from scheduler.commands import Commands
from scheduler.loading.sources import PinnedSources
from scheduler.model import Dag, Task, TaskKind
from scheduler.procedures.dispatch import Dispatch
from scheduler.routines.create_runs import CreateRuns
from tests.stress.daemons import InstantExecutor
from tests.world import NEVER, World, chain, every, fan, open_world


def _dispatch(world: World, folder: Path, *, slots: int = 64) -> tuple[Dispatch, InstantExecutor]:
    executor = InstantExecutor(Switchboard(), worker=world.worker, slots=slots)
    sources = PinnedSources(folder)
    dispatch = Dispatch(
        store=world.store, executor=executor, place=world.place, pictures=world.pictures, sources=sources
    )
    dispatch.somebody_waits = False  # as admission has seen
    return dispatch, executor


async def test_what_is_triggered_is_running_when_the_trigger_returns(dsn: str, tmp_path: Path) -> None:
    async with open_world(dsn) as world:
        dispatch, executor = _dispatch(world, tmp_path)
        await world.put(chain(2))
        world.commands = Commands(graphs=world.graphs, dispatch=dispatch)
        before = world.store.transactions
        run = await world.trigger("chain")
        assert world.store.transactions == before + 1
        assert await world.states(run) == {"t0": "running", "t1": "none"}
        assert len(executor.outcomes) == 1
        rows = await world.rows("SELECT state, worker, daemon FROM attempt")
        assert rows == [{"state": "running", "worker": world.worker, "daemon": world.daemon}]


async def test_its_first_outcome_needs_no_look_at_the_run(dsn: str, tmp_path: Path) -> None:
    async with open_world(dsn) as world:
        dispatch, executor = _dispatch(world, tmp_path)
        await world.put(chain(2))
        world.commands = Commands(graphs=world.graphs, dispatch=dispatch)
        run = await world.trigger("chain")
        (key,) = {one.run_pk for one in dispatch.whereabouts.values()}
        memory = world.pictures.latest(key)
        assert memory is not None
        assert memory.card is not None
        assert memory.picture is not None
        assert len(memory.picture.keys) == 2
        world.whereabouts = dispatch.whereabouts
        (outcome,) = executor.outcomes.peek(10)
        (given,) = await world.rows("SELECT token FROM attempt")
        assert str(given["token"]) == outcome.token
        assert run


async def test_limits_hold_for_what_is_launched(dsn: str, tmp_path: Path) -> None:
    async with open_world(dsn) as world:
        dispatch, _ = _dispatch(world, tmp_path, slots=3)
        tasks = tuple(Task(task_id=f"t{i}", pool="two" if i < 4 else "default_pool") for i in range(6))
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=tasks))
        await world.commands.set_pool(world.store, name="two", slots=2, description=None)
        world.commands = Commands(graphs=world.graphs, dispatch=dispatch)
        run = await world.trigger("d")
        states = await world.states(run)
        assert [states[f"t{i}"] for i in range(6)] == ["running"] * 2 + ["scheduled"] * 2 + ["running", "scheduled"]
        assert "task_scheduled" in [str(one) for one in world.poked]


async def test_nobody_who_waits_is_passed_by(dsn: str, tmp_path: Path) -> None:
    """The hint says that nobody waits, and is wrong: what is launched waits its turn behind him."""
    async with open_world(dsn) as world:
        dispatch, executor = _dispatch(world, tmp_path)
        await world.put(chain(1), fan(1))
        await world.trigger("fan")
        world.commands = Commands(graphs=world.graphs, dispatch=dispatch)
        run = await world.trigger("chain")
        assert (await world.states(run))["t0"] == "scheduled"
        assert not executor.outcomes
        assert [one.dag_id for one in await world.admit(slots=1)] == ["fan"]


async def test_while_somebody_waits_there_is_no_room(dsn: str, tmp_path: Path) -> None:
    async with open_world(dsn) as world:
        dispatch, _ = _dispatch(world, tmp_path)
        assert dispatch.capacity_for_new_runs() is not None
        dispatch.somebody_waits = True
        assert dispatch.capacity_for_new_runs() is None


@pytest.mark.parametrize("paused", [False, True])
async def test_a_slot_of_the_timetable_starts_its_first_tasks(dsn: str, tmp_path: Path, paused: bool) -> None:
    async with open_world(dsn) as world:
        dispatch, executor = _dispatch(world, tmp_path)
        await world.put(Dag(dag_id="clock", schedule=every(60), tasks=(Task(task_id="t"),)))
        await world.commands.pause(world.store, dag_id="clock", paused=paused)
        world.later(seconds=61)
        await CreateRuns(store=world.store, graphs=world.graphs, dispatch=dispatch).step()
        rows = await world.rows("SELECT ti.state FROM task_instance ti")
        assert rows == ([] if paused else [{"state": "running"}])
        assert len(executor.outcomes) == len(rows)


async def test_a_run_that_is_over_at_once_is_left_to_those_who_end_runs(dsn: str, tmp_path: Path) -> None:
    async with open_world(dsn) as world:
        dispatch, _ = _dispatch(world, tmp_path)
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=(Task(task_id="e", kind=TaskKind.EMPTY),)))
        world.commands = Commands(graphs=world.graphs, dispatch=dispatch)
        run = await world.trigger("d")
        await world.judge()
        assert await world.run_state(run) == "success"
