"""The ceiling: SQL alone moves rows of the real tables, with their real indexes, through a task's states.

One client, no scheduler, no decisions, no locks but those of the statements themselves. A batch of rows goes

    none -> scheduled -> queued (with an attempt) -> running -> success

in four transactions of one prepared statement each, so that each costs one round trip. Rows are inserted beforehand
and not counted. No scheduler that keeps these tables durable can be faster with one connection.

As a program: `python -m bench.ceiling DSN ROWS BATCH on|off` prints one JSON object.
"""

import asyncio
import json
import subprocess
import sys
import time
import uuid
from typing import Any

import asyncpg

from bench.daemon import Failed
from bench.machine import ROOT
from bench.measure import Report
from bench.server import Server, plain

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


async def _move(connection: asyncpg.Connection, keys: list[int], batch: int) -> float:
    """Move all rows through all states, batch by batch; return the seconds that took."""
    daemon, report = uuid.uuid4(), "0" * 64
    schedule, queue, start, end = [await connection.prepare(text) for text in (_SCHEDULE, _QUEUE, _START, _END)]
    began = time.perf_counter()
    for at in range(0, len(keys), batch):
        some = keys[at : at + batch]
        tokens = [uuid.uuid4() for _ in some]
        await schedule.fetch(some)
        await queue.fetch(some, tokens, daemon, _LOG)
        await start.fetch(some, tokens, daemon)
        await end.fetch(some, tokens, report)
    return time.perf_counter() - began


async def _measure(dsn: str, rows: int, batch: int, synchronous_commit: str) -> dict[str, Any]:
    connection = await asyncpg.connect(plain(dsn))
    try:
        await connection.execute(f"SET synchronous_commit = {synchronous_commit}")
        keys = await _prepare(connection, rows)
        await connection.execute("SET jit = off")
        seconds = await _move(connection, keys, batch)
        moved = await connection.fetchval("SELECT count(*) FROM task_instance WHERE state = 'success'")
        assert moved == rows, f"{moved} of {rows} rows arrived"
        return {"rows": rows, "seconds": seconds, "rows_per_s": rows / seconds}
    finally:
        await connection.close()


def rows_per_s(dsn: str, *, rows: int, batch: int, synchronous: str) -> float:
    """Measure on a new database, in a process of its own. Raises Failed."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.ceiling", dsn, str(rows), str(batch), synchronous],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Failed(f"batch {batch}: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout)["rows_per_s"])


def measure(server: Server, report: Report, *, quick: bool) -> None:
    """Every batch size, with commits waited for and not, each on a new database. Raises Failed."""
    for synchronous in ("on", "off"):
        for batch in BATCHES:
            rows = ROWS[batch] // (10 if quick else 1)
            with server.migrated("ceiling") as dsn:
                found = rows_per_s(dsn, rows=rows, batch=batch, synchronous=synchronous)
            report.add(f"ceiling_{synchronous}_{batch}", found, rows=rows)


if __name__ == "__main__":
    _, address, rows_, batch_, synchronous_ = sys.argv
    print(json.dumps(asyncio.run(_measure(address, int(rows_), int(batch_), synchronous_))))
