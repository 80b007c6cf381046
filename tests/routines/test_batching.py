"""Reports gather where transactions are slow and other daemons are there, and nowhere else."""

from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import define

from nurseries.switchboard import Switchboard
from scheduler.loading.sources import PinnedSources
from scheduler.model import Outcome, OutcomeKind, Workload
from scheduler.procedures.batching import LONGEST_S, SLOW_S, Batching
from scheduler.procedures.dispatch import Dispatch
from scheduler.procedures.vacancies import Company
from scheduler.routines.record_outcomes import RecordOutcomes
from tests.stress.daemons import InstantExecutor
from tests.world import chain, open_world


@pytest.mark.parametrize(
    ("is_there", "took", "pause"),
    [
        (True, SLOW_S * 1.5, SLOW_S * 1.5),
        (True, 1.0, LONGEST_S),
        (True, SLOW_S, 0.0),
        (False, SLOW_S * 1.5, 0.0),
        (False, 1.0, 0.0),
    ],
)
def test_a_slow_transaction_in_company_is_followed_by_a_pause(is_there: bool, took: float, pause: float) -> None:
    batching = Batching(company=Company(is_there=is_there))
    assert batching.pause == 0.0, "nothing has been slow yet"
    batching.took(took)
    assert batching.pause == pause
    batching.took(SLOW_S / 2)
    assert batching.pause == 0.0


@define(kw_only=True, eq=False)
class ReportedMeanwhile(Batching):
    """Somebody reports while this one lets reports gather."""

    report: Callable[[], None]

    async def gather(self) -> None:
        await super().gather()
        self.report()


async def test_the_routine_lets_reports_gather_and_takes_them_together(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(dsn) as world:
        await world.put(chain(2))
        first, second = (*await world.launch("chain"), *await world.launch("chain"))
        executor = InstantExecutor(Switchboard(), worker=world.worker)
        dispatch = Dispatch(
            store=world.store,
            executor=executor,
            place=world.place,
            pictures=world.pictures,
            sources=PinnedSources(tmp_path),
        )
        dispatch.somebody_waits = False
        dispatch.whereabouts.update(world.whereabouts)

        def report(one: Workload) -> None:
            executor.outcomes.put(Outcome(token=one.token, kind=OutcomeKind.SUCCESS))

        batching = ReportedMeanwhile(company=Company(is_there=True), report=lambda: report(second))
        routine = RecordOutcomes(
            store=world.store,
            graphs=world.graphs,
            pictures=world.pictures,
            executor=executor,
            dispatch=dispatch,
            batching=batching,
        )
        monkeypatch.setattr("scheduler.procedures.batching.SLOW_S", 0.0)
        report(first)
        before = world.store.transactions
        await routine.step()
        assert world.store.transactions == before + 1
        for one in (first, second):
            assert await world.states(one.run_id) == {"t0": "success", "t1": "running"}
        assert batching.pause > 0, "it has told how long that took"
