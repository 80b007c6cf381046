"""Task instances and their attempts: judged, admitted, started, ended. Each verb owns its transitions."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from attrs import frozen

from scheduler.decisions.outcomes import Consequence
from scheduler.decisions.readiness import Seen
from scheduler.model import AttemptState, TaskState
from scheduler.model.states import sources
from scheduler.store import tables as t
from scheduler.store.locks import Lock, Wait, by_key, keys_param, locking
from scheduler.store.writer import Reading, Row, Transaction

JUDGEABLE = (TaskState.NONE, TaskState.UP_FOR_RETRY, TaskState.SCHEDULED)

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
_SCHEDULE = sa.text(
    "UPDATE task_instance ti SET state = v.state, retry_at = NULL,"
    " try_number = ti.try_number + CASE WHEN v.state IN ('scheduled', 'success') THEN 1 ELSE 0 END,"
    " end_date = CASE WHEN v.state = 'scheduled' THEN NULL ELSE CAST(:now AS timestamptz) END,"
    " start_date = CASE WHEN v.state = 'scheduled' THEN NULL ELSE ti.start_date END"
    " FROM unnest(CAST(:keys AS bigint[]), CAST(:states AS text[])) AS v(id, state)"
    " WHERE ti.id = v.id AND ti.state = ANY(:judgeable)"
)


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


async def schedule(tx: Transaction, changes: Mapping[int, TaskState]) -> None:
    """Write what judging decided, for held candidates."""
    if not changes:
        return
    await tx.write(
        Lock.TASK_INSTANCE,
        changes.keys(),
        _SCHEDULE,
        {
            "now": tx.now,
            "keys": list(changes),
            "states": [str(state) for state in changes.values()],
            "judgeable": [str(state) for state in JUDGEABLE],
        },
    )


# --- admission ----------------------------------------------------------------------------------------------

_READY = sa.text(
    "SELECT ti.id, ti.run_pk, ti.task_index, ti.pool, ti.pool_slots, ti.priority, ti.ready_order FROM task_instance ti"
    " JOIN dag_run r ON r.id = ti.run_pk AND r.state = 'running' AND r.verdict IS NULL"
    " JOIN dag d ON d.id = r.dag_pk AND NOT d.is_paused"
    " WHERE ti.state = 'scheduled' AND ti.run_pk <> ALL(:full_runs) AND ti.pool <> ALL(:full_pools)"
    " ORDER BY ti.priority DESC, ti.ready_order, ti.task_index, ti.id LIMIT :at_most"
)
_ADMIT = sa.text(
    "WITH v AS MATERIALIZED (SELECT * FROM unnest(CAST(:keys AS bigint[]), CAST(:tokens AS uuid[]),"
    " CAST(:tries AS integer[]), CAST(:logs AS text[]), CAST(:workers AS uuid[]), CAST(:hostnames AS text[]))"
    " AS v(id, token, try_number, log_path, worker, hostname)),"
    " ti AS (UPDATE task_instance ti SET state = CASE WHEN v.worker IS NULL THEN 'queued' ELSE 'running' END,"
    " token = v.token, try_number = v.try_number, retry_at = NULL,"
    " start_date = CASE WHEN v.worker IS NOT NULL THEN CAST(:now AS timestamptz) END, end_date = NULL"
    " FROM v WHERE ti.id = v.id AND ti.state = ANY(:states) RETURNING 1),"
    " a AS (INSERT INTO attempt (token, ti_id, try_number, state, daemon, worker, hostname, queued_at, started_at,"
    " log_path) SELECT v.token, v.id, v.try_number, CASE WHEN v.worker IS NULL THEN 'queued' ELSE 'running' END,"
    " CAST(:daemon AS uuid), v.worker, v.hostname, :now,"
    " CASE WHEN v.worker IS NOT NULL THEN CAST(:now AS timestamptz) END, v.log_path FROM v)"
    " SELECT count(*) AS touched FROM ti"
)
_HELD = sa.text(
    "SELECT ti.id, ti.run_pk, ti.task_index, ti.task_id, ti.state, ti.map_index, ti.try_number, ti.max_tries,"
    " ti.losses, ti.token, ti.imposed, a.state AS attempt_state, a.report, a.cancel_requested_at"
    " FROM task_instance ti LEFT JOIN attempt a ON a.token = ti.token WHERE ti.id = ANY(:keys)"
)


async def ready(tx: Reading, *, full_runs: Collection[int], full_pools: Collection[str], at_most: int) -> Sequence[Row]:
    """Scheduled instances in order of admission, without those whose run or pool is known to be full."""
    parameters = {"full_runs": sorted(full_runs), "full_pools": sorted(full_pools), "at_most": at_most}
    return await tx.fetch(_READY, parameters)


async def held(tx: Reading, keys: Collection[int]) -> dict[int, Row]:
    """Held instances with their live attempts, by key; without one, `token` and what is of the attempt are None."""
    return {row["id"]: row for row in await tx.fetch(_HELD, {"keys": sorted(keys)})}


@frozen(kw_only=True)
class Claim:
    """A new attempt for an admitted instance."""

    key: int
    token: str
    try_number: int
    log_path: str
    worker: str | None = None
    """Where it is started at once; None: it is queued, and whoever gets it asks to start it."""
    hostname: str | None = None


async def admit(tx: Transaction, claims: Sequence[Claim], *, daemon: str) -> None:
    """scheduled to queued, or on to running, each with a new claim token and an attempt of its own.

    What was judged ready in this transaction passes through `scheduled` without stopping there.
    """
    keys = [claim.key for claim in claims]
    await tx.write_with_satellites(
        Lock.TASK_INSTANCE,
        keys,
        _ADMIT,
        {
            "now": tx.now,
            "daemon": daemon,
            "keys": keys,
            "tokens": [claim.token for claim in claims],
            "tries": [claim.try_number for claim in claims],
            "logs": [claim.log_path for claim in claims],
            "workers": [claim.worker for claim in claims],
            "hostnames": [claim.hostname for claim in claims],
            "states": [str(state) for state in JUDGEABLE],
        },
    )


# --- start and end ------------------------------------------------------------------------------------------

_BY_TOKEN = sa.text(
    "SELECT a.token, a.ti_id, a.state AS attempt_state, a.worker, a.report, a.cancel_requested_at,"
    " ti.run_pk, ti.task_index, ti.state, ti.imposed, ti.try_number, ti.max_tries, ti.losses,"
    " ti.token IS NOT DISTINCT FROM a.token AS live, r.version_id, r.verdict, d.dag_id, r.run_id, ti.task_id"
    " FROM attempt a JOIN task_instance ti ON ti.id = a.ti_id JOIN dag_run r ON r.id = ti.run_pk"
    " JOIN dag d ON d.id = r.dag_pk"
    " WHERE a.token = ANY(CAST(:tokens AS uuid[]))"
)
# `state || ''`: rows are found by their keys. A bare `state` makes the index of what is active look like a short way,
# and while an old snapshot is held that index keeps an entry of everything that has been active.
_START = sa.text(
    "WITH v AS MATERIALIZED (SELECT * FROM unnest(CAST(:keys AS bigint[]), CAST(:tokens AS uuid[]),"
    " CAST(:workers AS uuid[]), CAST(:hostnames AS text[]), CAST(:pids AS integer[]))"
    " AS v(id, token, worker, hostname, pid)),"
    " ti AS (UPDATE task_instance ti SET state = 'running', start_date = :now, end_date = NULL FROM v"
    " WHERE ti.id = v.id AND ti.token = v.token AND ti.state || '' = 'queued' RETURNING 1),"
    " a AS (UPDATE attempt a SET state = 'running', started_at = :now, worker = v.worker, hostname = v.hostname,"
    " pid = v.pid FROM v WHERE a.token = v.token AND a.state || '' = 'queued')"
    " SELECT count(*) AS touched FROM ti"
)
_FORGET_RESULTS = sa.text("DELETE FROM xcom WHERE ti_id = ANY(:keys)")
_INPUTS = sa.text(
    "SELECT ti.run_pk, ti.task_index, x.value"
    " FROM unnest(CAST(:runs AS bigint[]), CAST(:indexes AS integer[])) AS v(run_pk, task_index)"
    " JOIN task_instance ti ON ti.run_pk = v.run_pk AND ti.task_index = v.task_index AND ti.state = 'success'"
    " JOIN xcom x ON x.ti_id = ti.id AND x.key = 'return_value'"
)
_END = sa.text(
    "WITH v AS MATERIALIZED (SELECT * FROM unnest(CAST(:keys AS bigint[]), CAST(:tokens AS uuid[]),"
    " CAST(:states AS text[]), CAST(:attempts AS text[]), CAST(:losses AS integer[]), CAST(:retries AS timestamptz[]),"
    " CAST(:decisions AS text[]), CAST(:exit_codes AS integer[]), CAST(:reasons AS text[]), CAST(:messages AS text[]),"
    " CAST(:reports AS text[]), CAST(:results AS text[]), CAST(:pids AS integer[])) AS v(id, token, state, attempt,"
    " losses, retry_at, decision, exit_code, reason, message, report, result, pid)),"
    " ti AS (UPDATE task_instance ti SET state = v.state, token = NULL, losses = v.losses, retry_at = v.retry_at,"
    " decision = CAST(v.decision AS jsonb),"
    " end_date = CASE WHEN v.state = 'scheduled' THEN NULL ELSE CAST(:now AS timestamptz) END FROM v"
    " WHERE ti.id = v.id AND ti.token = v.token AND ti.state || '' IN ('queued', 'running') RETURNING 1),"
    " a AS (UPDATE attempt a SET state = v.attempt, ended_at = :now, exit_code = v.exit_code, reason = v.reason,"
    " message = v.message, report = v.report, pid = coalesce(v.pid, a.pid) FROM v WHERE a.token = v.token),"
    " x AS (INSERT INTO xcom (ti_id, key, value) SELECT v.id, 'return_value', v.result FROM v"
    " WHERE v.result IS NOT NULL AND v.state = 'success'"
    " ON CONFLICT (ti_id, key) DO UPDATE SET value = excluded.value)"
    " SELECT count(*) AS touched FROM ti"
)


async def by_token(tx: Reading, tokens: Collection[str]) -> dict[str, Row]:
    """Attempts with their instances, by token; `live` says that the token is still the instance's own."""
    rows = await tx.fetch(_BY_TOKEN, {"tokens": sorted(tokens)})
    return {str(row["token"]): row for row in rows}


@frozen(kw_only=True)
class Start:
    """An attempt that wins its start."""

    key: int
    token: str
    worker: str
    hostname: str
    pid: int


async def start(tx: Transaction, starts: Sequence[Start]) -> None:
    """queued to running, by compare-and-set on the token."""
    keys = [one.key for one in starts]
    await tx.write_with_satellites(
        Lock.TASK_INSTANCE,
        keys,
        _START,
        {
            "now": tx.now,
            "keys": keys,
            "tokens": [one.token for one in starts],
            "workers": [one.worker for one in starts],
            "hostnames": [one.hostname for one in starts],
            "pids": [one.pid for one in starts],
        },
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


@frozen(kw_only=True)
class End:
    """An attempt that ends, and what becomes of its instance."""

    key: int
    token: str
    consequence: Consequence
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    report: str = ""
    result: str | None = None
    decision: Mapping[str, Sequence[str]] | None = None
    pid: int | None = None


async def end(tx: Transaction, ends: Sequence[End]) -> None:
    """Active to finished, up_for_retry or, after a loss, back to scheduled; each fenced by its token."""
    for one in ends:
        assert sources("end", one.consequence.state), one.consequence
    keys = [one.key for one in ends]
    await tx.write_with_satellites(
        Lock.TASK_INSTANCE,
        keys,
        _END,
        {
            "now": tx.now,
            "keys": keys,
            "tokens": [one.token for one in ends],
            "states": [str(one.consequence.state) for one in ends],
            "attempts": [str(one.consequence.attempt) for one in ends],
            "losses": [one.consequence.losses for one in ends],
            "retries": [one.consequence.retry_at for one in ends],
            "decisions": [None if one.decision is None else msgspec.json.encode(one.decision).decode() for one in ends],
            "exit_codes": [one.exit_code for one in ends],
            "reasons": [one.reason for one in ends],
            "messages": [one.message for one in ends],
            "reports": [one.report for one in ends],
            "results": [one.result for one in ends],
            "pids": [one.pid for one in ends],
        },
    )


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
    "SELECT token, daemon <> CAST(:daemon AS uuid)"
    " OR started_at < CAST(:now AS timestamptz) - make_interval(secs => :patience) AS overdue"
    " FROM attempt WHERE state = 'running' AND worker = ANY(CAST(:workers AS uuid[])) ORDER BY token"
)


async def running_at(tx: Reading, workers: Collection[str], *, daemon: str, patience: float) -> dict[str, bool]:
    """Tokens of attempts that run at these workers; True: by another daemon, or over `patience` seconds ago."""
    parameters = {"now": tx.now, "workers": sorted(workers), "daemon": daemon, "patience": patience}
    return {str(row["token"]): row["overdue"] for row in await tx.fetch(_RUNNING_AT, parameters)}


async def tokens_stuck(tx: Reading, *, patience: float, at_most: int) -> list[str]:
    """Tokens of attempts that were handed over but never started: too long ago, or by a daemon that is gone."""
    rows = await tx.fetch(_STUCK, {"now": tx.now, "patience": patience, "at_most": at_most})
    return [str(row["token"]) for row in rows]
