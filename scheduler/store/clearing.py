"""Clearing and marking: instances rewritten by an operator's wish, runs that begin again.

Every write names the state and the claim token that were read under the locks. An instance with a running attempt
keeps its token, as the fence of the one thing that may still be said of it: that it has ended.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa
from attrs import frozen

from scheduler.model import RunState, TaskState, Verdict
from scheduler.model.states import sources
from scheduler.store import tables as t
from scheduler.store.locks import Lock, keys_param
from scheduler.store.writer import Reading, Row, Transaction

# --- who is meant -------------------------------------------------------------------------------------------

_RUN = sa.text(
    "SELECT r.id, r.logical_date, r.dag_pk, (SELECT count(*) FROM task_instance ti WHERE ti.run_pk = r.id) AS tasks"
    " FROM dag_run r JOIN dag d ON d.id = r.dag_pk"
    " WHERE r.run_id = :run_id AND d.dag_id = :dag_id"
)
_BESIDE = sa.text(
    "SELECT r.id, (SELECT count(*) FROM task_instance ti WHERE ti.run_pk = r.id) AS tasks FROM dag_run r"
    " WHERE r.dag_pk = :dag AND ((:past AND r.logical_date < :date) OR (:future AND r.logical_date > :date))"
)
_FACTS = sa.text(
    "SELECT r.id, r.run_id, r.state, r.verdict, r.version_id, d.dag_id FROM dag_run r JOIN dag d ON d.id = r.dag_pk"
    " WHERE r.id = ANY(:keys) ORDER BY r.id"
)
_INSTANCES = sa.select(
    t.task_instance.c.id,
    t.task_instance.c.run_pk,
    t.task_instance.c.task_index,
    t.task_instance.c.task_id,
    t.task_instance.c.map_index,
    t.task_instance.c.state,
    t.task_instance.c.token,
).where(t.task_instance.c.run_pk == sa.any_(keys_param("runs")))


async def run(tx: Reading, *, dag_id: str, run_id: str) -> Row | None:
    """Key, logical date, dag and number of tasks of one run."""
    rows = await tx.fetch(_RUN, {"dag_id": dag_id, "run_id": run_id})
    return rows[0] if rows else None


async def runs_beside(tx: Reading, *, dag_pk: int, date: datetime, past: bool, future: bool) -> list[tuple[int, int]]:
    """(key, number of tasks) of the dag's runs with an earlier, a later, logical date."""
    rows = await tx.fetch(_BESIDE, {"dag": dag_pk, "date": date, "past": past, "future": future})
    return [(row["id"], row["tasks"]) for row in rows]


async def facts(tx: Reading, run_pks: Collection[int]) -> Sequence[Row]:
    """What deciding about these runs needs to know of them, by key."""
    return await tx.fetch(_FACTS, {"keys": sorted(run_pks)})


async def instances(tx: Reading, run_pks: Collection[int]) -> dict[int, list[Row]]:
    """All instances of these runs, by run."""
    found: dict[int, list[Row]] = {run_pk: [] for run_pk in run_pks}
    for row in await tx.fetch(_INSTANCES, {"runs": sorted(run_pks)}):
        found[row["run_pk"]].append(row)
    return found


# --- instances ----------------------------------------------------------------------------------------------

_CLEAR = sa.text(
    "WITH v AS MATERIALIZED (SELECT * FROM unnest(CAST(:keys AS bigint[]), CAST(:was AS text[]),"
    " CAST(:tokens AS uuid[]), CAST(:states AS text[]), CAST(:retries AS integer[]))"
    " AS v(id, was, token, state, retries)),"
    " ti AS (UPDATE task_instance ti SET state = v.state, imposed = NULL, decision = NULL, retry_at = NULL, losses = 0,"
    " max_tries = ti.try_number + v.retries, end_date = NULL,"
    " token = CASE WHEN v.state = 'restarting' THEN ti.token END,"
    " start_date = CASE WHEN v.state = 'restarting' THEN ti.start_date END"
    " FROM v WHERE ti.id = v.id AND ti.state = v.was AND ti.token IS NOT DISTINCT FROM v.token RETURNING 1),"
    # an attempt that was never started can no longer win its start
    " a AS (UPDATE attempt a SET state = 'revoked', ended_at = :now, reason = 'cancelled', message = :reason FROM v"
    " WHERE a.token = v.token AND a.state = 'queued'),"
    # a running one is asked to end: whoever holds it is told after the commit, and again until it has
    " c AS (UPDATE attempt a SET cancel_requested_at = coalesce(a.cancel_requested_at, :now),"
    " cancel_reason = coalesce(a.cancel_reason, :reason) FROM v WHERE a.token = v.token AND a.state = 'running')"
    " SELECT count(*) AS touched FROM ti"
)
_MARK = sa.text(
    "WITH v AS MATERIALIZED (SELECT * FROM unnest(CAST(:keys AS bigint[]), CAST(:was AS text[]),"
    " CAST(:tokens AS uuid[]), CAST(:states AS text[])) AS v(id, was, token, state)),"
    " ti AS (UPDATE task_instance ti SET state = v.state, token = NULL, decision = NULL, retry_at = NULL,"
    " end_date = coalesce(ti.end_date, :now)"
    " FROM v WHERE ti.id = v.id AND ti.state = v.was AND ti.token IS NOT DISTINCT FROM v.token RETURNING 1),"
    # an attempt that was never started can no longer win its start
    " a AS (UPDATE attempt a SET state = 'revoked', ended_at = :now, reason = 'cancelled', message = :reason FROM v"
    " WHERE a.token = v.token AND a.state = 'queued')"
    " SELECT count(*) AS touched FROM ti"
)
_IMPOSE = sa.text(
    "WITH v AS MATERIALIZED (SELECT * FROM unnest(CAST(:keys AS bigint[]), CAST(:was AS text[]),"
    " CAST(:tokens AS uuid[]), CAST(:states AS text[])) AS v(id, was, token, state)),"
    " ti AS (UPDATE task_instance ti SET imposed = v.state"
    " FROM v WHERE ti.id = v.id AND ti.state = v.was AND ti.token = v.token RETURNING 1),"
    # a running one is asked to end: whoever holds it is told after the commit, and again until it has
    " c AS (UPDATE attempt a SET cancel_requested_at = coalesce(a.cancel_requested_at, :now),"
    " cancel_reason = coalesce(a.cancel_reason, :reason) FROM v WHERE a.token = v.token AND a.state = 'running')"
    " SELECT count(*) AS touched FROM ti"
)
_STOPPED = sa.text(
    "WITH v AS MATERIALIZED (SELECT * FROM unnest(CAST(:keys AS bigint[]), CAST(:tokens AS uuid[]),"
    " CAST(:states AS text[]), CAST(:exit_codes AS integer[]), CAST(:reasons AS text[]), CAST(:messages AS text[]))"
    " AS v(id, token, state, exit_code, reason, message)),"
    " ti AS (UPDATE task_instance ti SET state = v.state, token = NULL, imposed = NULL, decision = NULL,"
    " start_date = CASE WHEN v.state <> 'none' THEN ti.start_date END,"
    " end_date = CASE WHEN v.state <> 'none' THEN CAST(:now AS timestamptz) END"
    " FROM v WHERE ti.id = v.id AND ti.token = v.token AND (ti.state = 'restarting' OR ti.imposed IS NOT NULL)"
    " RETURNING 1),"
    " a AS (UPDATE attempt a SET state = 'revoked', ended_at = :now, exit_code = v.exit_code, reason = v.reason,"
    " message = v.message FROM v WHERE a.token = v.token)"
    " SELECT count(*) AS touched FROM ti"
)


@frozen(kw_only=True)
class Rewrite:
    """What becomes of one held instance, and what it was when it was read under its lock."""

    key: int
    was: TaskState
    token: str | None
    state: TaskState
    retries: int = 0
    """Cleared: so many tries more, from here on."""


def _columns(rewrites: Sequence[Rewrite]) -> dict[str, list[object]]:
    return {
        "keys": [one.key for one in rewrites],
        "was": [str(one.was) for one in rewrites],
        "tokens": [one.token for one in rewrites],
        "states": [str(one.state) for one in rewrites],
    }


async def clear(tx: Transaction, rewrites: Sequence[Rewrite], *, reason: str) -> None:
    """Back to `none`, or `restarting` where an attempt runs."""
    for one in rewrites:
        assert one.was in sources("clear", one.state), one
    if rewrites:
        retries = [one.retries for one in rewrites]
        await tx.write_with_satellites(
            Lock.TASK_INSTANCE,
            [one.key for one in rewrites],
            _CLEAR,
            {**_columns(rewrites), "retries": retries, "now": tx.now, "reason": reason},
        )


async def mark(tx: Transaction, rewrites: Sequence[Rewrite], *, reason: str) -> None:
    """Success, failed or skipped at once, for instances that no attempt runs of."""
    for one in rewrites:
        assert one.was in sources("mark", one.state), one
    if rewrites:
        parameters = {**_columns(rewrites), "now": tx.now, "reason": reason}
        await tx.write_with_satellites(Lock.TASK_INSTANCE, [one.key for one in rewrites], _MARK, parameters)


async def impose(tx: Transaction, rewrites: Sequence[Rewrite], *, reason: str) -> None:
    """The state comes when the running attempt has ended: see `stopped`."""
    for one in rewrites:
        assert one.was in sources("stop", one.state), one
    if rewrites:
        parameters = {**_columns(rewrites), "now": tx.now, "reason": reason}
        await tx.write_with_satellites(Lock.TASK_INSTANCE, [one.key for one in rewrites], _IMPOSE, parameters)


@frozen(kw_only=True)
class Stopped:
    """A cleared or marked attempt that is proved to have ended, and what its instance becomes."""

    key: int
    token: str
    was: TaskState
    state: TaskState
    exit_code: int | None = None
    reason: str = ""
    message: str = ""


async def stopped(tx: Transaction, ends: Sequence[Stopped]) -> None:
    """restarting to none, or what was imposed; whatever the attempt itself has to say is not heard."""
    for one in ends:
        assert one.was in sources("stop", one.state), one
    await tx.write_with_satellites(
        Lock.TASK_INSTANCE,
        [one.key for one in ends],
        _STOPPED,
        {
            "now": tx.now,
            "keys": [one.key for one in ends],
            "tokens": [one.token for one in ends],
            "states": [str(one.state) for one in ends],
            "exit_codes": [one.exit_code for one in ends],
            "reasons": [one.reason for one in ends],
            "messages": [one.message for one in ends],
        },
    )


# --- runs ---------------------------------------------------------------------------------------------------

_REQUEUE = sa.text(
    "UPDATE dag_run SET state = 'queued', verdict = NULL, queued_at = :now, start_date = NULL, end_date = NULL,"
    " clear_count = clear_count + 1, seq = seq + 1 WHERE id = ANY(:keys) AND state IN ('success', 'failed')"
)
_DROP_TIMERS = sa.text("DELETE FROM event WHERE run_pk = ANY(:keys) AND kind = 'timeout'")
_END_ANEW = sa.text(
    "UPDATE dag_run r SET state = v.state, verdict = coalesce(:verdict, r.verdict), seq = r.seq + 1"
    " FROM unnest(CAST(:keys AS bigint[]), CAST(:states AS text[])) AS v(id, state)"
    " WHERE r.id = v.id AND r.state IN ('success', 'failed')"
)


async def requeue(tx: Transaction, run_pks: Collection[int]) -> None:
    """Finished runs to queued, as if they had never started; their limit of time begins when they start again."""
    if run_pks:
        keys = {"keys": sorted(run_pks)}
        await tx.write(Lock.DAG_RUN, run_pks, _REQUEUE, keys | {"now": tx.now})
        await tx.consume(t.event, run_pks, _DROP_TIMERS, keys)


async def end_anew(tx: Transaction, ends: Mapping[int, RunState], *, verdict: Verdict | None = None) -> None:
    """Another end for runs that are over; when they ended stays."""
    if ends:
        states = [str(state) for state in ends.values()]
        parameters = {"keys": list(ends), "states": states, "verdict": None if verdict is None else str(verdict)}
        await tx.write(Lock.DAG_RUN, ends.keys(), _END_ANEW, parameters)
