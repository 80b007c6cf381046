"""Clearing on a real database: tries, branches, limits, what becomes of a running attempt, and what is refused."""

from datetime import UTC, datetime, timedelta

import pytest

from scheduler.commands import Choice, CommandError
from scheduler.commands.clear import clear_tasks
from scheduler.commands.pools import set_parallelism
from scheduler.decisions.clearing import FAILURES, Selection
from scheduler.model import Dag, OutcomeKind, RetryPolicy, Task, TaskKind
from scheduler.procedures.settle import Verdict
from scheduler.routines.rescue import Stuck, rescue_lost, rescue_stuck
from scheduler.routines.start_runs import start_queued_runs
from scheduler.routines.time_out_runs import time_out_due_runs
from tests.world import NEVER, World, chain, fan, open_world


def some(*tasks: str, **options: object) -> Selection:
    return Selection(tasks=frozenset(tasks) if tasks else None, **options)  # type: ignore[arg-type]


async def clear(
    world: World,
    dag_id: str,
    run_id: str,
    *tasks: str,
    past: bool = False,
    future: bool = False,
    dry_run: bool = False,
    **options: object,
) -> dict[str, dict[str, str]]:
    """What became of the tasks, by run and task."""
    choice = Choice(dag_id=dag_id, run_id=run_id, selection=some(*tasks, **options), past=past, future=future)
    done = await world.commands.clear(world.store, choice=choice, dry_run=dry_run)
    return {one.run_id: {task.task_id: str(task.after) for task in one.tasks} for one in done}


async def start_runs(world: World) -> None:
    await world.store.transact(start_queued_runs, world.graphs, 100)
    await world.judge()


async def tries(world: World) -> list[tuple[str, int, str]]:
    rows = await world.rows(
        "SELECT ti.task_id, a.try_number, a.state FROM attempt a JOIN task_instance ti ON ti.id = a.ti_id"
        " ORDER BY a.queued_at, a.try_number"
    )
    return [(row["task_id"], row["try_number"], row["state"]) for row in rows]


async def test_a_success_that_is_cleared_has_all_its_retries_again(dsn: str) -> None:
    """retries 2, success at try 1, cleared, always failing: tries 2, 3, 4, then failed."""
    async with open_world(dsn) as world:
        await world.put(chain(1, retry=RetryPolicy(retries=2, delay=60)))
        run = await world.trigger("chain")
        await world.round(result="1")
        assert await world.run_state(run) == "success"
        assert await clear(world, "chain", run, "t0") == {run: {"t0": "none"}}
        (row,) = await world.rows("SELECT state, start_date, end_date, verdict, clear_count, queued_at FROM dag_run")
        assert (row["state"], row["start_date"], row["end_date"], row["clear_count"]) == ("queued", None, None, 1)
        await start_runs(world)
        for _ in range(3):
            assert await world.round(OutcomeKind.FAILED, reason="exception") == ["t0"]
            world.later(seconds=61)
        assert await world.round() == []
        assert await tries(world) == [
            ("t0", 1, "success"),
            ("t0", 2, "failed"),
            ("t0", 3, "failed"),
            ("t0", 4, "failed"),
        ]
        assert await world.states(run) == {"t0": "failed"}
        assert await world.run_state(run) == "failed"
        assert await world.rows("SELECT 1 FROM xcom") == [], "try 2 forgot what try 1 returned"


async def test_a_child_that_the_branch_did_not_choose_is_skipped_again(dsn: str) -> None:
    async with open_world(dsn) as world:
        tasks = (
            Task(task_id="branch", kind=TaskKind.BRANCH),
            Task(task_id="a", upstream=("branch",)),
            Task(task_id="b", upstream=("branch",)),
        )
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=tasks))
        run = await world.trigger("d")
        await world.round(decision={"followed": ["a"]})
        await world.round()
        assert await world.states(run) == {"branch": "success", "a": "success", "b": "skipped"}
        await clear(world, "d", run, "b")
        await start_runs(world)
        assert await world.states(run) == {"branch": "success", "a": "success", "b": "skipped"}
        assert await world.run_state(run) == "success"
        await clear(world, "d", run, "branch", downstream=True)
        await start_runs(world)
        await world.round(decision={"followed": ["b"]})
        assert await world.states(run) == {"branch": "success", "a": "skipped", "b": "scheduled"}


async def test_what_is_cleared_while_it_runs_is_run_again_whatever_the_old_attempt_reports(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(2, retry=RetryPolicy(retries=1, delay=60)))
        run = await world.trigger("chain")
        old = await world.admit()
        await world.start(old)
        assert await clear(world, "chain", run, "t0") == {run: {"t0": "none"}}
        assert await world.states(run) == {"t0": "restarting", "t1": "none"}
        await world.judge()
        assert await world.admit() == []
        assert await world.start(old) == [], "no answer: a refusal would let it leave without a report"
        assert not (await world.advance(old, result="1")).answers, "the short way is not for it"
        assert await world.end(old, result='"of the old one"') == {old[0].token: Verdict.REFUSED}
        assert await world.states(run) == {"t0": "none", "t1": "none"}
        assert await world.end(old, result='"of the old one"') == {old[0].token: Verdict.REFUSED}
        await world.judge()
        (new,) = await world.admit()
        assert (new.task_id, new.try_number, new.max_tries) == ("t0", 2, 2)
        await world.start([new])
        await world.end([new], result='"of the new one"')
        assert await world.rows("SELECT value FROM xcom") == [{"value": '"of the new one"'}]
        assert await tries(world) == [("t0", 1, "revoked"), ("t0", 2, "success")]
        assert await world.run_state(run) == "running", "a run that was not over keeps its state"
        assert (await world.rows("SELECT clear_count FROM dag_run"))[0]["clear_count"] == 0


async def test_a_cleared_attempt_whose_worker_dies_is_let_go_when_its_lease_has_ended(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(1))
        run = await world.trigger("chain")
        await world.start(await world.admit())
        await clear(world, "chain", run)
        world.later(seconds=16)
        await world.store.transact(rescue_lost, world.graphs, 10)
        assert await world.states(run) == {"t0": "none"}
        assert await world.round() == ["t0"]
        assert await world.run_state(run) == "success"


async def test_a_restarting_task_holds_its_slot(dsn: str) -> None:
    async with open_world(dsn) as world:
        await set_parallelism(world.store, slots=1)
        await world.put(fan(1))
        run = await world.trigger("fan")
        old = await world.admit()
        await world.start(old)
        await clear(world, "fan", run, "first")
        other = await world.trigger("fan")
        await world.judge()
        assert await world.admit() == []
        await world.end(old, OutcomeKind.FAILED, reason="cancelled")
        await world.judge()
        assert len(await world.admit()) == 1
        assert await world.run_state(other) == "running"


async def test_a_queued_attempt_that_is_cleared_can_neither_start_nor_report(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(1, retry=RetryPolicy(retries=1)))
        run = await world.trigger("chain")
        old = await world.admit()
        await clear(world, "chain", run)
        assert await world.states(run) == {"t0": "none"}
        (answer,) = await world.start(old)
        assert "history" in answer.reason
        assert await world.end(old, OutcomeKind.FAILED) == {old[0].token: Verdict.REFUSED}
        assert await world.store.transact(rescue_stuck, world.graphs, [], 10) == Stuck(taken_back=0)
        await world.judge()
        (new,) = await world.admit()
        assert (new.try_number, new.max_tries) == (2, 2)


async def test_everything_below_or_above_and_only_what_failed(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(fan(3))
        run = await world.trigger("fan")
        await world.round()
        workloads = await world.admit()
        await world.start(workloads)
        await world.end(workloads[:1])
        await world.end(workloads[1:], OutcomeKind.FAILED)
        await world.judge()
        before = await world.states(run)
        assert sorted(before.values()) == ["failed", "failed", "success", "success", "upstream_failed"]
        failed = {name for name, state in before.items() if state in ("failed", "upstream_failed")}
        seen = await clear(world, "fan", run, only=FAILURES, dry_run=True)
        assert seen[run].keys() == failed
        assert await world.states(run) == before
        assert await world.run_state(run) == "failed"
        assert (await clear(world, "fan", run, "m1", upstream=True, dry_run=True))[run].keys() == {"first", "m1"}
        assert (await clear(world, "fan", run, "m1", downstream=True, dry_run=True))[run].keys() == {"m1", "last"}
        assert (await clear(world, "fan", run, only=FAILURES))[run].keys() == failed
        await start_runs(world)
        assert {*await world.round(), *await world.round()} == failed
        assert await world.run_state(run) == "success"


async def test_a_cleared_run_is_queued_and_starts_within_its_dags_limit(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(1, retry=RetryPolicy()), file="a.py")
        await world.put(Dag(dag_id="one", schedule=NEVER, tasks=(Task(task_id="t"),), max_active_runs=1))
        first = await world.trigger("one")
        await world.round()
        await world.trigger("one")
        await clear(world, "one", first)
        await start_runs(world)
        assert await world.run_state(first) == "queued"
        await world.round()
        await start_runs(world)
        assert await world.run_state(first) == "running"


async def test_the_limit_of_time_begins_anew_with_the_run(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=(Task(task_id="t"),), dagrun_timeout=100))
        run = await world.trigger("d")
        world.later(seconds=50)
        await world.round()
        world.later(seconds=40)
        await clear(world, "d", run)
        await start_runs(world)
        world.later(seconds=20)
        await world.store.transact(time_out_due_runs, 10)
        assert await world.states(run) == {"t": "scheduled"}, "110 s after its first start, 20 after its second"
        world.later(seconds=81)
        await world.store.transact(time_out_due_runs, 10)
        await world.judge()
        assert await world.run_state(run) == "failed"


async def test_a_cancelled_run_that_is_cleared_runs_as_if_it_had_never_been_cancelled(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(2))
        run = await world.trigger("chain")
        workloads = await world.admit()
        await world.start(workloads)
        await world.commands.cancel_run(world.store, run_id=run)
        with pytest.raises(CommandError, match="being ended: cancelled") as refused:
            await clear(world, "chain", run)
        assert refused.value.code == "conflict"
        await world.end(workloads, OutcomeKind.FAILED, reason="cancelled")
        await world.judge()
        assert await world.run_state(run) == "failed"
        await clear(world, "chain", run)
        await start_runs(world)
        await world.round()
        await world.round()
        assert await world.run_state(run) == "success"


async def test_a_restarting_task_in_a_run_that_is_cancelled_is_skipped_when_its_attempt_has_ended(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(1))
        run = await world.trigger("chain")
        old = await world.admit()
        await world.start(old)
        await clear(world, "chain", run)
        await world.commands.cancel_run(world.store, run_id=run)
        await world.judge()
        assert await world.states(run) == {"t0": "restarting"}
        await world.end(old)
        await world.judge()
        assert await world.states(run) == {"t0": "skipped"}
        assert await world.run_state(run) == "failed"


async def test_past_and_future_are_counted_by_logical_date(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(2))
        dates = [datetime(2026, 1, day, tzinfo=UTC) for day in (3, 1, 2)]
        third, first, second = [await world.trigger("chain", logical_date=date) for date in dates]
        undated = await world.trigger("chain")
        for _ in range(2):
            await world.round()
        assert (await clear(world, "chain", second, "t1", past=True, dry_run=True)).keys() == {first, second}
        assert (await clear(world, "chain", second, "t1", future=True, dry_run=True)).keys() == {second, third}
        done = await clear(world, "chain", second, "t0", past=True, future=True, downstream=True)
        assert done == {run: {"t0": "none", "t1": "none"} for run in (first, second, third)}
        assert await world.run_state(undated) == "success"
        with pytest.raises(CommandError, match="no logical date") as refused:
            await clear(world, "chain", undated, past=True)
        assert refused.value.code == "usage"


async def test_large_selections_are_cut_into_transactions(dsn: str) -> None:
    async with open_world(dsn) as world:
        await set_parallelism(world.store, slots=-1)
        await world.put(chain(1))
        start = datetime(2026, 1, 1, tzinfo=UTC)
        names = [await world.trigger("chain", logical_date=start + timedelta(days=n)) for n in range(45)]
        committed: list[str] = []

        class Watch:
            async def before(self, transaction: object, text: str) -> None: ...

            async def after(self, transaction: object, text: str) -> None:
                if text == "COMMIT":
                    committed.append(transaction.name)  # type: ignore[attr-defined]

        world.store.stepper = Watch()  # type: ignore[assignment]
        done = await clear(world, "chain", names[0], future=True)
        assert done.keys() == set(names)
        assert committed == ["clear_tasks"] * 3, "twenty runs at once"


async def test_what_is_unknown_is_refused_and_what_is_as_wanted_left_alone(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(2))
        run = await world.trigger("chain")
        with pytest.raises(CommandError, match="no task 'nobody'"):
            await clear(world, "chain", run, "t0", "nobody")
        with pytest.raises(CommandError, match="There is no run"):
            await clear(world, "chain", "never")
        await world.round()
        await world.round()
        assert await clear(world, "chain", run, only=FAILURES) == {run: {}}
        assert await world.run_state(run) == "success", "nothing was cleared, so it is over as before"


async def test_a_picture_of_a_run_is_old_once_the_run_was_cleared(dsn: str) -> None:
    async with open_world(dsn) as world, open_world(dsn) as other:
        await world.put(fan(2))
        run = await world.trigger("fan")
        await world.round()
        await other.judge()  # has seen nothing of it; its own picture would be of no use
        await clear(other, "fan", run, "first")
        assert (await world.states(run))["first"] == "none"
        await world.judge()
        assert (await world.states(run))["first"] == "scheduled"
        assert "first" in await world.round()


async def test_keys_that_are_gone_change_nothing(dsn: str) -> None:
    async with open_world(dsn) as world:
        assert await world.store.transact(clear_tasks, world.graphs, [10**9], some()) == []
