"""Task instances: locked, read, skipped, rescued. What becomes of their attempts stands in `attempts.py`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from scheduler.decisions.readiness import Seen
from scheduler.model import AttemptState, TaskState
from scheduler.store import tables as t
from scheduler.store.attempts import JUDGEABLE
from scheduler.store.locks import Lock, Wait, by_key, keys_param, locking
from scheduler.store.writer import Reading, Row, Transaction

LOCK_KEYS = by_key(Lock.TASK_INSTANCE, wait=Wait.WAIT)
LOCK_JUDGEABLE = by_key(Lock.TASK_INSTANCE, t.task_instance.c.state.in_(JUDGEABLE), wait=Wait.WAIT)
LOCK_UNFINISHED = locking(
    Lock.TASK_INSTANCE,
    sa.and_(
        t.task_instance.c.run_pk == sa.any_(keys_param("runs")),
        t.task_instance.c.state.in_((*JUDGEABLE, TaskState.QUEUED, TaskState.RUNNING, TaskState.RESTARTING)),
    ),
    wait=Wait.WAIT,
)
_tokens: sa.BindParameter[Any] = sa.bindparam("tokens", type_=sa.ARRAY(t.attempt.c.token.type))
LOCK_OF_TOKENS = locking(
    Lock.TASK_INSTANCE,
    # attempt.ti_id never changes, so what this sub-select read cannot be stale after a wait
    t.task_instance.c.id.in_(sa.select(t.attempt.c.ti_id).where(t.attempt.c.token == sa.any_(_tokens))),
    wait=Wait.WAIT,
)

# --- judging ------------------------------------------------------------------------------------------------

_OF_RUN = sa.select(
    t.task_instance.c.id,
    t.task_instance.c.run_pk,
    t.task_instance.c.task_index,
    t.task_instance.c.state,
    t.task_instance.c.retry_at,
    t.task_instance.c.decision,
).where(t.task_instance.c.run_pk == sa.any_(keys_param("runs")))


def seen(row: Row) -> Seen:
    """A row of an instance as the decisions want it."""
    return Seen(
        key=row["id"],
        index=row["task_index"],
        state=TaskState(row["state"]),
        retry_at=row["retry_at"],
        decision=row["decision"],
    )


async def of_runs(tx: Reading, run_pks: Collection[int]) -> dict[int, list[Seen]]:
    """All instances of these runs, by run."""
    found: dict[int, list[Seen]] = {run_pk: [] for run_pk in run_pks}
    for row in await tx.fetch(_OF_RUN, {"runs": sorted(run_pks)}):
        found[row["run_pk"]].append(seen(row))
    return found


# --- admission ----------------------------------------------------------------------------------------------

_READY = sa.text(
    "SELECT ti.id, ti.run_pk, ti.task_index, ti.pool, ti.pool_slots, ti.priority, ti.ready_order FROM task_instance ti"
    " JOIN dag_run r ON r.id = ti.run_pk AND r.state = 'running' AND r.verdict IS NULL"
    " JOIN dag d ON d.id = r.dag_pk AND NOT d.is_paused"
    " WHERE ti.state = 'scheduled' AND ti.run_pk <> ALL(:full_runs) AND ti.pool <> ALL(:full_pools)"
    " ORDER BY ti.priority DESC, ti.ready_order, ti.task_index, ti.id LIMIT :at_most"
)
HELD = (
    "SELECT ti.id, ti.run_pk, ti.task_index, ti.task_id, ti.state, ti.map_index, ti.try_number, ti.max_tries,"
    " ti.losses, ti.token, ti.imposed, a.state AS attempt_state, a.report, a.cancel_requested_at"
    " FROM task_instance ti LEFT JOIN attempt a ON a.token = ti.token WHERE ti.id = ANY(:keys)"
)
_HELD = sa.text(HELD)


async def ready(tx: Reading, *, full_runs: Collection[int], full_pools: Collection[str], at_most: int) -> Sequence[Row]:
    """Scheduled instances in order of admission, without those whose run or pool is known to be full."""
    parameters = {"full_runs": sorted(full_runs), "full_pools": sorted(full_pools), "at_most": at_most}
    return await tx.fetch(_READY, parameters)


async def held(tx: Reading, keys: Collection[int]) -> dict[int, Row]:
    """Held instances with their live attempts, by key; without one, `token` and what is of the attempt are None."""
    return {row["id"]: row for row in await tx.fetch(_HELD, {"keys": sorted(keys)})}


_FORGET_RESULTS = sa.text("DELETE FROM xcom WHERE ti_id = ANY(:keys)")
_INPUTS = sa.text(
    "SELECT ti.run_pk, ti.task_index, x.value"
    " FROM unnest(CAST(:runs AS bigint[]), CAST(:indexes AS integer[])) AS v(run_pk, task_index)"
    " JOIN task_instance ti ON ti.run_pk = v.run_pk AND ti.task_index = v.task_index AND ti.state = 'success'"
    " JOIN xcom x ON x.ti_id = ti.id AND x.key = 'return_value'"
)


async def forget_results(tx: Transaction, keys: Collection[int]) -> None:
    """Delete what earlier attempts of held instances returned."""
    await tx.write_satellite(t.xcom, keys, _FORGET_RESULTS, {"keys": sorted(keys)})


async def results(tx: Reading, places: Collection[tuple[int, int]]) -> dict[tuple[int, int], Any]:
    """Returned values of successful instances by (run key, task position); without a value: absent."""
    ordered = sorted(places)
    parameters = {"runs": [run for run, _ in ordered], "indexes": [index for _, index in ordered]}
    rows = await tx.fetch(_INPUTS, parameters)
    return {(row["run_pk"], row["task_index"]): msgspec.json.decode(row["value"]) for row in rows}


# --- verdicts -----------------------------------------------------------------------------------------------

_LIVE_OF_RUNS = sa.text("SELECT ti.id, ti.run_pk, ti.state, ti.token FROM task_instance ti WHERE ti.id = ANY(:keys)")
_SKIP = sa.text(
    "WITH v AS MATERIALIZED (SELECT * FROM unnest(CAST(:keys AS bigint[]), CAST(:tokens AS uuid[])) AS v(id, token)),"
    " ti AS (UPDATE task_instance ti SET state = 'skipped', token = NULL, retry_at = NULL, end_date = :now FROM v"
    " WHERE ti.id = v.id AND ti.token IS NOT DISTINCT FROM v.token AND ti.state = ANY(:skippable) RETURNING 1),"
    " a AS (UPDATE attempt a SET state = 'revoked', ended_at = :now, reason = 'cancelled', message = :reason FROM v"
    " WHERE a.token = v.token AND a.state = 'queued')"
    " SELECT count(*) AS touched FROM ti"
)
_REQUEST_CANCEL = sa.text(
    "UPDATE attempt SET cancel_requested_at = coalesce(cancel_requested_at, :now),"
    " cancel_reason = coalesce(cancel_reason, :reason)"
    " WHERE token = ANY(CAST(:tokens AS uuid[])) AND state = 'running'"
)


async def states_of(tx: Reading, keys: Collection[int]) -> Sequence[Row]:
    """Present state and token of held instances."""
    return await tx.fetch(_LIVE_OF_RUNS, {"keys": sorted(keys)})


async def skip(tx: Transaction, live: Mapping[int, str | None], *, reason: str) -> None:
    """Anything unfinished but running to skipped; a queued attempt loses its token and is revoked.

    `live`: the held instances with their present claim tokens, None where there is no attempt.
    """
    if live:
        parameters = {
            "now": tx.now,
            "keys": list(live),
            "tokens": list(live.values()),
            "skippable": [str(state) for state in (*JUDGEABLE, TaskState.QUEUED)],
            "reason": reason,
        }
        await tx.write_with_satellites(Lock.TASK_INSTANCE, live.keys(), _SKIP, parameters)


async def request_cancel(tx: Transaction, live: Mapping[int, str], *, reason: str) -> None:
    """Ask for the end of running attempts; who holds them is told after the commit, and again until they end.

    `live`: the held instances with their claim tokens.
    """
    if live:
        parameters = {"now": tx.now, "tokens": list(live.values()), "reason": reason}
        await tx.write_satellite(t.attempt, live.keys(), _REQUEST_CANCEL, parameters)


_CANCELS = sa.text(
    "SELECT token, cancel_reason FROM attempt WHERE state = 'running' AND worker = ANY(CAST(:workers AS uuid[]))"
    " AND cancel_requested_at IS NOT NULL"
)


async def cancels(tx: Reading, workers: Collection[str]) -> list[tuple[str, str]]:
    """(token, reason) of running attempts at these workers that are to be stopped."""
    rows = await tx.fetch(_CANCELS, {"workers": sorted(workers)})
    return [(str(row["token"]), row["cancel_reason"] or "cancelled") for row in rows]


# --- rescue -------------------------------------------------------------------------------------------------

_LOST = sa.text(
    "SELECT a.token FROM attempt a JOIN seat s ON s.uuid = a.worker"
    " WHERE s.id = ANY(:seats) AND a.state = 'running' ORDER BY a.token LIMIT :at_most"
)
_STUCK = sa.text(
    "SELECT a.token FROM attempt a LEFT JOIN seat s ON s.uuid = a.daemon"
    " WHERE a.state = 'queued' AND (a.queued_at < CAST(:now AS timestamptz) - make_interval(secs => :patience)"
    " OR s.lease_until IS NULL OR s.lease_until < :now) ORDER BY a.queued_at LIMIT :at_most"
)
CLAIM_EXPIRED_WORKERS = locking(
    Lock.SEAT,
    sa.and_(
        t.seat.c.kind == "worker",
        t.seat.c.lease_until < sa.bindparam("now", type_=sa.DateTime(timezone=True)),
        sa.exists().where(t.attempt.c.worker == t.seat.c.uuid, t.attempt.c.state == AttemptState.RUNNING),
    ),
    wait=Wait.SKIP,
    limit=True,
)


async def tokens_lost_with(tx: Reading, seats: Iterable[int], *, at_most: int) -> list[str]:
    """Tokens of attempts that ran at these seats."""
    rows = await tx.fetch(_LOST, {"seats": sorted(seats), "at_most": at_most})
    return [str(row["token"]) for row in rows]


_RUNNING_AT = sa.text(
    "SELECT token, worker FROM attempt WHERE state = 'running' AND worker = ANY(CAST(:workers AS uuid[]))"
    " ORDER BY token"
)


async def running_at(tx: Reading, workers: Collection[str]) -> dict[str, str]:
    """Tokens of attempts that run at these workers, each with its worker."""
    rows = await tx.fetch(_RUNNING_AT, {"workers": sorted(workers)})
    return {str(row["token"]): str(row["worker"]) for row in rows}


async def tokens_stuck(tx: Reading, *, patience: float, at_most: int) -> list[str]:
    """Tokens of attempts that were handed over but never started: too long ago, or by a daemon that is gone."""
    rows = await tx.fetch(_STUCK, {"now": tx.now, "patience": patience, "at_most": at_most})
    return [str(row["token"]) for row in rows]
