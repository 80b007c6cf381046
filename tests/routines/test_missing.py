"""An attempt that was started in the database and never reached its worker is found, and can then never run."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from nurseries.clock import SystemClock
from nurseries.routine import Progress
from nurseries.switchboard import Switchboard
from scheduler.commands.trigger import Triggers
from scheduler.loading.sources import PinnedSources
from scheduler.model import Outcome, OutcomeKind, Workload
from scheduler.model.facts import FactKind
from scheduler.procedures.dispatch import Dispatch
from scheduler.procedures.placement import Placed
from scheduler.procedures.settle import Verdict
from scheduler.procedures.steadiness import Steadiness
from scheduler.routines.rescue import Rescue
from scheduler.store.errors import OutcomeUnknown
from scheduler.store.topics import Topic
from tests.database import Server
from tests.stress.daemons import InstantExecutor
from tests.stress.proxy import Proxy
from tests.world import World, chain, open_world


def _daemon(world: World, folder: Path) -> tuple[Rescue, Dispatch, InstantExecutor]:
    """The routine, with an executor whose worker is the world's."""
    executor = InstantExecutor(Switchboard(), worker=world.worker)
    sources = PinnedSources(folder)
    dispatch = Dispatch(
        store=world.store, executor=executor, place=world.place, pictures=world.pictures, sources=sources
    )
    return (
        Rescue(store=world.store, graphs=world.graphs, steadiness=Steadiness(clock=SystemClock()), dispatch=dispatch),
        dispatch,
        executor,
    )


def _placed(world: World, workloads: list[Workload]) -> Placed:
    return Placed(workloads=tuple(workloads), whereabouts=world.whereabouts)


@asynccontextmanager
async def _looked_at(rescue: Rescue, world: World) -> AsyncIterator[list[Workload]]:
    """Attempts that are on their way, when rescue has seen that they are started."""
    async with trio.open_nursery() as nursery:
        with rescue.dispatch.admission():
            workloads = await world.admit(starts=True)
            before = world.store.transactions
            nursery.start_soon(rescue.step)
            while world.store.transactions == before:
                await trio.sleep(0.005)
            await trio.testing.wait_all_tasks_blocked(0.05)  # time enough to do wrong, if it did not wait
            yield workloads


async def test_what_was_never_handed_over_is_taken_back_and_stays_back(dsn: str, tmp_path: Path) -> None:
    async with open_world(dsn) as world:
        rescue, dispatch, executor = _daemon(world, tmp_path)
        await world.put(chain(1))
        run = await world.trigger("chain")
        workloads = await world.admit(starts=True)
        await rescue.step()
        assert (await world.states(run))["t0"] == "scheduled"
        await dispatch.hand_over(_placed(world, workloads))
        assert not executor.outcomes, "the hand-over came too late"
        assert await world.end(workloads) == {workloads[0].token: Verdict.REFUSED}
        assert [one.try_number for one in await world.admit(starts=True)] == [1], "the same try again"


async def test_what_is_on_its_way_is_waited_for(dsn: str, tmp_path: Path) -> None:
    async with open_world(dsn) as world:
        rescue, dispatch, executor = _daemon(world, tmp_path)
        await world.put(chain(1))
        run = await world.trigger("chain")
        async with _looked_at(rescue, world) as workloads:
            await dispatch.hand_over(_placed(world, workloads))
        assert (await world.states(run))["t0"] == "running"
        assert len(executor.outcomes) == 1, "it ran"
        assert await world.end(workloads) == {workloads[0].token: Verdict.ACCEPTED}


async def test_what_ends_while_rescue_looks_is_not_missed(dsn: str, tmp_path: Path) -> None:
    async with open_world(dsn) as world:
        rescue, dispatch, executor = _daemon(world, tmp_path)
        await world.put(chain(1))
        run = await world.trigger("chain")
        async with _looked_at(rescue, world) as workloads:
            await dispatch.hand_over(_placed(world, workloads))
            await world.end(workloads)
            executor.acknowledge([workloads[0].token])
        assert (await world.states(run))["t0"] == "success"
        assert FactKind.REPORT_REFUSED not in {fact.kind for fact in world.facts}, "nobody said that it was lost"


async def test_a_worker_that_hangs_up_meanwhile_is_not_judged(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps its attempts, and says so when it calls again."""
    async with open_world(dsn) as world:
        rescue, _, executor = _daemon(world, tmp_path)
        await world.put(chain(1))
        run = await world.trigger("chain")
        async with _looked_at(rescue, world) as workloads:
            monkeypatch.setattr(InstantExecutor, "workers", lambda _: [])
        assert not executor.holds(workloads[0].token)
        assert (await world.states(run))["t0"] == "running"
        assert await world.end(workloads) == {workloads[0].token: Verdict.ACCEPTED}


async def test_what_the_daemon_itself_has_ended_is_not_missed(dsn: str, tmp_path: Path) -> None:
    """As a workload that is too large for its worker: what is said of it waits to be committed."""
    async with open_world(dsn) as world:
        rescue, _, executor = _daemon(world, tmp_path)
        await world.put(chain(1))
        run = await world.trigger("chain")
        (workload,) = await world.admit(starts=True)
        executor.outcomes.put(Outcome(token=workload.token, kind=OutcomeKind.FAILED, reason="cancelled"))
        await rescue.step()
        assert (await world.states(run))["t0"] == "running"


async def test_rescue_does_not_wait_for_ever(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.routines.rescue.WAIT_SECONDS", 0.0)
    async with open_world(dsn) as world:
        rescue, dispatch, _ = _daemon(world, tmp_path)
        await world.put(chain(1))
        run = await world.trigger("chain")
        await world.admit(starts=True)
        with dispatch.admission():
            assert await rescue.step() == Progress.again(1.0)
        assert (await world.states(run))["t0"] == "running"


async def test_what_was_started_by_a_commit_that_nobody_answered_is_found_at_once(
    server: Server, dsn: str, tmp_path: Path
) -> None:
    """A started task must not lie there until somebody happens to look."""
    through = dsn.replace(str(server.socket_dir), str(tmp_path))
    async with Proxy.open(Path(server.socket_dir), tmp_path) as proxy, open_world(through, connections=1) as world:
        rescue, dispatch, _ = _daemon(world, tmp_path / "sources")
        dispatch.somebody_waits = False
        await world.put(chain(1))
        world.poked.clear()
        proxy.lose_next_commit(after_server=True, then_away=True)
        with pytest.raises(OutcomeUnknown):
            await Triggers(graphs=world.graphs, dispatch=dispatch).trigger(world.store, dag_id="chain", run_id="r")
        proxy.is_away = False
        assert (await world.states("r"))["t0"] == "running"
        assert Topic.ATTEMPT_LOST in world.poked
        assert Topic.ATTEMPT_LOST in rescue.wakes_on
        await rescue.step()
        assert (await world.states("r"))["t0"] == "scheduled"
        assert [row["losses"] for row in await world.rows("SELECT losses FROM task_instance")] == [0], "it never ran"


async def test_what_the_worker_has_is_left_alone(dsn: str, tmp_path: Path) -> None:
    async with open_world(dsn) as world:
        rescue, dispatch, executor = _daemon(world, tmp_path)
        await world.put(chain(1))
        run = await world.trigger("chain")
        workloads = await world.admit(starts=True)
        await dispatch.hand_over(_placed(world, workloads))
        await rescue.step()
        assert (await world.states(run))["t0"] == "running"
        assert len(executor.outcomes) == 1, "it ran, and its end has not been recorded yet"
        assert await world.end(workloads) == {workloads[0].token: Verdict.ACCEPTED}


async def test_attempts_at_somebody_elses_worker_are_not_judged(dsn: str, tmp_path: Path) -> None:
    async with open_world(dsn) as world:
        rescue, _, executor = _daemon(world, tmp_path)
        executor.worker = "00000000-0000-0000-0000-0000000000ff"
        await world.put(chain(1))
        run = await world.trigger("chain")
        workloads = await world.admit(starts=True)
        await rescue.step()
        assert (await world.states(run))["t0"] == "running"
        assert await world.end(workloads, OutcomeKind.SUCCESS) == {workloads[0].token: Verdict.ACCEPTED}


async def test_what_a_dead_daemon_admitted_is_missed_as_soon_as_its_worker_calls(dsn: str, tmp_path: Path) -> None:
    """Nobody else can hand it over any more: the worker is connected to this daemon now."""
    async with open_world(dsn) as world, open_world(dsn) as successor:
        await world.put(chain(1))
        run = await world.trigger("chain")
        lost = await world.admit(starts=True)
        successor.worker = world.worker
        rescue, _, _ = _daemon(successor, tmp_path)
        await rescue.step()
        assert (await world.states(run))["t0"] == "scheduled"
        assert await world.end(lost) == {lost[0].token: Verdict.REFUSED}
