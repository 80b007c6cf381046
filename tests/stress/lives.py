"""Lives of rows in which every statement meets several rows, beside others that it must not touch."""

import uuid
from datetime import timedelta
from typing import Any

from attrs import evolve

from scheduler.commands.cancel import cancel_runs
from scheduler.commands.clear import clear_tasks
from scheduler.commands.mark import mark_runs, mark_tasks
from scheduler.decisions.clearing import FAILURES, Selection
from scheduler.loading.loader import ImportFailure
from scheduler.model import Dag, OutcomeKind, RunState, Task, TaskState
from scheduler.routines.create_runs import create_due_runs
from scheduler.routines.load_dags import forget_files, store_file
from scheduler.routines.prune import purge_runs, purge_seats
from scheduler.routines.rescue import Stuck, rescue_lost, rescue_stuck
from scheduler.routines.start_runs import start_queued_runs
from scheduler.routines.time_out_runs import time_out_due_runs
from scheduler.store import seats
from scheduler.store.seats import Seat
from tests.world import NEVER, World, chain, every, fan, open_world


async def keys(world: World, where: str = "true") -> list[int]:
    return [row["id"] for row in await world.rows(f"SELECT id FROM dag_run WHERE {where} ORDER BY id")]


async def another_worker(world: World, home: str = "/home") -> str:
    made = str(uuid.uuid4())
    await seats.register(world.store, Seat(uuid=made, kind="worker", hostname="h", pid=3, home=home))
    return made


def five(**options: Any) -> list[Dag]:
    return [evolve(fan(2, f"dag{i}"), **options) for i in range(5)]


async def test_files_are_stored_changed_broken_and_forgotten_beside_others(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(*five(), file="a.py")
        await world.put(*(chain(1, f"other{i}") for i in range(3)), file="b.py")
        await world.put(*five(), file="a.py", source="# changed")
        await world.put(*five()[:3], file="a.py", source="# fewer")
        await world.store.transact(store_file, "a.py", ImportFailure(line=1, message="no"), frozenset({"a.py", "b.py"}))
        for name in ("x.py", "y.py", "z.py"):
            await world.put(chain(1, f"of-{name}"), file=name)
        await world.store.transact(forget_files, ["z.py", "x.py"])
        rows = await world.rows("SELECT dag_id FROM dag WHERE is_present ORDER BY 1")
        assert [row["dag_id"] for row in rows] == ["dag0", "dag1", "dag2", "of-y.py", "other0", "other1", "other2"]


async def test_several_dags_are_due_paused_and_started(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(*five(schedule=every(60), max_active_runs=3), file="a.py")
        await world.put(*(chain(1, f"other{i}") for i in range(2)), file="b.py")
        await world.create()
        world.later(seconds=130)
        assert (await world.store.transact(create_due_runs, world.graphs, 3)).claimed == 3
        await world.create()
        for i in range(3):
            await world.commands.pause(world.store, dag_id=f"dag{i}", paused=True)
        for i in range(2):
            await world.commands.pause(world.store, dag_id=f"other{i}", paused=True)
            for n in range(3):
                await world.trigger(f"other{i}", run_id=f"{i}-{n}")
        for i in range(2):
            await world.commands.pause(world.store, dag_id=f"other{i}", paused=False)
        await world.store.transact(start_queued_runs, world.graphs, 10)
        assert len(await keys(world, "run_id LIKE '_-_' AND state = 'running'")) == 6
        await world.round()


async def test_runs_are_cancelled_timed_out_and_purged_beside_others(dsn: str) -> None:
    async with open_world(dsn) as world:
        late = [evolve(fan(3, f"late{i}"), dagrun_timeout=30) for i in range(3)]
        await world.put(*late, *five(), file="a.py")
        for i in range(3):
            await world.trigger(f"late{i}")
        for i in range(5):
            await world.trigger(f"dag{i}")
            await world.trigger(f"dag{i}")
        await world.round()
        workloads = await world.admit(12)
        await world.start(workloads[:6])
        ours = await keys(world, "dag_pk IN (SELECT id FROM dag WHERE dag_id LIKE 'dag%')")
        await world.store.transact(cancel_runs, ours[:4])
        await world.commands.pause(world.store, dag_id="dag4", paused=True)
        for n in range(3):
            await world.trigger("dag4", run_id=f"queued-{n}")
        await world.store.transact(cancel_runs, (await keys(world, "state = 'queued'"))[:2])
        world.later(seconds=31)
        await world.store.transact(time_out_due_runs, 10)
        await world.end(workloads[:6], OutcomeKind.FAILED, result='"not kept"', reason="cancelled")
        await world.judge()
        world.later(days=100)
        assert len(await world.store.transact(purge_runs, timedelta(days=90), 2)) == 2
        assert await world.store.transact(purge_runs, timedelta(days=90), 50)
        await world.round()


async def test_workers_die_together_and_seats_are_cleared_away(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(*five(), file="a.py")
        for i in range(5):
            await world.trigger(f"dag{i}")
        second, _ = await another_worker(world), await another_worker(world, "/idle")
        workloads = await world.admit()
        await world.start(workloads[:2])
        await world.start(workloads[2:4], worker=second)
        world.later(seconds=16)
        assert await world.store.transact(rescue_lost, world.graphs, 10) == 4
        world.later(seconds=10)
        assert await world.store.transact(rescue_stuck, world.graphs, [], 10) == Stuck(taken_back=1)
        again = await world.admit()
        await world.start(again)
        await world.end(again, result='"again"')
        for _ in range(2):
            mine = Seat(uuid=world.daemon, kind="daemon", hostname="h", pid=1, home=f"/{world.daemon}")
            await world.store.transact(seats.take_seat, mine)
            alive = "SELECT 1 FROM seat WHERE uuid = CAST(:daemon AS uuid) AND lease_until > clock_timestamp()"
            assert await world.rows(alive, daemon=world.daemon), "a daemon that sits down again is alive"
            await world.store.transact(seats.take_seat, evolve(mine, uuid=str(uuid.uuid4())))
        await seats.beat(world.store, world.daemon)
        world.later(days=3)
        await world.store.transact(purge_seats, 1)
        assert await world.store.transact(purge_seats, 10) >= 2


async def test_pools_come_change_and_go(dsn: str) -> None:
    async with open_world(dsn) as world:
        for name in ("c", "a", "b"):
            await world.commands.set_pool(world.store, name=name, slots=1, description="x")
            await world.commands.set_pool(world.store, name=name, slots=2, description=None)
        tasks = tuple(Task(task_id=f"t{i}", pool="abc"[i % 3]) for i in range(9))
        await world.put(Dag(dag_id="d", schedule=NEVER, tasks=tasks))
        await world.trigger("d")
        first = await world.admit()
        assert len(first) == 6
        await world.start(first)
        assert (await world.advance(first, result="1")).answers
        await world.round()
        await world.judge()
        await world.commands.delete_pool(world.store, name="b")
        assert len(await world.rows("SELECT 1 FROM pool WHERE name IN ('a', 'b', 'c')")) == 2


async def test_the_short_way_beside_other_runs(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(*five(), chain(3), file="a.py")
        for i in range(5):
            await world.trigger(f"dag{i}")
        await world.trigger("chain")
        workloads = await world.admit()
        await world.start(workloads)
        done = await world.advance(workloads[:3], result="1")
        assert len(done.answers) == 3
        below = done.placed.workloads
        assert len((await world.advance(below, result="2")).answers) == len(below)
        await world.end(workloads[3:], OutcomeKind.FAILED, result='"not kept"')
        await world.judge()


async def test_tasks_and_runs_are_cleared_and_marked_beside_others(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(*five(dagrun_timeout=1000), file="a.py")
        over = [await world.trigger(f"dag{i}") for i in range(5)]
        await world.round()
        workloads = await world.admit()
        await world.start(workloads)
        await world.end(workloads[::2], OutcomeKind.FAILED)
        await world.end(workloads[1::2], result='"kept"')
        await world.judge()
        going = [await world.trigger(f"dag{i}") for i in range(5)]
        await world.round(result='"of first"')
        attempts = await world.admit()
        assert len(attempts) == 10
        await world.start(attempts[:6])
        runs = {row["run_id"]: row["id"] for row in await world.rows("SELECT id, run_id FROM dag_run")}
        old, new = [runs[name] for name in over], [runs[name] for name in going]
        wide, some = Selection(), Selection(tasks=frozenset({"m0", "last"}))
        # two of which attempts run, one with queued ones; running tasks get their marks later, and one is cleared then
        await world.store.transact(mark_tasks, world.graphs, new[:2], some, TaskState.SKIPPED)
        await world.store.transact(clear_tasks, world.graphs, [new[4], new[1], new[2]], wide)
        await world.store.transact(mark_tasks, world.graphs, new[3:4], some, TaskState.SUCCESS)
        await world.end(attempts[:6], OutcomeKind.FAILED, result='"not kept"', reason="cancelled")
        await world.judge()
        await world.store.transact(clear_tasks, world.graphs, old[1:3], Selection(only=FAILURES))
        await world.store.transact(mark_tasks, world.graphs, old[3:], Selection(), TaskState.SUCCESS)
        await world.store.transact(mark_runs, [*old[:1], *old[3:], *new], RunState.FAILED)
        world.later(seconds=1)
        await world.store.transact(mark_runs, [*old[1:3], *new[:2]], RunState.SUCCESS)
        await world.judge()
        await world.store.transact(clear_tasks, world.graphs, old, wide)
        await world.store.transact(start_queued_runs, world.graphs, 10)
        await world.round()


async def test_runs_start_as_they_are_launched_beside_others(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.commands.set_pool(world.store, name="small", slots=2, description=None)
        await world.put(*five(), chain(2, pool="small"), file="a.py")
        assert len(await world.launch("chain")) == 1
        for i in (3, 1):
            first = await world.launch(f"dag{i}")
            assert [one.task_id for one in first] == ["first"]
        assert len(await world.launch("chain", run_id="second")) == 1
        assert await world.launch("chain", run_id="third") == [], "its pool is full"
        assert await world.launch("dag0") == [], "somebody waits"
        assert len((await world.advance(first, result="1")).answers) == 1
        assert sorted(one.dag_id for one in await world.admit()) == ["dag0", "dag1", "dag1"], "left to admission"
