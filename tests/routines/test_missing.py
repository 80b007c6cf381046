"""An attempt that was started in the database and never reached its worker is found, and can then never run."""

from pathlib import Path

from nurseries.clock import SystemClock
from nurseries.routine import Progress
from nurseries.switchboard import Switchboard
from scheduler.loading.sources import PinnedSources
from scheduler.model import OutcomeKind, Workload
from scheduler.procedures.dispatch import Dispatch
from scheduler.procedures.placement import Placed
from scheduler.procedures.settle import Verdict
from scheduler.procedures.steadiness import Steadiness
from scheduler.routines.rescue import PATIENCE_SECONDS, Rescue
from tests.stress.daemons import InstantExecutor
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


async def test_what_was_never_handed_over_is_taken_back_and_stays_back(dsn: str, tmp_path: Path) -> None:
    async with open_world(dsn) as world:
        rescue, dispatch, executor = _daemon(world, tmp_path)
        await world.put(chain(1))
        run = await world.trigger("chain")
        workloads = await world.admit(starts=True)
        progress = await rescue.step()
        assert (await world.states(run))["t0"] == "running", "it may be on its way"
        assert progress == Progress.again(PATIENCE_SECONDS)
        world.later(seconds=PATIENCE_SECONDS + 1)
        await rescue.step()
        assert (await world.states(run))["t0"] == "scheduled"
        await dispatch.hand_over(_placed(world, workloads))
        assert not executor.outcomes, "the hand-over came too late"
        assert await world.end(workloads) == {workloads[0].token: Verdict.REFUSED}
        assert [one.try_number for one in await world.admit(starts=True)] == [1], "the same try again"


async def test_what_the_worker_has_is_left_alone(dsn: str, tmp_path: Path) -> None:
    async with open_world(dsn) as world:
        rescue, dispatch, executor = _daemon(world, tmp_path)
        await world.put(chain(1))
        run = await world.trigger("chain")
        workloads = await world.admit(starts=True)
        await dispatch.hand_over(_placed(world, workloads))
        world.later(seconds=PATIENCE_SECONDS + 1)
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
        world.later(seconds=PATIENCE_SECONDS + 1)
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
