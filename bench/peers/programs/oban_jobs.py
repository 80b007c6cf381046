"""Oban for Python: `setup DSN`, `fill DSN JOBS`, `work DSN STAMPS LIMIT`, `send DSN JOBS PAUSE_S`, `done DSN`."""

import asyncio
import signal
import sys

from oban import Oban, worker
from oban.schema import install
from psycopg_pool import AsyncConnectionPool
from stamps import now, stamp

STAMPS = ""
LIMIT = 10
"""As in Oban's own quick start."""


@worker(queue="default")
class Work:
    async def process(self, job) -> None:
        began = now()
        stamp(STAMPS, began, job.args["sent"])


def pool(dsn: str) -> AsyncConnectionPool:
    return AsyncConnectionPool(dsn, min_size=2, max_size=10, open=False)


async def setup(dsn: str) -> None:
    async with pool(dsn) as connections:
        await install(connections)


async def fill(dsn: str, jobs: str) -> None:
    async with pool(dsn) as connections, Oban(pool=connections) as oban:
        for at in range(0, int(jobs), 1000):
            await oban.enqueue_many([Work.new({"sent": 0}) for _ in range(min(1000, int(jobs) - at))])


async def send(dsn: str, jobs: str, pause_s: str) -> None:
    async with pool(dsn) as connections, Oban(pool=connections) as oban:
        for _ in range(int(jobs)):
            await asyncio.sleep(float(pause_s))
            await oban.enqueue(Work.new({"sent": now()}))


async def work(dsn: str, path: str, limit: str) -> None:
    global STAMPS
    STAMPS = path
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    jobs = LIMIT if limit == "default" else int(limit)
    async with pool(dsn) as connections, Oban(pool=connections, queues={"default": jobs}):
        await stop.wait()


async def done(dsn: str) -> None:
    async with pool(dsn) as connections, connections.connection() as connection:
        found = await connection.execute("SELECT count(*) FROM oban_jobs WHERE state = 'completed'")
        print(*(await found.fetchone() or ()))


if __name__ == "__main__":
    asyncio.run({"setup": setup, "fill": fill, "send": send, "work": work, "done": done}[sys.argv[1]](*sys.argv[2:]))
