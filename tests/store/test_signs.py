"""Each sign is there when its routine has something to do, and is not when it has nothing."""

import uuid
from collections.abc import Hashable

from attrs import evolve

from nurseries.clock import SystemClock
from nurseries.routine import Progress
from scheduler.model import Dag, OutcomeKind, RetryPolicy
from scheduler.procedures.steadiness import Steadiness
from scheduler.routines.look_out import IN_COMPANY_SECONDS, LookOut
from scheduler.routines.rescue import PATIENCE_SECONDS, rescue_lost, rescue_stuck
from scheduler.routines.start_runs import start_queued_runs
from scheduler.routines.time_out_runs import time_out_due_runs
from scheduler.store import seats, signs
from scheduler.store.seats import Seat
from scheduler.store.topics import Topic
from tests.world import World, chain, every, fan, open_world


async def seen(world: World) -> set[Topic]:
    found = await world.store.read(signs.look, daemon=world.daemon, patience=PATIENCE_SECONDS)
    assert not found.has_company
    return set(found.topics)


async def put(world: World, dag: Dag) -> None:
    """Store a dag and have it looked at, as create_runs does at once."""
    await world.put(dag)
    await world.create()


async def test_the_life_of_a_run_leaves_a_sign_at_each_step_and_none_at_the_end(dsn: str) -> None:
    async with open_world(dsn) as world:
        await put(world, chain(2))
        assert await seen(world) == set()
        await world.trigger("chain")
        assert await seen(world) == {Topic.TASK_SCHEDULED}, "a run that may start has its first tasks scheduled"
        first = await world.admit()
        await world.start(first)
        assert await seen(world) == set(), "it runs"
        await world.end(first)
        assert await seen(world) == {Topic.EVENT_APPENDED}
        await world.judge()
        assert await seen(world) == {Topic.TASK_SCHEDULED}
        second = await world.admit()
        await world.start(second)
        await world.end(second)
        await world.judge()
        assert await seen(world) == set()


async def test_a_timer_is_a_sign_from_when_it_is_due(dsn: str) -> None:
    async with open_world(dsn) as world:
        await put(world, chain(1, retry=RetryPolicy(retries=1, delay=60)))
        await world.trigger("chain")
        await world.round(OutcomeKind.FAILED)
        assert await seen(world) == set()
        world.later(seconds=61)
        assert await seen(world) == {Topic.EVENT_APPENDED}


async def test_a_run_that_is_out_of_time_is_a_sign_until_it_has_its_verdict(dsn: str) -> None:
    async with open_world(dsn) as world:
        await put(world, fan(1, dagrun_timeout=5))
        await world.trigger("fan")
        await world.start(await world.admit())
        assert await seen(world) == set()
        world.later(seconds=6)
        assert Topic.TIMER_SET in await seen(world)
        await world.store.transact(time_out_due_runs, 10)
        assert Topic.TIMER_SET not in await seen(world)


async def test_a_queued_run_is_a_sign_when_its_dag_has_room(dsn: str) -> None:
    async with open_world(dsn) as world:
        await put(world, fan(1, max_active_runs=1))
        await world.trigger("fan")
        await world.trigger("fan")
        assert Topic.RUN_QUEUED not in await seen(world), "no room"
        for _ in range(3):
            await world.round()
        assert Topic.RUN_QUEUED in await seen(world)
        await world.store.transact(start_queued_runs, world.graphs, 10)
        assert Topic.RUN_QUEUED not in await seen(world)


async def test_a_due_dag_is_a_sign_unless_it_is_paused_or_full(dsn: str) -> None:
    async with open_world(dsn) as world:
        await world.put(evolve(fan(1), schedule=every(10), max_active_runs=2))
        assert await seen(world) == {Topic.DAG_DUE}, "loading asks for a look"
        await world.create()
        assert Topic.DAG_DUE not in await seen(world)
        world.later(seconds=11)
        assert Topic.DAG_DUE in await seen(world)
        await world.create()
        world.later(seconds=11)
        assert Topic.DAG_DUE not in await seen(world), "max_active_runs"


async def test_attempts_that_were_never_started_and_workers_that_are_dead_are_signs(dsn: str) -> None:
    async with open_world(dsn) as world:
        await put(world, fan(2))
        await world.trigger("fan")
        await world.round()
        one, other = await world.admit()
        assert await seen(world) == set()
        await world.start([one])
        world.later(seconds=PATIENCE_SECONDS + 1)
        assert Topic.ATTEMPT_LOST in await seen(world)
        stuck = await world.store.transact(rescue_stuck, world.graphs, [], 10)
        assert stuck.taken_back == 1
        assert await world.store.transact(rescue_lost, world.graphs, 10) == 1, "the world's clock is beyond its lease"
        assert Topic.ATTEMPT_LOST not in await seen(world)
        assert other.token != one.token


async def test_the_routine_wakes_whose_work_it_is_and_nobody_else(dsn: str) -> None:
    async with open_world(dsn) as world:
        await put(world, chain(1))
        poked: list[Hashable] = []
        look_out = LookOut(
            store=world.store,
            daemon=world.daemon,
            steadiness=Steadiness(clock=SystemClock()),
            poke=lambda *topics: poked.extend(topics),
        )
        await look_out.step()
        assert poked == []
        await world.trigger("chain")
        assert await look_out.step() == Progress.IDLE
        assert poked == [Topic.TASK_SCHEDULED]
        other = Seat(uuid=str(uuid.uuid4()), kind="daemon", hostname="h", pid=3, home="/other")
        await world.store.transact(seats.take_seat, other)
        assert await look_out.step() == Progress.again(IN_COMPANY_SECONDS), "it looks more often in company"
        await seats.leave(world.store, other.uuid)
        assert await look_out.step() == Progress.IDLE


async def test_it_is_steady_only_after_a_lease_without_a_gap() -> None:
    class Clock(SystemClock):
        time = 1000.0

        def monotonic(self) -> float:
            return self.time

    clock = Clock()
    steadiness = Steadiness(clock=clock)
    assert not steadiness.is_long_enough
    for _ in range(4):
        steadiness.note()
        clock.time += 5
    assert steadiness.is_long_enough, "15 s of answers, the last one 5 s ago"
    clock.time += 11
    assert not steadiness.is_long_enough, "nothing has been heard for longer than a lease"
    steadiness.note()
    assert not steadiness.is_long_enough, "it begins anew"
