"""Bring runs into being, and start at once those that the limits of their dags allow.

A run that may start is judged in the transaction that creates it: its first tasks are `scheduled` when it commits,
so a trigger on an idle system does not wait for two more transactions. The decisions are the same functions that
start_runs and schedule_tasks use. Called under the locks of the dags' rows.
"""

from collections.abc import Mapping, Sequence

from attrs import evolve

from scheduler.decisions.readiness import Picture, plan
from scheduler.decisions.starting import QueuedRun, startable
from scheduler.model import TaskState
from scheduler.model.facts import FactKind
from scheduler.store import events, runs
from scheduler.store.events import EventKind
from scheduler.store.topics import Topic
from scheduler.store.writer import Transaction


async def launch(
    tx: Transaction, new: Sequence[runs.NewRun], *, paused: Mapping[int, bool]
) -> dict[tuple[int, str], int]:
    """Insert `new` with all their instances; return their keys by (dag key, run id).

    A run id or logical date that exists already is left out. `paused` is by dag key.
    """
    if not new:
        return {}
    active = await runs.count_active(tx, {run.dag_pk for run in new})
    room = {
        key: 0 if paused[key] or row["queued"] else row["max_active_runs"] - row["running"]
        for key, row in active.items()
    }
    starting = set(
        startable(
            [QueuedRun(key=i, dag_pk=run.dag_pk, run_after=run.run_after) for i, run in enumerate(new)],
            room=room,
            now=tx.now,
        )
    )
    judged = []
    for i, run in enumerate(new):
        if i not in starting:
            judged.append(run)
            continue
        first = plan(Picture.of(run.graph), None, now=tx.now)
        # a run that is over at once (no tasks, or empty ones only) is left to schedule_tasks, which ends runs
        changes: Mapping[int, TaskState] = {} if first.run_state is not None else first.changes
        judged.append(evolve(run, starts=True, first=changes))
    keys = await runs.create(tx, judged)
    await _announce(tx, judged, keys)
    for run in judged:
        if (run.dag_pk, run.run_id) in keys:
            tx.tell(
                FactKind.RUN_CREATED,
                dag_id=run.graph.dag.dag_id,
                run_id=run.run_id,
                state="running" if run.starts else "queued",
            )
    return keys


async def _announce(tx: Transaction, judged: Sequence[runs.NewRun], keys: Mapping[tuple[int, str], int]) -> None:
    started = [(keys[run.dag_pk, run.run_id], run) for run in judged if run.starts and (run.dag_pk, run.run_id) in keys]
    entries: list[events.Entry] = [(run_pk, None, EventKind.RUN, tx.now) for run_pk, run in started if not run.first]
    entries += [
        (run_pk, None, EventKind.TIMEOUT, due_at)
        for run_pk, due_at in runs.timers([(run_pk, run.graph) for run_pk, run in started], tx.now)
    ]
    await events.append(tx, entries)
    if any(run.first for _, run in started):
        tx.announce(Topic.TASK_SCHEDULED)
    if len(started) < len(judged):
        tx.announce(Topic.RUN_QUEUED)
