"""Let queued runs start, as far as their dags' max_active_runs allows."""

from attrs import frozen

from nurseries.routine import Pace, Progress
from scheduler.decisions.starting import QueuedRun, startable
from scheduler.store import dags, events, runs
from scheduler.store.documents import Graphs
from scheduler.store.events import EventKind
from scheduler.store.locks import Lock
from scheduler.store.topics import Topic
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction, writer


@writer(Lock.DAG, Lock.DAG_RUN)
async def start_queued_runs(tx: Transaction, graphs: Graphs, at_most: int) -> int:
    """Lock dags that have room, then their queued runs; count, start the earliest. Returns the dags looked at."""
    wanted = await runs.dags_with_startable(tx, at_most)
    if not wanted:
        return 0
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
        return len(wanted)
    await runs.start(tx, chosen)
    versions = {row["id"]: row["version_id"] for row in rows if row["id"] in set(chosen)}
    known = await graphs.load(tx, versions.values())
    entries: list[events.Entry] = [(run_pk, None, EventKind.RUN, tx.now) for run_pk in chosen]
    entries += [
        (run_pk, None, EventKind.TIMEOUT, due_at)
        for run_pk, due_at in runs.timers([(key, known[version]) for key, version in versions.items()], tx.now)
    ]
    await events.append(tx, entries)
    return len(wanted)


@frozen(kw_only=True)
class StartRuns:
    """Who revisits a dag that was skipped because somebody held it: the next wake-up, or the pace."""

    store: Store
    graphs: Graphs
    at_most: int = 100
    pace = Pace(seconds=60)
    wakes_on = (Topic.RUN_QUEUED, Topic.RUN_FINISHED)

    async def step(self) -> Progress:
        seen = await self.store.transact(start_queued_runs, self.graphs, self.at_most)
        return Progress.MORE if seen == self.at_most else Progress.IDLE
