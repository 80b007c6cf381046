"""Marking on a real database: tasks and whole runs, what is cleared below, what an attempt may still say."""

import pytest

from scheduler.commands import Choice, CommandError
from scheduler.decisions.clearing import Selection
from scheduler.model import Dag, OutcomeKind, RunState, Task, TaskKind, TaskState, TriggerRule
from scheduler.procedures.settle import Verdict
from scheduler.routines.rescue import rescue_lost
from scheduler.routines.start_runs import start_queued_runs
from tests.world import NEVER, World, chain, fan, open_world

SUCCESS, FAILED, SKIPPED = TaskState.SUCCESS, TaskState.FAILED, TaskState.SKIPPED


async def mark(
    world: World, dag_id: str, run_id: str, state: TaskState, *tasks: str, dry_run: bool = False, **options: bool
) -> dict[str, str]:
    """What became of the tasks of the run."""
    choice = Choice(dag_id=dag_id, run_id=run_id, selection=Selection(tasks=frozenset(tasks), **options))
    (done,) = await world.commands.mark(world.store, choice=choice, state=state, dry_run=dry_run)
    return {one.task_id: str(one.after) for one in done.tasks}


async def start_runs(world: World) -> None:
    await world.store.transact(start_queued_runs, world.graphs, 100)
    await world.judge()


async def test_a_failure_that_is_marked_as_success_lets_the_run_go_on_from_there(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(3))
        run = await world.trigger("chain")
        await world.round(OutcomeKind.FAILED)
        assert await world.states(run) == {"t0": "failed", "t1": "upstream_failed", "t2": "upstream_failed"}
        assert await mark(world, "chain", run, SUCCESS, "t0", dry_run=True) == {
            "t0": "success", "t1": "none", "t2": "none",
        }  # fmt: skip
        assert await world.run_state(run) == "failed"
        await mark(world, "chain", run, SUCCESS, "t0")
        assert await world.run_state(run) == "queued"
        await start_runs(world)
        assert [await world.round(), await world.round()] == [["t1"], ["t2"]]
        assert await world.run_state(run) == "success"
        assert len(await world.rows("SELECT 1 FROM attempt")) == 3, "the marked task was not run again"


async def test_the_end_of_a_run_is_judged_anew_when_nothing_is_left_to_do_in_it(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(1))
        run = await world.trigger("chain")
        await world.round(OutcomeKind.FAILED)
        ended = (await world.rows("SELECT end_date FROM dag_run"))[0]["end_date"]
        await mark(world, "chain", run, SUCCESS, "t0")
        assert await world.run_state(run) == "success"
        assert (await world.rows("SELECT end_date FROM dag_run"))[0]["end_date"] == ended
        await mark(world, "chain", run, FAILED, "t0")
        assert await world.run_state(run) == "failed"
        assert await mark(world, "chain", run, FAILED, "t0") == {}, "it is already"


@pytest.mark.parametrize("kind", [OutcomeKind.SUCCESS, OutcomeKind.FAILED, OutcomeKind.LOST])
async def test_a_running_task_gets_its_mark_when_its_attempt_has_ended(dsn: str, kind: OutcomeKind) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(2))
        run = await world.trigger("chain")
        old = await world.admit()
        await world.start(old)
        assert await mark(world, "chain", run, SUCCESS, "t0") == {"t0": "success"}
        await world.judge()
        assert await world.states(run) == {"t0": "running", "t1": "none"}, "what is below never overlaps it"
        assert not (await world.advance(old)).answers
        assert await world.end(old, kind, result='"no"') == {old[0].token: Verdict.REFUSED}
        await world.judge()
        assert await world.states(run) == {"t0": "success", "t1": "scheduled"}
        assert await world.rows("SELECT 1 FROM xcom") == []
        assert (await world.rows("SELECT state FROM attempt")) == [{"state": "revoked"}]


async def test_the_lease_of_a_dead_worker_brings_the_mark(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(2))
        run = await world.trigger("chain")
        await world.start(await world.admit())
        await mark(world, "chain", run, SKIPPED, "t0")
        world.later(seconds=16)
        await world.store.transact(rescue_lost, world.graphs, 10)
        await world.judge()
        assert await world.states(run) == {"t0": "skipped", "t1": "skipped"}


async def test_the_last_wish_counts_for_a_task_that_runs(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(1))
        run = await world.trigger("chain")
        old = await world.admit()
        await world.start(old)
        choice = Choice(dag_id="chain", run_id=run)
        await world.commands.clear(world.store, choice=choice)
        await mark(world, "chain", run, FAILED, "t0")
        await mark(world, "chain", run, SKIPPED, "t0")
        assert await world.states(run) == {"t0": "restarting"}
        await world.commands.clear(world.store, choice=choice)
        await world.end(old)
        assert await world.states(run) == {"t0": "none"}
        await world.judge()
        again = await world.admit()
        await world.start(again)
        await world.commands.clear(world.store, choice=choice)
        await mark(world, "chain", run, FAILED, "t0")
        await world.end(again)
        assert await world.states(run) == {"t0": "failed"}


async def test_a_queued_task_is_marked_at_once_and_its_attempt_cannot_start(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(2))
        run = await world.trigger("chain")
        old = await world.admit()
        await mark(world, "chain", run, SUCCESS, "t0")
        (answer,) = await world.start(old)
        assert not answer.accepted
        await world.judge()
        assert await world.states(run) == {"t0": "success", "t1": "scheduled"}


async def test_a_task_that_has_not_begun_is_marked_and_never_runs(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(fan(3))
        run = await world.trigger("fan")
        await mark(world, "fan", run, SUCCESS, "m0", "m2")
        await world.round()
        assert await world.round() == ["m1"]
        assert await world.round() == ["last"]
        assert await world.run_state(run) == "success"


async def test_a_branch_that_is_marked_as_success_has_chosen_nothing_so_all_run(dsn: str) -> None:
    async with open_world(dsn) as world:
        tasks = (
            Task(task_id="branch", kind=TaskKind.BRANCH),
            Task(task_id="a", upstream=("branch",)),
            Task(task_id="b", upstream=("branch",)),
            Task(task_id="join", upstream=("a", "b"), trigger_rule=TriggerRule.NONE_FAILED),
        )
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=tasks))
        run = await world.trigger("d")
        await world.round(OutcomeKind.FAILED)
        await mark(world, "d", run, SUCCESS, "branch")
        await start_runs(world)
        assert await world.round() == ["a", "b"]


@pytest.mark.parametrize("state", [RunState.SUCCESS, RunState.FAILED])
async def test_a_running_run_that_is_marked_ends_so_when_its_attempts_have(dsn: str, state: RunState) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(2))
        run = await world.trigger("chain")
        workloads = await world.admit()
        await world.start(workloads)
        assert await world.commands.mark_run(world.store, dag_id="chain", run_id=run, state=state) == "running"
        await world.judge()
        assert await world.run_state(run) == "running"
        with pytest.raises(CommandError, match="being ended: marked"):
            await world.commands.mark_run(world.store, dag_id="chain", run_id=run, state=state)
        with pytest.raises(CommandError, match="being ended: marked"):
            await mark(world, "chain", run, SUCCESS, "t1")
        await world.end(workloads, OutcomeKind.FAILED, reason="cancelled")
        await world.judge()
        assert await world.states(run) == {"t0": "failed", "t1": "skipped"}
        assert await world.run_state(run) == state


@pytest.mark.parametrize("state", [RunState.SUCCESS, RunState.FAILED])
async def test_a_queued_run_that_is_marked_ends_at_once(dsn: str, state: RunState) -> None:
    async with open_world(dsn) as world:
        await world.put(Dag(dag_id="one", schedule=NEVER, tasks=(Task(task_id="t"),), max_active_runs=1))
        await world.trigger("one")
        run = await world.trigger("one")
        assert await world.commands.mark_run(world.store, dag_id="one", run_id=run, state=state) == "queued"
        assert await world.states(run) == {"t": "skipped"}
        assert await world.run_state(run) == state


async def test_of_a_run_that_is_over_only_the_state_is_changed(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(1))
        run = await world.trigger("chain")
        await world.round(OutcomeKind.FAILED)
        assert (
            await world.commands.mark_run(world.store, dag_id="chain", run_id=run, state=RunState.SUCCESS) == "failed"
        )
        assert (await world.run_state(run), await world.states(run)) == ("success", {"t0": "failed"})
        with pytest.raises(CommandError, match="no run"):
            await world.commands.mark_run(world.store, dag_id="chain", run_id="x", state=RunState.SUCCESS)
