"""Work while a stranger holds an old snapshot: nothing that has died since then can be removed.

`python -m bench.growth.snapshot JOB` prints one JSON object: costs of the same step before, meanwhile and after.
`python -m bench.growth.snapshot --hold ADDRESS` is the stranger: a transaction in REPEATABLE READ, as a backup or a
report has it, open until its standard input ends.
"""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg
import trio

from bench.daemon import Failed
from bench.growth.work import Job, do
from bench.machine import ROOT
from bench.scheduler_only import open_bench
from bench.server import plain
from scheduler.observe import logs

BEFORE = 5
"""Steps before the snapshot is taken, and after it is gone."""


async def hold(address: str) -> None:
    connection = await asyncpg.connect(address)
    try:
        await connection.execute("SET idle_in_transaction_session_timeout = 0")  # as pg_dump does
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.fetchval("SELECT count(*) FROM dag_run WHERE state = 'running'")
            print("held", flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    finally:
        await connection.close()


def stranger(dsn: str) -> subprocess.Popen[bytes]:
    """Start it; return when it holds its snapshot. Raises Failed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.growth.snapshot", "--hold", plain(dsn)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    if process.stdout.readline().strip() != b"held":
        process.kill()
        process.wait()
        raise Failed("the stranger's transaction did not begin")
    return process


async def work(job: Job) -> dict[str, list[dict[str, Any]]]:
    """Raises Failed."""
    (step,) = job.steps
    found: dict[str, list[dict[str, Any]]] = {"before": [], "meanwhile": [], "after": []}
    async with open_bench(job.dsn, Path(job.place), job.shapes, server_pid=job.server_pid) as bench:
        await bench.warm_up()
        for _ in range(BEFORE):
            found["before"].append((await do(bench, step)).as_json())
        process = await trio.to_thread.run_sync(stranger, job.dsn)
        try:
            began = time.monotonic()
            while (held := time.monotonic() - began) < job.snapshot_s:
                found["meanwhile"].append({"held_s": round(held, 1)} | (await do(bench, step)).as_json())
        finally:
            process.communicate()
        for _ in range(BEFORE):
            found["after"].append((await do(bench, step)).as_json())
    return found


if __name__ == "__main__":
    if sys.argv[1] == "--hold":
        asyncio.run(hold(sys.argv[2]))
    else:
        logs.configure(verbose=False)
        print(json.dumps(trio.run(work, Job.parse(sys.argv[1]))))
