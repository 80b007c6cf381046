"""Let queued runs start, as far as their dags' max_active_runs allows."""

from typing import ClassVar

from attrs import frozen

from nurseries.routine import Pace, Progress
from scheduler.decisions.starting import QueuedRun, startable
from scheduler.procedures.vacancies import Vacancies
from scheduler.store import dags, events, runs
from scheduler.store.documents import Graphs
from scheduler.store.events import EventKind
from scheduler.store.locks import Lock
from scheduler.store.topics import Topic
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction, writer


@frozen(kw_only=True)
class Looked:
    """What one transaction found."""

    dags: int
    """With room and queued runs."""
    somebody_waits: bool
    """There are queued runs, or there were."""


@writer(Lock.DAG, Lock.DAG_RUN)
async def start_queued_runs(tx: Transaction, graphs: Graphs, at_most: int) -> Looked:
    """Lock dags that have room, then their queued runs; count, start the earliest."""
    wanted = await runs.dags_with_startable(tx, at_most)
    if not wanted:
        return Looked(dags=0, somebody_waits=await runs.is_any_queued(tx))
    held = await tx.lock(dags.CLAIM, keys=wanted)
    queued = await tx.lock(runs.CLAIM_QUEUED, dags=held)
    active = await runs.count_active(tx, held)
    rows = await runs.queued(tx, queued)
    chosen = startable(
        [QueuedRun(key=row["id"], dag_pk=row["dag_pk"], run_after=row["run_after"]) for row in rows],
        room={key: row["max_active_runs"] - row["running"] for key, row in active.items()},
        now=tx.now,
    )
    if not chosen:
        return Looked(dags=len(wanted), somebody_waits=True)
    await runs.start(tx, chosen)
    versions = {row["id"]: row["version_id"] for row in rows if row["id"] in set(chosen)}
    known = await graphs.load(tx, versions.values())
    entries: list[events.Entry] = [(run_pk, None, EventKind.RUN, tx.now) for run_pk in chosen]
    entries += [
        (run_pk, None, EventKind.TIMEOUT, due_at)
        for run_pk, due_at in runs.timers([(key, known[version]) for key, version in versions.items()], tx.now)
    ]
    await events.append(tx, entries)
    return Looked(dags=len(wanted), somebody_waits=True)


@frozen(kw_only=True)
class StartRuns:
    """Who revisits a dag that was skipped because somebody held it: the next wake-up, or the pace."""

    store: Store
    graphs: Graphs
    vacancies: Vacancies | None = None
    """Without it every wake-up is a look."""
    at_most: int = 100
    pace = Pace(seconds=60)
    waits_by: ClassVar = (Topic.RUN_QUEUED,)
    """What can make somebody wait for the end of a run."""
    wakes_on = (*waits_by, Topic.RUN_FINISHED)

    async def step(self) -> Progress:
        if self.vacancies is not None:
            if self.vacancies.may_rest():
                return Progress.IDLE
            self.vacancies.about_to_look()
        seen = await self.store.transact(start_queued_runs, self.graphs, self.at_most)
        if self.vacancies is not None:
            self.vacancies.seen(somebody_waits=seen.somebody_waits, for_seconds=self.pace.seconds)
        return Progress.MORE if seen.dags == self.at_most else Progress.IDLE
