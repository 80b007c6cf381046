"""Events: what happened in a run and waits to be judged; with a due_at in the future, a timer."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from scheduler.store import tables as t
from scheduler.store.topics import Topic
from scheduler.store.writer import Reading, Row, Transaction


class EventKind(StrEnum):
    """What schedule_tasks or time_out_runs has to look at."""

    TASK = "task"
    """One instance ended or may be retried now."""
    RUN = "run"
    """Judge the whole run: it started, was resumed, or got a verdict."""
    TIMEOUT = "timeout"
    """The run has used up its dagrun_timeout."""


_APPEND = sa.text(
    "INSERT INTO event (run_pk, ti_id, kind, due_at) SELECT v.run_pk, v.ti_id, v.kind, v.due_at"
    " FROM unnest(CAST(:run_pk AS bigint[]), CAST(:ti_id AS bigint[]), CAST(:kind AS text[]),"
    " CAST(:due_at AS timestamptz[])) AS v(run_pk, ti_id, kind, due_at)"
)
_RUNS_WITH = sa.text(
    "SELECT run_pk FROM (SELECT run_pk, due_at FROM event WHERE due_at <= :now AND kind = ANY(:kinds)"
    " ORDER BY due_at LIMIT 2000) AS e GROUP BY run_pk ORDER BY min(due_at) LIMIT :at_most"
)
_OF_RUNS = sa.text(
    "SELECT e.id AS event_id, e.run_pk, e.kind, ti.id, ti.task_index, ti.state, ti.retry_at, ti.decision"
    " FROM event e LEFT JOIN task_instance ti ON ti.id = e.ti_id"
    " WHERE e.run_pk = ANY(:runs) AND e.due_at <= :now AND e.kind = ANY(:kinds) ORDER BY e.id LIMIT :at_most"
)
_DELETE = sa.text("DELETE FROM event WHERE id = ANY(:ids)")
_NEXT = sa.text("SELECT min(due_at) AS due_at FROM event WHERE due_at > :now")

Entry = tuple[int, int | None, EventKind, datetime]
"""(run key, instance key or None, kind, due_at)."""


async def append(tx: Transaction, entries: Iterable[Entry]) -> None:
    """Leave events. Needs no lock: nobody climbs from an instance to its run."""
    rows = list(entries)
    if not rows:
        return
    await tx.append(
        t.event,
        _APPEND,
        {
            "run_pk": [row[0] for row in rows],
            "ti_id": [row[1] for row in rows],
            "kind": [str(row[2]) for row in rows],
            "due_at": [row[3] for row in rows],
        },
    )
    tx.announce(Topic.EVENT_APPENDED)
    if any(row[2] is EventKind.TIMEOUT for row in rows):
        tx.announce(Topic.TIMER_SET)


async def runs_with_events(tx: Reading, kinds: Collection[EventKind], *, at_most: int) -> list[int]:
    """Keys of runs that have due events, the longest waiting first."""
    parameters = {"now": tx.now, "kinds": [str(kind) for kind in kinds], "at_most": at_most}
    return [row["run_pk"] for row in await tx.fetch(_RUNS_WITH, parameters)]


async def due(tx: Reading, run_pks: Collection[int], kinds: Collection[EventKind], *, at_most: int) -> Sequence[Row]:
    """The due events of held runs with the present state of their instances, in the order they were left."""
    parameters = {
        "now": tx.now,
        "runs": sorted(run_pks),
        "kinds": [str(kind) for kind in kinds],
        "at_most": at_most,
    }
    return await tx.fetch(_OF_RUNS, parameters)


async def consume(tx: Transaction, run_pks: Collection[int], ids: Collection[int]) -> None:
    """Delete events that have been judged, under their runs' locks."""
    if ids:
        await tx.consume(t.event, run_pks, _DELETE, {"ids": sorted(ids)})


async def next_due(tx: Reading) -> datetime | None:
    """When the earliest timer is due."""
    rows = await tx.fetch(_NEXT, {"now": tx.now})
    return rows[0]["due_at"]  # type: ignore[no-any-return]
