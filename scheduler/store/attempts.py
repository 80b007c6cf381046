"""Attempts of held task instances: made, started, ended. And a whole hop in one statement.

What follows from successes is known before it is written (`procedures/advance.py`): attempts end, what has become
ready gets attempts of its own or waits for them, runs move on. Each of these is a piece of SQL with parameters of
its own (`_ENDING`, `_ADMITTING`, `_JUDGING`, `_MOVING`); alone it is a statement, and together they are one (`hop`).
The instances they write are different ones and all rows are held, so it does not matter in which order they run.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from attrs import frozen

from scheduler.decisions.outcomes import Consequence
from scheduler.model import RunState, TaskState
from scheduler.model.states import sources
from scheduler.store.locks import Lock
from scheduler.store.writer import Reading, Row, Transaction

JUDGEABLE = (TaskState.NONE, TaskState.UP_FOR_RETRY, TaskState.SCHEDULED)

# --- the pieces ---------------------------------------------------------------------------------------------
#
# `state || ''`: rows are found by their keys. A bare `state` makes the index of what is active look like a short way,
# and while an old snapshot is held that index keeps an entry of everything that has been active.

_ENDING = (
    "ending AS MATERIALIZED (SELECT * FROM unnest(CAST(:end_keys AS bigint[]), CAST(:end_tokens AS uuid[]),"
    " CAST(:end_states AS text[]), CAST(:end_attempts AS text[]), CAST(:end_losses AS integer[]),"
    " CAST(:end_retries AS timestamptz[]), CAST(:end_decisions AS text[]), CAST(:exit_codes AS integer[]),"
    " CAST(:reasons AS text[]), CAST(:messages AS text[]), CAST(:reports AS text[]), CAST(:results AS text[]),"
    " CAST(:pids AS integer[])) AS v(id, token, state, attempt, losses, retry_at, decision, exit_code, reason, message,"
    " report, result, pid)),"
    " ended AS (UPDATE task_instance ti SET state = v.state, token = NULL, losses = v.losses, retry_at = v.retry_at,"
    " decision = CAST(v.decision AS jsonb),"
    " end_date = CASE WHEN v.state = 'scheduled' THEN NULL ELSE CAST(:now AS timestamptz) END FROM ending v"
    " WHERE ti.id = v.id AND ti.token = v.token AND ti.state || '' IN ('queued', 'running') RETURNING 1),"
    " ended_attempts AS (UPDATE attempt a SET state = v.attempt, ended_at = :now, exit_code = v.exit_code,"
    " reason = v.reason, message = v.message, report = v.report, pid = coalesce(v.pid, a.pid) FROM ending v"
    " WHERE a.token = v.token),"
    " returned AS (INSERT INTO xcom (ti_id, key, value) SELECT v.id, 'return_value', v.result FROM ending v"
    " WHERE v.result IS NOT NULL AND v.state = 'success'"
    " ON CONFLICT (ti_id, key) DO UPDATE SET value = excluded.value)"
)
_ADMITTING = (
    "claim AS MATERIALIZED (SELECT * FROM unnest(CAST(:claim_keys AS bigint[]), CAST(:claim_tokens AS uuid[]),"
    " CAST(:claim_tries AS integer[]), CAST(:logs AS text[]), CAST(:workers AS uuid[]), CAST(:hostnames AS text[]))"
    " AS v(id, token, try_number, log_path, worker, hostname)),"
    " admitted AS (UPDATE task_instance ti SET"
    " state = CASE WHEN v.worker IS NULL THEN 'queued' ELSE 'running' END,"
    " token = v.token, try_number = v.try_number, retry_at = NULL,"
    " start_date = CASE WHEN v.worker IS NOT NULL THEN CAST(:now AS timestamptz) END, end_date = NULL"
    " FROM claim v WHERE ti.id = v.id AND ti.state = ANY(:judgeable) RETURNING 1),"
    " new_attempts AS (INSERT INTO attempt (token, ti_id, try_number, state, daemon, worker, hostname, queued_at,"
    " started_at, log_path) SELECT v.token, v.id, v.try_number,"
    " CASE WHEN v.worker IS NULL THEN 'queued' ELSE 'running' END,"
    " CAST(:daemon AS uuid), v.worker, v.hostname, :now,"
    " CASE WHEN v.worker IS NOT NULL THEN CAST(:now AS timestamptz) END, v.log_path FROM claim v)"
)
_JUDGING = (
    "judged AS (UPDATE task_instance ti SET state = v.state, retry_at = NULL,"
    " try_number = ti.try_number + CASE WHEN v.state IN ('scheduled', 'success') THEN 1 ELSE 0 END,"
    " end_date = CASE WHEN v.state = 'scheduled' THEN NULL ELSE CAST(:now AS timestamptz) END,"
    " start_date = CASE WHEN v.state = 'scheduled' THEN NULL ELSE ti.start_date END"
    " FROM unnest(CAST(:keys AS bigint[]), CAST(:states AS text[])) AS v(id, state)"
    " WHERE ti.id = v.id AND ti.state = ANY(:judgeable) RETURNING 1)"
)
_MOVING = (
    "moved AS (UPDATE dag_run r SET seq = r.seq + 1, state = coalesce(v.state, r.state),"
    " end_date = CASE WHEN v.state IS NULL THEN r.end_date ELSE :now END"
    " FROM unnest(CAST(:runs AS bigint[]), CAST(:run_states AS text[])) AS v(id, state) WHERE r.id = v.id RETURNING 1)"
)


def _statement(*pieces: str, count: str) -> sa.TextClause:
    return sa.text(f"WITH {', '.join(pieces)} {count}")


# --- alone --------------------------------------------------------------------------------------------------

_BY_TOKEN = sa.text(
    "SELECT a.token, a.ti_id, a.state AS attempt_state, a.worker, a.report, a.cancel_requested_at,"
    " ti.run_pk, ti.task_index, ti.state, ti.imposed, ti.try_number, ti.max_tries, ti.losses,"
    " ti.token IS NOT DISTINCT FROM a.token AS live, r.version_id, r.verdict, d.dag_id, r.run_id, ti.task_id"
    " FROM attempt a JOIN task_instance ti ON ti.id = a.ti_id JOIN dag_run r ON r.id = ti.run_pk"
    " JOIN dag d ON d.id = r.dag_pk"
    " WHERE a.token = ANY(CAST(:tokens AS uuid[]))"
)
_ADMIT = _statement(_ADMITTING, count="SELECT count(*) AS touched FROM admitted")
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
_END = _statement(_ENDING, count="SELECT count(*) AS touched FROM ended")
_JUDGE = _statement(_JUDGING, count="SELECT count(*) AS touched FROM judged")
_MOVE = _statement(_MOVING, count="SELECT count(*) AS touched FROM moved")
_HOP = _statement(
    _MOVING,
    _ENDING,
    _JUDGING,
    _ADMITTING,
    count="SELECT (SELECT count(*) FROM moved) AS dag_run, (SELECT count(*) FROM ended)"
    " + (SELECT count(*) FROM judged) + (SELECT count(*) FROM admitted) AS task_instance",
)


async def by_token(tx: Reading, tokens: Collection[str]) -> dict[str, Row]:
    """Attempts with their instances, by token; `live` says that the token is still the instance's own."""
    rows = await tx.fetch(_BY_TOKEN, {"tokens": sorted(tokens)})
    return {str(row["token"]): row for row in rows}


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
    if claims:
        parameters = {"now": tx.now, **_claimed(claims, daemon), **_judgeable()}
        await tx.write_with_satellites(Lock.TASK_INSTANCE, [claim.key for claim in claims], _ADMIT, parameters)


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
    if ends:
        parameters = {"now": tx.now, **_ended(ends)}
        await tx.write_with_satellites(Lock.TASK_INSTANCE, [one.key for one in ends], _END, parameters)


async def judge(tx: Transaction, changes: Mapping[int, TaskState]) -> None:
    """Write what judging decided, for held candidates."""
    if changes:
        parameters = {"now": tx.now, **_changed(changes), **_judgeable()}
        await tx.write_with_satellites(Lock.TASK_INSTANCE, changes.keys(), _JUDGE, parameters)


async def move(tx: Transaction, ends: Mapping[int, RunState | None]) -> None:
    """Count one more change of these runs' instances, and finish those that have an end."""
    if ends:
        await tx.write_with_satellites(Lock.DAG_RUN, ends.keys(), _MOVE, {"now": tx.now, **_moved(ends)})


# --- together -----------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Hop:
    """What is written together, of held rows; no instance is in two of its parts."""

    runs: Mapping[int, RunState | None]
    """Runs that move on, as for `move`."""
    ends: Sequence[End]
    changes: Mapping[int, TaskState]
    """Judged and not admitted, as for `judge`."""
    claims: Sequence[Claim]


async def hop(tx: Transaction, made: Hop, *, daemon: str) -> None:
    """`move`, `end`, `judge` and `admit` as one statement. Nothing but claims: as `admit`."""
    if not (made.runs or made.ends or made.changes):
        await admit(tx, made.claims, daemon=daemon)
        return
    instances = [one.key for one in made.ends] + [*made.changes] + [claim.key for claim in made.claims]
    await tx.write_together(
        {Lock.DAG_RUN: list(made.runs), Lock.TASK_INSTANCE: instances},
        _HOP,
        {
            "now": tx.now,
            **_moved(made.runs),
            **_ended(made.ends),
            **_changed(made.changes),
            **_claimed(made.claims, daemon),
            **_judgeable(),
        },
    )


def _moved(ends: Mapping[int, RunState | None]) -> dict[str, Any]:
    return {"runs": list(ends), "run_states": [None if state is None else str(state) for state in ends.values()]}


def _changed(changes: Mapping[int, TaskState]) -> dict[str, Any]:
    return {"keys": list(changes), "states": [str(state) for state in changes.values()]}


def _judgeable() -> dict[str, Any]:
    return {"judgeable": [str(state) for state in JUDGEABLE]}


def _claimed(claims: Sequence[Claim], daemon: str) -> dict[str, Any]:
    return {
        "daemon": daemon,
        "claim_keys": [claim.key for claim in claims],
        "claim_tokens": [claim.token for claim in claims],
        "claim_tries": [claim.try_number for claim in claims],
        "logs": [claim.log_path for claim in claims],
        "workers": [claim.worker for claim in claims],
        "hostnames": [claim.hostname for claim in claims],
    }


def _ended(ends: Sequence[End]) -> dict[str, Any]:
    for one in ends:
        assert sources("end", one.consequence.state), one.consequence
    return {
        "end_keys": [one.key for one in ends],
        "end_tokens": [one.token for one in ends],
        "end_states": [str(one.consequence.state) for one in ends],
        "end_attempts": [str(one.consequence.attempt) for one in ends],
        "end_losses": [one.consequence.losses for one in ends],
        "end_retries": [one.consequence.retry_at for one in ends],
        "end_decisions": [None if one.decision is None else msgspec.json.encode(one.decision).decode() for one in ends],
        "exit_codes": [one.exit_code for one in ends],
        "reasons": [one.reason for one in ends],
        "messages": [one.message for one in ends],
        "reports": [one.report for one in ends],
        "results": [one.result for one in ends],
        "pids": [one.pid for one in ends],
    }
