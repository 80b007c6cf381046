"""The embedded PostgreSQL, with the settings the product gives it, for measurements without a daemon.

As a program (`python -m bench.server HOME`) it prints the server's address and runs until its standard input ends.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import trio
from attrs import frozen

from bench.daemon import Failed
from bench.machine import ROOT
from nurseries.bridge import open_bridge
from scheduler.home import Home
from scheduler.postgres import PostgresError, embedded
from scheduler.postgres.settings import DATABASE, ROLE, SUPERUSER
from scheduler.store import migrate

SHOWN = (
    "server_version",
    "shared_buffers",
    "synchronous_commit",
    "fsync",
    "full_page_writes",
    "wal_sync_method",
    "max_connections",
)


def plain(dsn: str) -> str:
    """The address as asyncpg itself takes it."""
    return dsn.replace("postgresql+asyncpg://", "postgresql://", 1)


@frozen
class Server:
    """A running server: `pid` is the process below which everything of it runs."""

    dsn: str
    pid: int

    def database(self, name: str) -> str:
        """The address of another database of this server."""
        return self.dsn.replace(f"/{DATABASE}?", f"/{name}?", 1)

    def administer(self, *statements: str) -> list[Sequence[Any]]:
        """Run statements as superuser, one by one; return the rows of the last one."""
        return asyncio.run(_run(self.as_superuser(self.dsn), statements))

    @staticmethod
    def as_superuser(dsn: str) -> str:
        """The address of a database for asyncpg itself, as the superuser."""
        return plain(dsn).replace(f"//{ROLE}@", f"//{SUPERUSER}@", 1)

    def count_blocks(self, dsn: str) -> None:
        """Let statements in a database be counted: the embedded server has the library loaded."""
        asyncio.run(_run(self.as_superuser(dsn), ["CREATE EXTENSION IF NOT EXISTS pg_stat_statements"]))

    @contextmanager
    def migrated(self, name: str) -> Iterator[str]:
        """The address of a new database with the current schema; dropped at the end."""
        self.administer(f"CREATE DATABASE {name} OWNER {ROLE}")
        try:
            dsn = self.database(name)
            trio.run(_migrate, dsn)
            yield dsn
        finally:
            self.administer(f"DROP DATABASE {name} WITH (FORCE)", "CHECKPOINT")

    def written(self) -> dict[str, int]:
        """Bytes written so far, WAL and files of tables and indexes; nothing is left in memory."""
        (row,) = self.administer(
            "CHECKPOINT",
            "CHECKPOINT",  # what the first one wrote is counted by now
            "SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint,"
            " (SELECT coalesce(sum(write_bytes), 0)::bigint FROM pg_stat_io WHERE object = 'relation')",
        )
        return {"wal": int(row[0]), "data": int(row[1])}

    def settings(self) -> dict[str, str]:
        """Those that matter for speed."""
        names = ", ".join(f"'{name}'" for name in SHOWN)
        rows = self.administer(f"SELECT name, current_setting(name) FROM pg_settings WHERE name IN ({names})")
        return {str(name): str(value) for name, value in rows}


async def _run(dsn: str, statements: Sequence[str]) -> list[Sequence[Any]]:
    connection = await asyncpg.connect(dsn)
    try:
        rows: list[Sequence[Any]] = []
        for statement in statements:
            rows = [tuple(row) for row in await connection.fetch(statement)]
        return rows
    finally:
        await connection.close()


async def _migrate(dsn: str) -> None:
    async with open_bridge() as bridge:
        await migrate.upgrade(bridge, dsn)


@contextmanager
def running_server(place: Path) -> Iterator[Server]:
    """Run one, its files in `place`. Raises Failed."""
    with (place / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.server", str(place / "home")],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert process.stdout is not None
    try:
        dsn = process.stdout.readline().decode().strip()
        if not dsn:
            raise Failed(f"PostgreSQL did not start: {(place / 'server.log').read_text()[-2000:]}")
        yield Server(dsn, process.pid)
    finally:
        process.communicate()  # closes its input, and waits


async def _serve(home: Home) -> None:
    with home.lock():
        home.ensure({})
        async with embedded(home) as dsn:
            print(dsn, flush=True)
            await trio.to_thread.run_sync(sys.stdin.buffer.read)


if __name__ == "__main__":
    try:
        trio.run(_serve, Home(Path(sys.argv[1])))
    except PostgresError as error:
        sys.exit(str(error))
