"""The writers one after another on a real database: from a trigger to the end of a run, and what fences hold."""

import pytest

from scheduler.commands import CommandError
from scheduler.model import Dag, OutcomeKind, RetryPolicy, Task, TaskKind, TriggerRule
from scheduler.procedures.settle import Verdict
from scheduler.routines.rescue import Stuck, rescue_lost, rescue_stuck
from scheduler.routines.start_runs import start_queued_runs
from scheduler.routines.time_out_runs import time_out_due_runs
from scheduler.store import seats
from tests.world import NEVER, chain, fan, open_world


async def test_a_chain_runs_in_order_and_passes_results_on(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(3))
        run = await world.trigger("chain", conf={"a": 1})
        (first,) = await world.admit()
        assert (first.task_id, first.params, first.try_number) == ("t0", {"a": 1}, 1)
        assert (await world.start([first]))[0].inputs == {}
        await world.end([first], result='{"n": [1, null]}')
        await world.judge()
        (second,) = await world.admit()
        assert second.task_id == "t1"
        assert (await world.start([second]))[0].inputs == {"t0": {"n": [1, None]}}
        await world.end([second])
        await world.judge()
        (third,) = await world.admit()
        assert (await world.start([third]))[0].inputs == {}, "a task that returned None leaves no result"
        await world.end([third])
        assert await world.run_state(run) == "running"
        await world.judge()
        assert await world.run_state(run) == "success"
        assert await world.rows("SELECT * FROM event") == []


async def test_a_fan_out_is_joined_only_when_all_have_ended(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(fan(20))
        run = await world.trigger("fan")
        assert await world.round(result="5") == ["first"]
        workloads = await world.admit()
        assert len(workloads) == 16, "max_active_tasks"
        await world.start(workloads)
        await world.end(workloads, result="1")
        assert len(await world.round(result="1")) == 4
        (last,) = await world.admit()
        (answer,) = await world.start([last])
        assert answer.inputs == {f"m{i}": 1 for i in range(20)}
        await world.end([last])
        await world.judge()
        assert await world.run_state(run) == "success"


async def test_a_failure_is_retried_when_its_time_has_come_then_fails_the_run(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(2, retry=RetryPolicy(retries=1, delay=60)))
        run = await world.trigger("chain")
        await world.round(OutcomeKind.FAILED, message="no", reason="exception")
        assert await world.states(run) == {"t0": "up_for_retry", "t1": "none"}
        assert await world.admit() == []
        world.later(seconds=59)
        assert (await world.judge()).wait == pytest.approx(1, abs=0.5)
        assert await world.admit() == []
        world.later(seconds=2)
        await world.judge()
        (again,) = await world.admit()
        assert (again.task_id, again.try_number) == ("t0", 2)
        await world.start([again])
        await world.end([again], OutcomeKind.FAILED)
        await world.judge()
        assert await world.states(run) == {"t0": "failed", "t1": "upstream_failed"}
        assert await world.run_state(run) == "failed"


async def test_a_start_is_won_once_and_asked_for_again_by_the_same_worker(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(1))
        await world.trigger("chain")
        workloads = await world.admit()
        assert [one.accepted for one in await world.start(workloads)] == [True]
        assert [one.accepted for one in await world.start(workloads)] == [True]
        (refused,) = await world.start(workloads, worker="00000000-0000-0000-0000-000000000001")
        assert not refused.accepted
        assert "another worker" in refused.reason


async def test_an_outcome_is_accepted_once_and_its_repetition_changes_nothing(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(2))
        run = await world.trigger("chain")
        workloads = await world.admit()
        await world.start(workloads)
        token = workloads[0].token
        assert await world.end(workloads, result="1") == {token: Verdict.ACCEPTED}
        assert await world.end(workloads, result="1") == {token: Verdict.REPEATED}
        assert await world.end(workloads, result="2") == {token: Verdict.REFUSED}
        assert await world.end(workloads, OutcomeKind.FAILED) == {token: Verdict.REFUSED}
        assert (await world.rows("SELECT value FROM xcom")) == [{"value": "1"}]
        await world.judge()
        assert await world.states(run) == {"t0": "success", "t1": "scheduled"}


async def test_nothing_that_was_not_started_can_succeed(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(1))
        run = await world.trigger("chain")
        workloads = await world.admit()
        assert await world.end(workloads) == {workloads[0].token: Verdict.REFUSED}
        assert await world.states(run) == {"t0": "queued"}
        assert await world.end(workloads, OutcomeKind.FAILED) == {workloads[0].token: Verdict.ACCEPTED}


async def test_a_report_about_an_attempt_that_was_lost_is_refused_and_its_successor_decides(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(1))
        run = await world.trigger("chain")
        old = await world.admit()
        await world.start(old)
        world.later(seconds=16)  # the worker's lease is 15 s
        assert await world.store.transact(rescue_lost, world.graphs, 10) == 1
        (new,) = await world.admit()
        assert (new.try_number, new.token != old[0].token) == (1, True)
        assert await world.end(old, result='"late"') == {old[0].token: Verdict.REFUSED}
        (refused,) = await world.start(old)
        assert not refused.accepted
        await world.start([new])
        await world.end([new], result='"right"')
        await world.judge()
        assert await world.run_state(run) == "success"
        assert await world.rows("SELECT value FROM xcom") == [{"value": '"right"'}]


async def test_a_task_that_loses_three_workers_fails(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(1, retry=RetryPolicy(retries=5)))
        run = await world.trigger("chain")
        for _ in range(3):
            workloads = await world.admit()
            await world.start(workloads)
            world.later(seconds=100)
            assert await world.store.transact(rescue_lost, world.graphs, 10) == 1
        await world.judge()
        assert await world.run_state(run) == "failed"


async def test_an_attempt_nobody_started_is_taken_back_after_a_while(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(1))
        world.later(seconds=0)  # from now on time passes as the test has it
        await world.trigger("chain")
        (old,) = await world.admit()
        assert await world.store.transact(rescue_stuck, world.graphs, [], 10) == Stuck(taken_back=0)
        world.later(seconds=14)
        assert await world.store.transact(rescue_stuck, world.graphs, [], 10) == Stuck(taken_back=0), "patience is 20 s"
        world.later(seconds=7)
        assert await world.store.transact(rescue_stuck, world.graphs, [], 10) == Stuck(taken_back=1)
        (new,) = await world.admit()
        assert new.token != old.token
        assert not (await world.start([old]))[0].accepted


async def test_limits_hold_for_pools_runs_and_the_installation(dsn: str) -> None:
    async with open_world(dsn) as world:
        tasks = tuple(Task(task_id=f"t{i}", pool="small" if i % 2 else "default_pool", pool_slots=2) for i in range(12))
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=tasks, max_active_tasks=7))
        await world.commands.set_pool(world.store, name="small", slots=5, description=None)
        await world.trigger("d")
        taken = await world.admit()
        assert sum(1 for one in taken if int(one.task_id[1:]) % 2) == 2, "five slots hold two tasks of two slots"
        assert len(taken) == 7
        assert await world.admit() == []
        await world.commands.set_pool(world.store, name="small", slots=-1, description=None)
        assert await world.admit() == [], "the run is full"


async def test_an_unknown_pool_admits_nothing_until_it_exists(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=(Task(task_id="a", pool="later"), Task(task_id="b"))))
        await world.trigger("d")
        assert [one.task_id for one in await world.admit()] == ["b"]
        assert await world.commands.set_pool(world.store, name="later", slots=1, description="x") is True
        assert [one.task_id for one in await world.admit()] == ["a"]


async def test_a_pool_is_deleted_only_when_no_unfinished_task_needs_it(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.commands.set_pool(world.store, name="p", slots=1, description=None)
        tasks = (Task(task_id="a"), Task(task_id="b", upstream=("a",), pool="p"))
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=tasks))
        run = await world.trigger("d")
        with pytest.raises(CommandError, match="needed by 1 tasks"):
            await world.commands.delete_pool(world.store, name="p")
        await world.round()
        await world.round()
        assert await world.run_state(run) == "success"
        await world.commands.delete_pool(world.store, name="p")
        with pytest.raises(CommandError, match="no pool"):
            await world.commands.delete_pool(world.store, name="p")


async def test_priority_decides_who_is_admitted_first(dsn: str) -> None:
    async with open_world(dsn) as world:
        tasks = tuple(Task(task_id=f"t{i}", priority_weight=i) for i in range(5))
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=tasks))
        await world.trigger("d")
        assert [one.task_id for one in await world.admit(2)] == ["t4", "t3"]


async def test_max_active_runs_keeps_later_runs_queued_until_one_ends(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=(Task(task_id="a"),), max_active_runs=1))
        first, second = await world.trigger("d"), await world.trigger("d")
        assert [await world.run_state(first), await world.run_state(second)] == ["running", "queued"]
        await world.store.transact(start_queued_runs, world.graphs, 10)
        assert await world.run_state(second) == "queued"
        await world.round()
        await world.store.transact(start_queued_runs, world.graphs, 10)
        assert await world.run_state(second) == "running"
        assert await world.round() == ["a"]
        assert await world.run_state(second) == "success"


async def test_a_paused_dag_starts_nothing_takes_in_outcomes_and_goes_on_when_unpaused(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(2))
        run = await world.trigger("chain")
        workloads = await world.admit()
        await world.start(workloads)
        await world.commands.pause(world.store, dag_id="chain", paused=True)
        await world.end(workloads)
        await world.judge()
        assert await world.states(run) == {"t0": "success", "t1": "none"}
        queued = await world.trigger("chain")
        assert await world.run_state(queued) == "queued"
        await world.commands.pause(world.store, dag_id="chain", paused=False)
        await world.judge()
        await world.store.transact(start_queued_runs, world.graphs, 10)
        await world.judge()
        assert sorted(one.task_id for one in await world.admit()) == ["t0", "t1"]


async def test_cancelling_a_run_revokes_what_is_queued_and_asks_for_the_end_of_what_runs(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(fan(3))
        run = await world.trigger("fan")
        await world.round()
        workloads = await world.admit()
        running, queued = workloads[:1], workloads[1:]
        await world.start(running)
        await world.commands.cancel_run(world.store, run_id=run)
        assert not any(answer.accepted for answer in await world.start(queued))
        await world.judge()
        assert await world.run_state(run) == "running", "it ends with its last attempt"
        (asked,) = await world.rows("SELECT token FROM attempt WHERE cancel_requested_at IS NOT NULL")
        assert str(asked["token"]) == running[0].token
        await world.end(running, OutcomeKind.FAILED, reason="cancelled")
        await world.judge()
        assert await world.run_state(run) == "failed"
        assert set((await world.states(run)).values()) == {"success", "failed", "skipped"}
        with pytest.raises(CommandError, match="ended already"):
            await world.commands.cancel_run(world.store, run_id=run)


async def test_a_queued_run_is_cancelled_at_once(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(2))
        await world.commands.pause(world.store, dag_id="chain", paused=True)
        run = await world.trigger("chain")
        await world.commands.cancel_run(world.store, run_id=run)
        assert await world.run_state(run) == "failed"
        assert set((await world.states(run)).values()) == {"skipped"}


async def test_a_run_that_is_out_of_time_fails_after_its_running_attempts_have_ended(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=chain(2).tasks, dagrun_timeout=30))
        run = await world.trigger("d")
        workloads = await world.admit()
        await world.start(workloads)
        first = await world.store.transact(time_out_due_runs, 10)
        assert first.wait == pytest.approx(30, abs=2)
        world.later(seconds=31)
        assert (await world.store.transact(time_out_due_runs, 10)).seen == 1
        await world.end(workloads)
        await world.judge()
        assert await world.run_state(run) == "failed"
        assert (await world.rows("SELECT verdict FROM dag_run"))[0]["verdict"] == "timeout"


async def test_branches_and_empty_tasks(dsn: str) -> None:
    async with open_world(dsn) as world:
        tasks = (
            Task(task_id="pick", kind=TaskKind.BRANCH),
            Task(task_id="left", upstream=("pick",), kind=TaskKind.EMPTY),
            Task(task_id="right", upstream=("pick",)),
            Task(task_id="join", upstream=("left", "right"), trigger_rule=TriggerRule.NONE_FAILED),
        )
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=tasks))
        run = await world.trigger("d")
        workloads = await world.admit()
        await world.start(workloads)
        await world.end(workloads, result='"left"', decision={"followed": ["left"]})
        await world.judge()
        assert await world.states(run) == {
            "pick": "success",
            "left": "success",
            "right": "skipped",
            "join": "scheduled",
        }


async def test_an_empty_dag_and_one_of_empty_tasks_succeed_by_themselves(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(
            Dag(dag_id="nothing", schedule=NEVER, tasks=()),
            Dag(dag_id="empty", schedule=NEVER, tasks=(Task(task_id="a", kind=TaskKind.EMPTY),)),
        )
        runs = [await world.trigger("nothing"), await world.trigger("empty")]
        await world.judge()
        assert [await world.run_state(run) for run in runs] == ["success", "success"]


async def test_what_cannot_be_triggered_is_refused_with_a_sentence(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(1))
        with pytest.raises(CommandError, match="There is no dag 'nope'"):
            await world.trigger("nope")
        run = await world.trigger("chain", run_id="mine")
        assert run == "mine"
        with pytest.raises(CommandError, match="already has a run"):
            await world.trigger("chain", run_id="mine")
        with pytest.raises(CommandError, match="taken by the schedule"):
            await world.trigger("chain", run_id="scheduled__x")
        with pytest.raises(CommandError, match="run_id"):
            await world.trigger("chain", run_id="../../etc/passwd\n")


async def test_what_postgresql_cannot_store_does_not_stop_the_daemon(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(1))
        with pytest.raises(CommandError, match="NUL"):
            await world.trigger("chain", conf={"a": ["\x00"]})
        await world.trigger("chain")
        workloads = await world.admit()
        await world.start(workloads)
        await world.end(workloads, OutcomeKind.FAILED, message="a\x00b" + "x" * 10_000, reason="exception")
        (row,) = await world.rows("SELECT message FROM attempt")
        assert row["message"].startswith("a\N{REPLACEMENT CHARACTER}bxxx")


async def test_a_stale_picture_is_noticed_and_nothing_is_written_from_it(dsn: str) -> None:
    """Another daemon has changed the run since this one looked: seq differs, or the rows do."""
    async with open_world(dsn) as world, open_world(dsn) as other:
        await world.put(chain(3))
        run = await world.trigger("chain")
        assert await world.round() == ["t0"]
        assert await other.round() == ["t1"]
        assert await world.round() == ["t2"]
        assert await world.run_state(run) == "success"


async def test_a_lost_attempt_of_a_dead_daemon_is_taken_back_at_once(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(1))
        await world.trigger("chain")
        await world.admit()
        await seats.leave(world.store, world.daemon)
        assert await world.store.transact(rescue_stuck, world.graphs, [], 10) == Stuck(taken_back=1)
