"""From the end of a task to the queueing of those below it in one transaction: the same results as the long way."""

import uuid
from collections import Counter
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from scheduler.executors.base import Berth
from scheduler.model import Dag, OutcomeKind, Task, TaskKind
from scheduler.procedures.claiming import Look
from scheduler.procedures.placement import Capacity
from scheduler.procedures.settle import Verdict
from scheduler.routines.record_outcomes import advance_runs
from scheduler.store import pools, runs, tables, tasks
from scheduler.store.locks import Lock
from scheduler.store.topics import Topic
from scheduler.store.writer import Transaction, writer
from tests.world import NEVER, chain, fan, open_world


async def test_a_chain_goes_from_end_to_end_without_an_event(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(4))
        run = await world.trigger("chain")
        workloads = await world.admit(starts=True)
        for i in range(4):
            assert [one.task_id for one in workloads] == [f"t{i}"]
            assert (await world.states(run))[f"t{i}"] == "running"
            assert workloads[0].inputs == ({f"t{i - 1}": i} if i else {})
            assert workloads[0].worker == world.worker
            done = await world.advance(workloads, result=str(i + 1))
            assert done.answers == {workloads[0].token: Verdict.ACCEPTED}
            assert await world.rows("SELECT * FROM event") == []
            workloads = list(done.placed.workloads)
        assert done.finished
        assert await world.run_state(run) == "success"


async def test_a_fan_out_respects_every_limit(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(fan(30, max_active_tasks=7))
        await world.trigger("fan")
        workloads = await world.admit()
        await world.start(workloads)
        done = await world.advance(workloads)
        assert len(done.placed.workloads) == 7
        assert await world.admit() == []
        more = await world.advance(done.placed.workloads[:3])
        assert more.placed.workloads == (), "others wait: they are admitted by priority, all together"
        assert len(await world.admit()) == 3


async def test_slots_of_the_executor_bound_it(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(fan(5))
        run = await world.trigger("fan")
        workloads = await world.admit()
        await world.start(workloads)
        done = await world.advance(workloads, slots=2)
        assert len(done.placed.workloads) == 2
        assert sorted((await world.states(run)).values()) == sorted(
            ["success", "running", "running", "scheduled", "scheduled", "scheduled", "none"]
        )


async def test_a_pool_gives_the_slots_of_what_ends_to_what_follows(dsn: str) -> None:
    async with open_world(dsn) as world:
        tasks = (Task(task_id="a", pool="one"), Task(task_id="b", pool="one", upstream=("a",)))
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=tasks))
        await world.commands.set_pool(world.store, name="one", slots=1, description=None)
        await world.trigger("d")
        workloads = await world.admit()
        await world.start(workloads)
        assert [one.task_id for one in (await world.advance(workloads)).placed.workloads] == ["b"]


async def test_a_branch_is_applied(dsn: str) -> None:
    async with open_world(dsn) as world:
        tasks = (
            Task(task_id="pick", kind=TaskKind.BRANCH),
            Task(task_id="a", upstream=("pick",)),
            Task(task_id="b", upstream=("pick",)),
        )
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=tasks))
        run = await world.trigger("d")
        workloads = await world.admit()
        await world.start(workloads)
        await world.advance(workloads, decision={"followed": ["b"]})
        assert await world.states(run) == {"pick": "success", "a": "skipped", "b": "running"}


async def test_events_that_wait_send_it_the_long_way(dsn: str) -> None:
    """The picture is behind: somebody else has ended a task of this run and left an event."""
    async with open_world(dsn) as world:
        await world.put(fan(2))
        run = await world.trigger("fan")
        await world.round()
        first, second = await world.admit()
        await world.start([first, second])
        await world.end([first])
        assert not (await world.advance([second])).answers
        await world.end([second])
        await world.judge()
        assert (await world.states(run))["last"] == "scheduled"


async def test_a_held_run_sends_it_the_long_way_without_waiting(dsn: str) -> None:
    async with open_world(dsn) as world, open_world(dsn) as other:
        await world.put(chain(2))
        await world.trigger("chain")
        workloads = await world.admit()
        await world.start(workloads)
        seen = []

        @writer(Lock.DAG_RUN)
        async def holds_the_run(tx: Transaction) -> None:
            keys = [row["id"] for row in await runs.find(tx, run_id=workloads[0].run_id, dag_id=None)]
            await tx.lock(runs.LOCK_RUN, keys=keys)
            seen.append((await other.bridge.call_trio(world.advance, workloads)).answers)

        await other.store.transact(holds_the_run)
        assert seen == [{}]


async def test_a_revoked_attempt_is_not_ended_by_it(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(2))
        await world.trigger("chain")
        workloads = await world.admit()
        await world.start(workloads)
        await world.end(workloads, OutcomeKind.LOST)
        assert not (await world.advance(workloads)).answers
        assert await world.end(workloads) == {workloads[0].token: Verdict.REFUSED}


@pytest.mark.parametrize("paused", [True, False])
async def test_a_paused_dag_goes_the_long_way(dsn: str, paused: bool) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(2))
        await world.trigger("chain")
        workloads = await world.admit()
        await world.start(workloads)
        await world.commands.pause(world.store, dag_id="chain", paused=paused)
        if not paused:
            await world.judge()
        done = await world.advance(workloads)
        assert bool(done.answers) != paused


@pytest.mark.parametrize("short", [True, False])
async def test_events_that_one_daemon_takes_in_make_the_pictures_of_the_others_old(dsn: str, short: bool) -> None:
    """Nothing follows from the first end of a fan; the join must still know of it, whoever sees the second one."""
    async with open_world(dsn) as one, open_world(dsn) as two:
        await one.put(fan(3))
        run = await one.trigger("fan")
        await one.round()
        workloads = await one.admit()
        await one.start(workloads)
        two.whereabouts.update(one.whereabouts)
        await two.end(workloads[:1])
        await two.judge()  # now both have a picture of the run
        await one.end(workloads[1:2])
        await one.judge()
        if short:
            done = await two.advance(workloads[2:])
            assert [work.task_id for work in done.placed.workloads] == ["last"]
        else:
            await two.end(workloads[2:])
            await two.judge()
            assert (await two.states(run))["last"] == "scheduled"


async def test_what_must_not_run_twice_asks_before_it_starts(dsn: str) -> None:
    """An attempt that never began must not be taken for one that did: it is only queued when it is handed over."""
    async with open_world(dsn) as world:
        await world.put(chain(2, rerun_when_lost=False))
        run = await world.trigger("chain")
        workloads = await world.admit(starts=True)
        assert (workloads[0].inputs, workloads[0].worker) == (None, None)
        assert (await world.states(run))["t0"] == "queued"
        assert [answer.accepted for answer in await world.start(workloads)] == [True]
        done = await world.advance(workloads, result="1")
        assert (await world.states(run))["t1"] == "queued"
        (answer,) = await world.start(done.placed.workloads)
        assert answer.inputs == {"t0": 1}


async def test_a_started_try_forgets_what_the_one_before_returned(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(1))
        await world.trigger("chain")
        (first,) = await world.admit(starts=True)
        key = world.whereabouts[first.token].key
        server = await world.rows("SELECT * FROM xcom")
        assert server == []
        await world.end([first], OutcomeKind.LOST)
        await world.judge()

        @writer(Lock.TASK_INSTANCE)
        async def leaves_a_result(tx: Transaction) -> None:
            await tx.lock(tasks.LOCK_KEYS, keys=[key])
            insert = sa.text("INSERT INTO xcom (ti_id, key, value) VALUES (:key, 'return_value', '1')")
            await tx.write_satellite(tables.xcom, [key], insert, {"key": key})

        await world.store.transact(leaves_a_result)
        (second,) = await world.admit(starts=True)
        assert second.token != first.token
        assert await world.rows("SELECT * FROM xcom") == []


async def test_one_run_that_is_held_does_not_hold_up_the_others(dsn: str) -> None:
    async with open_world(dsn) as world, open_world(dsn) as other:
        await world.put(chain(2))
        for name in ("one", "two"):
            await world.trigger("chain", run_id=name)
        workloads = await world.admit(starts=True)
        mine = {one.run_id: one for one in workloads}
        seen = []

        @writer(Lock.DAG_RUN)
        async def holds_one_run(tx: Transaction) -> None:
            keys = [row["id"] for row in await runs.find(tx, run_id="one", dag_id=None)]
            await tx.lock(runs.LOCK_RUN, keys=keys)
            seen.append(await other.bridge.call_trio(world.advance, workloads))

        await other.store.transact(holds_one_run)
        (done,) = seen
        assert set(done.answers) == {mine["two"].token}
        assert [(one.run_id, one.task_id) for one in done.placed.workloads] == [("two", "t1")]
        assert await world.states("one") == {"t0": "running", "t1": "none"}


async def test_a_plan_that_another_daemon_has_made_old_is_not_carried_out(dsn: str) -> None:
    async with open_world(dsn) as one, open_world(dsn) as two:
        await one.put(fan(2))
        run = await one.trigger("fan")
        await one.round()
        first, second = await one.admit(starts=True)
        turn = await one.plan([first])
        two.whereabouts.update(one.whereabouts)
        assert (await two.advance([second])).answers
        done = await one.take(turn)
        assert (done.answers, len(done.stale)) == ({}, 1)
        again = await one.advance([first])
        assert [work.task_id for work in again.placed.workloads] == ["last"]
        assert (await one.states(run))["last"] == "running"


async def test_attempts_go_where_most_room_is(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(fan(5))
        await world.trigger("fan")
        workloads = await world.admit(starts=True)
        turn = await world.plan(workloads)
        small, large = str(uuid.uuid4()), str(uuid.uuid4())
        berths = [Berth(worker_id=large, hostname="l", free=4), Berth(worker_id=small, hostname="s", free=2)]
        done = await world.store.transact(
            advance_runs, world.graphs, world.pictures, turn, Capacity(where=world.place, berths=berths), None
        )
        assert Counter(one.worker for one in done.placed.workloads) == {large: 4, small: 1}
        rows = await world.rows("SELECT worker, hostname, state FROM attempt WHERE worker <> :mine", mine=world.worker)
        assert Counter((row["worker"], row["hostname"], row["state"]) for row in rows) == {
            (large, "l", "running"): 4,
            (small, "s", "running"): 1,
        }


async def test_those_who_wait_and_those_who_have_just_become_ready_go_by_priority(dsn: str) -> None:
    """Three slots: the urgent task that has just become ready, then the two that have waited longest."""
    async with open_world(dsn) as world:
        below = (Task(task_id="urgent", upstream=("a",), priority_weight=9), Task(task_id="z", upstream=("a",)))
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=(Task(task_id="a"), *below)), fan(4))
        first = await world.trigger("d")
        running = await world.admit(starts=True)
        run = await world.trigger("fan")
        (head,) = await world.admit(starts=True)
        await world.advance([head], slots=0)
        done = await world.advance(running, slots=3, look=Look())
        assert [one.task_id for one in done.placed.workloads] == ["urgent", "z", "m0"]
        assert (done.page_is_full, done.passed_over, done.looked_at_all) == (False, True, True)
        assert await world.states(first) == {"a": "success", "urgent": "running", "z": "running"}
        assert Counter((await world.states(run)).values()) == {"success": 1, "running": 1, "scheduled": 3, "none": 1}


async def test_who_waits_in_a_run_that_somebody_holds_is_left_to_admission(dsn: str) -> None:
    async with open_world(dsn) as world, open_world(dsn) as other:
        await world.put(chain(2), fan(2))
        await world.trigger("fan", run_id="held")
        (head,) = await world.admit(starts=True)
        await world.advance([head], slots=0)
        await world.trigger("chain", run_id="mine")
        mine = [one for one in await world.admit(slots=3, starts=True) if one.run_id == "mine"]
        seen = []

        @writer(Lock.DAG_RUN)
        async def holds_a_waiting_run(tx: Transaction) -> None:
            keys = [row["id"] for row in await runs.find(tx, run_id="held", dag_id=None)]
            await tx.lock(runs.LOCK_RUN, keys=keys)
            seen.append(await other.bridge.call_trio(partial(world.advance, mine, look=Look())))

        assert len(mine) == 1
        await other.store.transact(holds_a_waiting_run)
        assert [one.task_id for one in seen[0].placed.workloads] == ["t1"]


async def test_a_pool_that_somebody_holds_is_not_waited_for(dsn: str) -> None:
    """Whoever ends tasks goes on: what needs more slots than came back is left to admission, which waits its turn."""
    async with open_world(dsn) as world, open_world(dsn) as other:
        await world.put(fan(2), chain(2))
        run = await world.trigger("fan")
        workloads = await world.admit(starts=True)
        seen: list[Any] = []

        @writer(Lock.POOL)
        async def holds_the_pool(tx: Transaction) -> None:
            await tx.lock(pools.LOCK_NAMED, names=["*", "default_pool"])
            seen.append(await other.bridge.call_trio(world.advance, workloads))
            seen.append(await other.bridge.call_trio(partial(world.launch, "chain", run_id="launched")))

        await other.store.transact(holds_the_pool)
        advanced, launched = seen
        assert advanced.answers == {workloads[0].token: Verdict.ACCEPTED}
        assert [one.task_id for one in advanced.placed.workloads] == ["m0"], "one slot came back"
        assert launched == []
        assert Counter((await world.states(run)).values()) == {"success": 1, "running": 1, "scheduled": 1, "none": 1}
        assert world.poked.count(Topic.TASK_SCHEDULED) >= 2
        admitted = await world.admit(starts=True)
        assert sorted((one.run_id, one.task_id) for one in admitted) == sorted([(run, "m1"), ("launched", "t0")])


async def test_what_takes_no_more_slots_than_it_gives_back_needs_no_pool(dsn: str) -> None:
    """The next task of a chain takes over the slot of the one before, whoever counts at this moment."""
    async with open_world(dsn) as world, open_world(dsn) as other:
        await world.commands.set_pool(world.store, name="small", slots=2, description=None)
        await world.put(chain(3, pool="small"))
        run = await world.trigger("chain")
        workloads = await world.admit(starts=True)
        seen: list[Any] = []

        @writer(Lock.POOL)
        async def counts_the_pools(tx: Transaction) -> None:
            await tx.lock(pools.LOCK_NAMED, names=["*", "default_pool", "small"])
            seen.append(await other.bridge.call_trio(world.advance, workloads))

        await other.store.transact(counts_the_pools)
        assert [one.task_id for one in seen[0].placed.workloads] == ["t1"]
        assert await world.states(run) == {"t0": "success", "t1": "running", "t2": "none"}


async def test_a_pool_made_smaller_drains(dsn: str) -> None:
    """A slot that comes back to a pool with too few is not passed on."""
    async with open_world(dsn) as world:
        await world.commands.set_pool(world.store, name="small", slots=3, description=None)
        await world.put(chain(2, pool="small"))
        for name in ("one", "two", "three"):
            await world.trigger("chain", run_id=name)
        first = await world.admit(starts=True)
        assert len(first) == 3
        await world.commands.set_pool(world.store, name="small", slots=1, description=None)
        assert (await world.advance(first[:2])).placed.workloads == ()
        assert len((await world.advance(first[2:], look=Look())).placed.workloads) == 1


async def test_results_of_what_ends_in_the_same_transaction_are_handed_on(dsn: str) -> None:
    async with open_world(dsn) as world:
        sums = Task(task_id="sum", upstream=("a", "b", "c"), inputs=("a", "b", "c"))
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=(*(Task(task_id=one) for one in "abc"), sums)))
        await world.trigger("d")
        first = {one.task_id: one for one in await world.admit(starts=True)}
        await world.advance([first["a"]], result="1")
        await world.advance([first["b"]])
        (last,) = (await world.advance([first["c"]], result='{"x": [3]}')).placed.workloads
        assert (last.task_id, last.inputs) == ("sum", {"a": 1, "c": {"x": [3]}})


async def test_slots_that_do_not_come_back_after_all_are_not_given_away(dsn: str) -> None:
    """An attempt was declared lost just before: its run goes the long way, and who waits gets one slot, not two."""
    async with open_world(dsn) as world:
        await world.commands.set_pool(world.store, name="small", slots=2, description=None)
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=tuple(Task(task_id=one, pool="small") for one in "abcd")))
        run = await world.trigger("d")
        first = await world.admit(starts=True)
        assert [one.task_id for one in first] == ["a", "b"]
        planned = await world.plan(first)
        await world.end(first[:1], OutcomeKind.LOST, reason="worker lost")
        done = await world.take(planned, look=Look())
        assert done.stale
        assert [one.task_id for one in done.placed.workloads] == ["a"]
        assert await world.states(run) == {"a": "running", "b": "running", "c": "scheduled", "d": "scheduled"}


async def test_who_ends_tasks_while_others_wait_does_not_wait_for_the_pools(dsn: str) -> None:
    """What comes back goes to the first of those who wait; whether there is more is found out by admission."""
    async with open_world(dsn) as world, open_world(dsn) as other:
        tasks_ = (Task(task_id="a"), Task(task_id="b"), *(Task(task_id=one, priority_weight=5) for one in "yz"))
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=tasks_))
        run = await world.trigger("d")
        first = await world.admit(slots=2, starts=True)
        assert sorted(one.task_id for one in first) == ["y", "z"]
        seen: list[Any] = []

        @writer(Lock.POOL)
        async def gives_slots_away(tx: Transaction) -> None:
            await tx.lock(pools.LOCK_NAMED, names=["*", "default_pool"])
            seen.append(await other.bridge.call_trio(partial(world.advance, first[:1], look=Look())))

        world.poked.clear()
        await other.store.transact(gives_slots_away)
        assert [one.task_id for one in seen[0].placed.workloads] == ["a"], "one slot came back"
        assert seen[0].passed_over
        assert Topic.TASK_SCHEDULED in world.poked, "b might have a free one"
        assert (await world.states(run))["b"] == "scheduled"
