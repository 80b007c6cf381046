"""Runs: inserted with all their instances, started, judged, finished."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa
from attrs import frozen

from scheduler.decisions.graph import Graph
from scheduler.model import RunState, RunType, TaskState, Verdict
from scheduler.store import tables as t
from scheduler.store.locks import Lock, Wait, by_key, keys_param, locking
from scheduler.store.writer import Reading, Row, Transaction

CLAIM = by_key(Lock.DAG_RUN, wait=Wait.SKIP)
CLAIM_RUNNING = by_key(Lock.DAG_RUN, t.dag_run.c.state == RunState.RUNNING, wait=Wait.SKIP)
LOCK_RUN = by_key(Lock.DAG_RUN, wait=Wait.WAIT)
CLAIM_QUEUED = locking(
    Lock.DAG_RUN,
    sa.and_(t.dag_run.c.dag_pk == sa.any_(keys_param("dags")), t.dag_run.c.state == RunState.QUEUED),
    wait=Wait.SKIP,
)


@frozen(kw_only=True)
class NewRun:
    """A run to be created."""

    dag_pk: int
    version_id: int
    graph: Graph
    run_id: str
    run_type: RunType
    run_after: datetime
    logical_date: datetime | None = None
    data_interval_start: datetime | None = None
    data_interval_end: datetime | None = None
    conf: dict[str, Any] | None = None
    starts: bool = False
    """It starts at once, in the transaction that creates it; otherwise it is queued."""
    first: Mapping[int, TaskState] = {}
    """States, by task position, that the first judgement gives to the instances of a run that starts at once."""


_INSERT_RUNS = sa.text(
    "INSERT INTO dag_run (dag_pk, version_id, run_id, run_type, state, logical_date, data_interval_start,"
    " data_interval_end, run_after, queued_at, start_date, conf)"
    " SELECT v.dag_pk, v.version_id, v.run_id, v.run_type, CASE WHEN v.starts THEN 'running' ELSE 'queued' END,"
    " v.logical_date, v.interval_start, v.interval_end, v.run_after, :now,"
    " CASE WHEN v.starts THEN CAST(:now AS timestamptz) END,"
    " CAST(v.conf AS jsonb)"
    " FROM unnest(CAST(:dag_pk AS bigint[]), CAST(:version_id AS bigint[]), CAST(:run_id AS text[]),"
    " CAST(:run_type AS text[]), CAST(:starts AS boolean[]), CAST(:logical_date AS timestamptz[]),"
    " CAST(:interval_start AS timestamptz[]), CAST(:interval_end AS timestamptz[]),"
    " CAST(:run_after AS timestamptz[]), CAST(:conf AS text[]))"
    " WITH ORDINALITY AS v(dag_pk, version_id, run_id, run_type, starts, logical_date, interval_start,"
    " interval_end, run_after, conf, n) ORDER BY v.n"
    " ON CONFLICT DO NOTHING RETURNING id, dag_pk, run_id"
)
_INSERT_INSTANCES = sa.text(
    "INSERT INTO task_instance (run_pk, task_id, task_index, state, try_number, max_tries, pool, pool_slots,"
    " priority, ready_order, end_date)"
    " SELECT v.run_pk, v.task_id, v.task_index, v.state,"
    " CASE WHEN v.state IN ('scheduled', 'success') THEN 1 ELSE 0 END,"
    " v.max_tries, v.pool, v.pool_slots, v.priority, v.ready_order,"
    " CASE WHEN v.state NOT IN ('none', 'scheduled') THEN CAST(:now AS timestamptz) END"
    " FROM unnest(CAST(:run_pk AS bigint[]), CAST(:task_id AS text[]), CAST(:task_index AS integer[]),"
    " CAST(:state AS text[]), CAST(:max_tries AS integer[]), CAST(:pool AS text[]),"
    " CAST(:pool_slots AS integer[]), CAST(:priority AS integer[]), CAST(:ready_order AS timestamptz[]))"
    " WITH ORDINALITY AS v(run_pk, task_id, task_index, state, max_tries, pool, pool_slots, priority,"
    " ready_order, n) ORDER BY v.n RETURNING id, run_pk, task_index"
)


async def create(tx: Transaction, runs: Sequence[NewRun]) -> dict[tuple[int, str], int]:
    """Insert runs, without their instances; return the new keys by (dag key, run id).

    The dags' rows are held, so nobody else inserts runs of theirs: a run id or logical date that exists already
    is simply left out of the answer.
    """
    tx.held.check_covers(Lock.DAG, {run.dag_pk for run in runs})
    ordered = sorted(runs, key=lambda run: (run.dag_pk, run.run_id))
    rows = await tx.insert(
        Lock.DAG_RUN,
        _INSERT_RUNS,
        {
            "now": tx.now,
            "dag_pk": [run.dag_pk for run in ordered],
            "version_id": [run.version_id for run in ordered],
            "run_id": [run.run_id for run in ordered],
            "run_type": [str(run.run_type) for run in ordered],
            "starts": [run.starts for run in ordered],
            "logical_date": [run.logical_date for run in ordered],
            "interval_start": [run.data_interval_start for run in ordered],
            "interval_end": [run.data_interval_end for run in ordered],
            "run_after": [run.run_after for run in ordered],
            "conf": [None if run.conf is None else msgspec.json.encode(run.conf).decode() for run in ordered],
        },
    )
    return {(row["dag_pk"], row["run_id"]): row["id"] for row in rows}


async def create_instances(tx: Transaction, created: Iterable[tuple[int, NewRun]]) -> dict[tuple[int, int], int]:
    """Insert all instances of these new runs, given with their keys; return theirs by (run key, task position)."""
    instances = [
        (run_pk, i, task, run.first.get(i, TaskState.NONE), run.logical_date or run.run_after)
        for run_pk, run in sorted(created, key=lambda one: one[0])
        for i, task in enumerate(run.graph.tasks)
    ]
    if not instances:
        return {}
    rows = await tx.insert(
        Lock.TASK_INSTANCE,
        _INSERT_INSTANCES,
        {
            "now": tx.now,
            "run_pk": [run_pk for run_pk, *_ in instances],
            "task_id": [task.task_id for _, _, task, _, _ in instances],
            "task_index": [i for _, i, *_ in instances],
            "state": [str(state) for _, _, _, state, _ in instances],
            "max_tries": [task.retry.retries for _, _, task, _, _ in instances],
            "pool": [task.pool for _, _, task, _, _ in instances],
            "pool_slots": [task.pool_slots for _, _, task, _, _ in instances],
            "priority": [task.priority_weight for _, _, task, _, _ in instances],
            "ready_order": [order for *_, order in instances],
        },
    )
    return {(row["run_pk"], row["task_index"]): row["id"] for row in rows}


_ACTIVE = sa.text(
    "SELECT d.id AS dag_pk, d.max_active_runs,"
    " (SELECT count(*) FROM dag_run r WHERE r.dag_pk = d.id AND r.state = 'running') AS running,"
    " (SELECT count(*) FROM dag_run r WHERE r.dag_pk = d.id AND r.state = 'queued') AS queued"
    " FROM dag d WHERE d.id = ANY(:keys)"
)


async def count_active(tx: Reading, dag_pks: Collection[int]) -> dict[int, Row]:
    """max_active_runs, running and queued runs by dag key."""
    rows = await tx.fetch(_ACTIVE, {"keys": sorted(dag_pks)})
    return {row["dag_pk"]: row for row in rows}


_QUEUED = sa.select(t.dag_run.c.id, t.dag_run.c.dag_pk, t.dag_run.c.run_after, t.dag_run.c.version_id).where(
    t.dag_run.c.id == sa.any_(keys_param())
)
_START = sa.text("UPDATE dag_run SET state = 'running', start_date = :now WHERE id = ANY(:keys) AND state = 'queued'")


async def queued(tx: Reading, run_pks: Collection[int]) -> Sequence[Row]:
    """What `starting.startable` needs of queued runs."""
    return await tx.fetch(_QUEUED, {"keys": sorted(run_pks)})


async def start(tx: Transaction, run_pks: Collection[int]) -> None:
    """queued to running."""
    await tx.write(Lock.DAG_RUN, run_pks, _START, {"now": tx.now, "keys": sorted(run_pks)})


_DAGS_WITH_QUEUED = sa.text(
    "SELECT DISTINCT d.id FROM dag d JOIN dag_run r ON r.dag_pk = d.id AND r.state = 'queued'"
    " WHERE NOT d.is_paused AND r.run_after <= :now AND d.max_active_runs >"
    " (SELECT count(*) FROM dag_run a WHERE a.dag_pk = d.id AND a.state = 'running') ORDER BY d.id LIMIT :at_most"
)


async def dags_with_startable(tx: Reading, at_most: int) -> list[int]:
    """Keys of unpaused dags that have queued runs and room for one."""
    rows = await tx.fetch(_DAGS_WITH_QUEUED, {"now": tx.now, "at_most": at_most})
    return [row["id"] for row in rows]


_ANY_QUEUED = sa.text("SELECT EXISTS (SELECT FROM dag_run WHERE state = 'queued') AS found")


async def is_any_queued(tx: Reading) -> bool:
    """Of any dag, whether or not it may start."""
    (row,) = await tx.fetch(_ANY_QUEUED)
    return bool(row["found"])


_FACTS = sa.text(
    "SELECT r.id, r.version_id, r.seq, r.state, r.verdict, r.start_date, d.is_paused, d.dag_id, r.run_id"
    " FROM dag_run r JOIN dag d ON d.id = r.dag_pk WHERE r.id = ANY(:keys)"
)


async def facts(tx: Reading, run_pks: Collection[int]) -> dict[int, Row]:
    """What judging a run needs to know about it, by key."""
    return {row["id"]: row for row in await tx.fetch(_FACTS, {"keys": sorted(run_pks)})}


_CARDS = sa.text(
    "SELECT r.id, r.seq, r.version_id, r.run_id, r.run_type, r.logical_date, r.data_interval_start,"
    " r.data_interval_end, r.run_after, r.conf, r.start_date, d.dag_id, d.file, v.source_hash"
    " FROM dag_run r JOIN dag d ON d.id = r.dag_pk JOIN dag_version v ON v.id = r.version_id WHERE r.id = ANY(:keys)"
)


async def cards(tx: Reading, run_pks: Collection[int]) -> dict[int, Row]:
    """What a workload tells of its run, by key: does not change as long as the run's `seq` does not."""
    return {row["id"]: row for row in await tx.fetch(_CARDS, {"keys": sorted(run_pks)})}


_IMPOSE = sa.text("UPDATE dag_run SET verdict = coalesce(verdict, :verdict), seq = seq + 1 WHERE id = ANY(:keys)")
_END_QUEUED = sa.text(
    "UPDATE dag_run SET verdict = :verdict, state = :state, end_date = :now, seq = seq + 1 WHERE id = ANY(:keys)"
)


async def impose(tx: Transaction, run_pks: Collection[int], verdict: Verdict) -> None:
    """Set a verdict on running runs; the first one stays."""
    await tx.write(Lock.DAG_RUN, run_pks, _IMPOSE, {"keys": sorted(run_pks), "verdict": str(verdict)})


async def end_queued(tx: Transaction, run_pks: Collection[int], verdict: Verdict) -> None:
    """queued to failed, or as the verdict says, for runs that never started."""
    parameters = {"keys": sorted(run_pks), "verdict": str(verdict), "state": str(verdict.end), "now": tx.now}
    await tx.write(Lock.DAG_RUN, run_pks, _END_QUEUED, parameters)


_FIND = sa.text(
    "SELECT r.id, r.run_id, r.state, d.dag_id FROM dag_run r JOIN dag d ON d.id = r.dag_pk"
    " WHERE r.run_id = :run_id AND (CAST(:dag_id AS text) IS NULL OR d.dag_id = :dag_id) ORDER BY r.id"
)


async def find(tx: Reading, *, run_id: str, dag_id: str | None) -> Sequence[Row]:
    """Runs of that id, of one dag or of all."""
    return await tx.fetch(_FIND, {"run_id": run_id, "dag_id": dag_id})


def timers(runs: Iterable[tuple[int, Graph]], now: datetime) -> list[tuple[int, datetime]]:
    """(run key, instant) for each run whose dag limits the time of a run."""
    return [
        (run_pk, now + timedelta(seconds=graph.dag.dagrun_timeout))
        for run_pk, graph in runs
        if graph.dag.dagrun_timeout is not None
    ]
