"""The ceiling: SQL alone moves rows of the real tables, with their real indexes, through a task's states.

One client, no scheduler, no decisions, no locks but those of the statements themselves. There are two ways for a batch
of rows, and both are measured:

    all    none -> scheduled -> queued (with an attempt) -> running -> success, a transaction for each arrow
    short  none -> running (with an attempt that has started) -> success, two transactions

`all` writes every state on the way. `short` writes what the product writes of a task that finds a free slot and
succeeds (`scheduler/store/attempts.py`: `_ADMITTING` and `_ENDING`, without their conditions): half as many versions
of the rows. It is the faster of the two, so a share of it is the stricter figure.

Each transaction is one prepared statement, so that it costs one round trip. Rows are inserted beforehand and not
counted. Neither is a law of nature: larger batches are faster, and so are transactions that end one batch and start
the next, which the product has.

As a program: `python -m bench.ceiling DSN ROWS BATCH on|off all|short` prints one JSON object.
"""

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
from attrs import define

from bench.daemon import Failed
from bench.machine import ROOT
from bench.measure import Report
from bench.server import Server, plain

ALL, SHORT = "all", "short"
BATCHES = (1, 10, 100, 500)
ROWS = {1: 400, 10: 4_000, 100: 20_000, 500: 20_000}
INDEXED = 1_000
"""Instances in one run."""

_SCHEDULE = "UPDATE task_instance SET state = 'scheduled', try_number = try_number + 1 WHERE id = ANY($1::bigint[])"
_QUEUE = (
    "WITH v AS (SELECT * FROM unnest($1::bigint[], $2::uuid[]) AS v(id, token)), moved AS"
    " (UPDATE task_instance ti SET state = 'queued', token = v.token FROM v WHERE ti.id = v.id)"
    " INSERT INTO attempt (token, ti_id, try_number, state, daemon, queued_at, log_path)"
    " SELECT v.token, v.id, 1, 'queued', $3::uuid, clock_timestamp(), $4 FROM v"
)
_START = (
    "WITH moved AS (UPDATE task_instance SET state = 'running', start_date = clock_timestamp()"
    " WHERE id = ANY($1::bigint[]))"
    " UPDATE attempt SET state = 'running', started_at = clock_timestamp(), worker = $3::uuid, hostname = 'host',"
    " pid = 4711 WHERE token = ANY($2::uuid[])"
)
_END = (
    "WITH moved AS (UPDATE task_instance SET state = 'success', token = NULL, end_date = clock_timestamp()"
    " WHERE id = ANY($1::bigint[]))"
    " UPDATE attempt SET state = 'success', ended_at = clock_timestamp(), exit_code = 0, reason = '', message = '',"
    " report = $3 WHERE token = ANY($2::uuid[])"
)
_ADMIT_STARTED = (
    "WITH v AS (SELECT * FROM unnest($1::bigint[], $2::uuid[]) AS v(id, token)), moved AS"
    " (UPDATE task_instance ti SET state = 'running', token = v.token, try_number = 1, retry_at = NULL,"
    " start_date = clock_timestamp(), end_date = NULL FROM v WHERE ti.id = v.id)"
    " INSERT INTO attempt (token, ti_id, try_number, state, daemon, worker, hostname, queued_at, started_at, log_path)"
    " SELECT v.token, v.id, 1, 'running', $3::uuid, $3::uuid, 'host', clock_timestamp(), clock_timestamp(), $4 FROM v"
)
_END_WITH_PID = (
    "WITH moved AS (UPDATE task_instance SET state = 'success', token = NULL, losses = 0, retry_at = NULL,"
    " end_date = clock_timestamp() WHERE id = ANY($1::bigint[]))"
    " UPDATE attempt SET state = 'success', ended_at = clock_timestamp(), exit_code = 0, reason = '', message = '',"
    " report = $3, pid = 4711 WHERE token = ANY($2::uuid[])"
)
_ARRIVED = (
    "SELECT count(*) FROM task_instance ti JOIN attempt a ON a.ti_id = ti.id WHERE ti.state = 'success'"
    " AND ti.token IS NULL AND ti.try_number = 1 AND ti.start_date IS NOT NULL AND ti.end_date IS NOT NULL"
    " AND a.state = 'success' AND a.started_at IS NOT NULL AND a.ended_at IS NOT NULL AND a.pid = 4711"
)
"""Whichever way was taken, the rows look the same at its end."""
_LOG = "/var/lib/asyncsched/logs/4711/123456-1-00000000-0000-0000-0000-000000000000.log"


async def _prepare(connection: asyncpg.Connection, rows: int) -> list[int]:
    """Insert a dag, its runs and their instances; return the keys of the instances."""
    dag = await connection.fetchval(
        "INSERT INTO dag (dag_id, file, schedule, max_active_runs) VALUES ('ceiling', 'f', 's', 1) RETURNING id"
    )
    version = await connection.fetchval(
        "INSERT INTO dag_version (dag_pk, number, hash, document, source, source_hash)"
        " VALUES ($1, 1, 'h', '{}', '', 'h') RETURNING id",
        dag,
    )
    await connection.execute(
        "INSERT INTO dag_run (dag_pk, version_id, run_id, run_type, state, run_after, queued_at, start_date)"
        " SELECT $1, $2, 'run' || n, 'manual', 'running', clock_timestamp(), clock_timestamp(), clock_timestamp()"
        " FROM generate_series(0, $3::int) AS n",
        dag,
        version,
        rows // INDEXED,
    )
    keys = await connection.fetch(
        "INSERT INTO task_instance (run_pk, task_id, task_index, state, max_tries, pool, pool_slots, priority,"
        " ready_order)"
        " SELECT r.id, 'task_' || n % $1, n % $1, 'none', 0, 'default_pool', 1, 1, r.run_after"
        " FROM generate_series(0, $2::int - 1) AS n JOIN dag_run r ON r.run_id = 'run' || n / $1 RETURNING id",
        INDEXED,
        rows,
    )
    await connection.execute("ANALYZE")
    return [row["id"] for row in keys]


@define
class Batch:
    """What the statements are about."""

    keys: Sequence[int]
    tokens: Sequence[uuid.UUID]
    daemon: uuid.UUID
    """It stands for the worker too."""
    report: str = "0" * 64


WAYS: dict[str, tuple[tuple[str, Callable[[Batch], tuple[Any, ...]]], ...]] = {
    ALL: (
        (_SCHEDULE, lambda some: (some.keys,)),
        (_QUEUE, lambda some: (some.keys, some.tokens, some.daemon, _LOG)),
        (_START, lambda some: (some.keys, some.tokens, some.daemon)),
        (_END, lambda some: (some.keys, some.tokens, some.report)),
    ),
    SHORT: (
        (_ADMIT_STARTED, lambda some: (some.keys, some.tokens, some.daemon, _LOG)),
        (_END_WITH_PID, lambda some: (some.keys, some.tokens, some.report)),
    ),
}
"""The statements of each way, one transaction each, with what each takes."""


async def _move(connection: asyncpg.Connection, keys: list[int], batch: int, way: str) -> float:
    """Move all rows through all states of this way, batch by batch; return the seconds that took."""
    daemon = uuid.uuid4()
    steps = [(await connection.prepare(text), given) for text, given in WAYS[way]]
    began = time.perf_counter()
    for at in range(0, len(keys), batch):
        taken = keys[at : at + batch]
        some = Batch(taken, [uuid.uuid4() for _ in taken], daemon)
        for statement, given in steps:
            await statement.fetch(*given(some))
    return time.perf_counter() - began


async def _measure(dsn: str, rows: int, batch: int, synchronous_commit: str, way: str) -> dict[str, Any]:
    connection = await asyncpg.connect(plain(dsn))
    try:
        await connection.execute(f"SET synchronous_commit = {synchronous_commit}")
        keys = await _prepare(connection, rows)
        await connection.execute("SET jit = off")
        seconds = await _move(connection, keys, batch, way)
        moved = await connection.fetchval(_ARRIVED)
        assert moved == rows, f"{moved} of {rows} rows arrived"
        return {"rows": rows, "seconds": seconds, "rows_per_s": rows / seconds}
    finally:
        await connection.close()


def rows_per_s(dsn: str, *, rows: int, batch: int, synchronous: str, way: str) -> float:
    """Measure on a new database, in a process of its own. Raises Failed."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.ceiling", dsn, str(rows), str(batch), synchronous, way],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Failed(f"batch {batch}, {way}: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout)["rows_per_s"])


def measure(server: Server, report: Report, *, quick: bool) -> None:
    """Both ways, every batch size, with commits waited for and not, each on a new database. Raises Failed."""
    for synchronous in ("on", "off"):
        for batch in BATCHES:
            rows = ROWS[batch] // (10 if quick else 1)
            for way, name in ((ALL, "ceiling"), (SHORT, "ceiling_short")):
                with server.migrated("ceiling") as dsn:
                    found = rows_per_s(dsn, rows=rows, batch=batch, synchronous=synchronous, way=way)
                report.add(f"{name}_{synchronous}_{batch}", found, rows=rows)


if __name__ == "__main__":
    _, address, rows_, batch_, synchronous_, way_ = sys.argv
    print(json.dumps(asyncio.run(_measure(address, int(rows_), int(batch_), synchronous_, way_))))
