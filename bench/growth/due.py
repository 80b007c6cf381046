"""Many dags due in the same second: how long until the first task of each has started.

`python -m bench.growth.due JOB` prints one JSON list, one object for each tick of the clock. The dags are on
`* * * * *`; what is measured lies between the full minute and the last start, both by this machine's clock.
"""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import trio

from bench.daemon import Failed
from bench.growth.work import Job, until_loaded
from bench.scheduler_only import open_bench
from scheduler.observe import logs
from scheduler.store.writer import Reading

_STARTED = sa.text(
    "SELECT count(*) AS dags, max(extract(epoch FROM r.queued_at - :tick))::float8 AS created_s,"
    " max(extract(epoch FROM s.started_at - :tick))::float8 AS started_s,"
    " percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM s.started_at - :tick))::float8 AS half_s"
    " FROM dag_run r CROSS JOIN LATERAL (SELECT min(a.started_at) AS started_at FROM attempt a"
    "  JOIN task_instance ti ON ti.id = a.ti_id WHERE ti.run_pk = r.id) AS s"
    " WHERE r.run_after = :tick AND s.started_at IS NOT NULL"
)
LIMIT_S = 60.0


async def _seen(reading: Reading, tick: datetime) -> dict[str, Any]:
    (row,) = await reading.fetch(_STARTED, {"tick": tick})
    return dict(row)


async def work(job: Job) -> list[dict[str, Any]]:
    """Raises Failed."""
    found = []
    async with open_bench(job.dsn, Path(job.place), job.shapes, server_pid=job.server_pid) as bench:
        await until_loaded(bench, job.waits_for)
        for number in range(job.rounds + 1):
            tick = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
            await trio.sleep(max(0.0, (tick - datetime.now(UTC)).total_seconds()))
            # nobody asks the database while it is busy with what is measured
            await trio.sleep(5)
            deadline = trio.current_time() + LIMIT_S
            while (seen := await bench.daemon.store.read(_seen, tick))["dags"] < job.waits_for:
                if trio.current_time() > deadline:
                    raise Failed(f"{seen['dags']} of {job.waits_for} dags had started {LIMIT_S:.0f} s after the tick")
                await trio.sleep(1)
            if number:  # the first tick warms up
                found.append({"tick": tick.isoformat()} | seen)
    return found


if __name__ == "__main__":
    logs.configure(verbose=False)
    print(json.dumps(trio.run(work, Job.parse(sys.argv[1]))))
