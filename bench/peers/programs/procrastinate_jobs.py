"""Procrastinate: `setup DSN`, `fill DSN JOBS`, `work DSN STAMPS CONCURRENCY`, `send DSN JOBS PAUSE_S`, `done DSN`."""

import asyncio
import sys

import procrastinate
import psycopg
from stamps import now, stamp

STAMPS = ""


def application(dsn: str) -> tuple[procrastinate.App, procrastinate.tasks.Task]:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn))

    @app.task(name="work")
    async def work(sent: int) -> None:
        began = now()
        stamp(STAMPS, began, sent)

    return app, work


async def setup(dsn: str) -> None:
    app, _ = application(dsn)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def fill(dsn: str, jobs: str) -> None:
    app, task = application(dsn)
    async with app.open_async():
        for at in range(0, int(jobs), 1000):
            await task.batch_defer_async(*({"sent": 0} for _ in range(min(1000, int(jobs) - at))))


async def send(dsn: str, jobs: str, pause_s: str) -> None:
    app, task = application(dsn)
    async with app.open_async():
        for _ in range(int(jobs)):
            await asyncio.sleep(float(pause_s))
            await task.defer_async(sent=now())


async def work(dsn: str, path: str, concurrency: str) -> None:
    global STAMPS
    STAMPS = path
    app, _ = application(dsn)
    async with app.open_async():
        await app.run_worker_async(**({} if concurrency == "default" else {"concurrency": int(concurrency)}))


async def done(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        found = await connection.execute("SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'")
        print(*(await found.fetchone() or ()))


if __name__ == "__main__":
    asyncio.run({"setup": setup, "fill": fill, "send": send, "work": work, "done": done}[sys.argv[1]](*sys.argv[2:]))
