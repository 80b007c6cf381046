"""PgQueuer: `setup DSN`, `fill DSN JOBS`, `work DSN STAMPS BATCH`, `send DSN JOBS PAUSE_S`, `done DSN`."""

import asyncio
import sys
from datetime import timedelta

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from stamps import now, stamp


async def queries(dsn: str) -> Queries:
    return Queries(AsyncpgDriver(await asyncpg.connect(dsn)))


async def setup(dsn: str) -> None:
    await (await queries(dsn)).install()


async def fill(dsn: str, jobs: str) -> None:
    to = await queries(dsn)
    for at in range(0, int(jobs), 1000):
        count = min(1000, int(jobs) - at)
        await to.enqueue(["work"] * count, [b"0"] * count, [0] * count)


async def send(dsn: str, jobs: str, pause_s: str) -> None:
    to = await queries(dsn)
    for _ in range(int(jobs)):
        await asyncio.sleep(float(pause_s))
        await to.enqueue("work", b"%d" % now())


async def work(dsn: str, path: str, batch: str) -> None:
    pgq = PgQueuer(AsyncpgDriver(await asyncpg.connect(dsn)))

    @pgq.entrypoint("work")
    async def process(job: Job) -> None:
        began = now()
        stamp(path, began, int(job.payload or b"0"))

    options = {} if batch == "default" else {"batch_size": int(batch)}
    await pgq.run(dequeue_timeout=timedelta(seconds=30), **options)


async def done(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    print(await connection.fetchval("SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'"))


if __name__ == "__main__":
    asyncio.run({"setup": setup, "fill": fill, "send": send, "work": work, "done": done}[sys.argv[1]](*sys.argv[2:]))
