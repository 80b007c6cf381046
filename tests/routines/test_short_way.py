"""From the end of a task to the queueing of those below it in one transaction: the same results as the long way."""

import pytest

from scheduler.model import Dag, OutcomeKind, Task, TaskKind
from scheduler.procedures.settle import Verdict
from scheduler.store import runs
from scheduler.store.locks import Lock
from scheduler.store.writer import Transaction, writer
from tests.world import NEVER, chain, fan, open_world


async def test_a_chain_goes_from_end_to_end_without_an_event(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(4))
        run = await world.trigger("chain")
        workloads = await world.admit()
        for i in range(4):
            assert [one.task_id for one in workloads] == [f"t{i}"]
            (answer,) = await world.start(workloads)
            assert answer.inputs == ({f"t{i - 1}": i} if i else {})
            done = await world.advance(workloads, result=str(i + 1))
            assert done.answers == {workloads[0].token: Verdict.ACCEPTED}
            assert await world.rows("SELECT * FROM event") == []
            workloads = list(done.workloads)
        assert done.finished
        assert await world.run_state(run) == "success"


async def test_a_fan_out_respects_every_limit(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(fan(30, max_active_tasks=7))
        await world.trigger("fan")
        workloads = await world.admit()
        await world.start(workloads)
        done = await world.advance(workloads)
        assert len(done.workloads) == 7
        assert await world.admit() == []
        await world.start(done.workloads[:3])
        more = await world.advance(done.workloads[:3])
        assert more.workloads == (), "others wait: they are admitted by priority, all together"
        assert len(await world.admit()) == 3


async def test_slots_of_the_executor_bound_it(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(fan(5))
        run = await world.trigger("fan")
        workloads = await world.admit()
        await world.start(workloads)
        done = await world.advance(workloads, slots=2)
        assert len(done.workloads) == 2
        assert sorted((await world.states(run)).values()) == sorted(
            ["success", "queued", "queued", "scheduled", "scheduled", "scheduled", "none"]
        )


async def test_a_pool_gives_the_slots_of_what_ends_to_what_follows(dsn: str) -> None:
    async with open_world(dsn) as world:
        tasks = (Task(task_id="a", pool="one"), Task(task_id="b", pool="one", upstream=("a",)))
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=tasks))
        await world.commands.set_pool(world.store, name="one", slots=1, description=None)
        await world.trigger("d")
        workloads = await world.admit()
        await world.start(workloads)
        assert [one.task_id for one in (await world.advance(workloads)).workloads] == ["b"]


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
        assert await world.states(run) == {"pick": "success", "a": "skipped", "b": "queued"}


async def test_events_that_wait_send_it_the_long_way(dsn: str) -> None:
    """The picture is behind: somebody else has ended a task of this run and left an event."""
    async with open_world(dsn) as world:
        await world.put(fan(2))
        run = await world.trigger("fan")
        await world.round()
        first, second = await world.admit()
        await world.start([first, second])
        await world.end([first])
        assert (await world.advance([second])).answers is None
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
        assert seen == [None]


async def test_a_revoked_attempt_is_not_ended_by_it(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(2))
        await world.trigger("chain")
        workloads = await world.admit()
        await world.start(workloads)
        await world.end(workloads, OutcomeKind.LOST)
        assert (await world.advance(workloads)).answers is None
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
        assert (done.answers is None) == paused


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
            assert [work.task_id for work in done.workloads] == ["last"]
        else:
            await two.end(workloads[2:])
            await two.judge()
            assert (await two.states(run))["last"] == "scheduled"
