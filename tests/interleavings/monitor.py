"""A connection of our own that looks at what PostgreSQL holds and who waits for whom."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import trio
from attrs import define, field

from nurseries.bridge import Bridge

_WAITS = (
    "SELECT pid, pg_blocking_pids(pid) AS by FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@define(eq=False)
class Monitor:
    """One connection, in autocommit; one statement at a time."""

    bridge: Bridge
    connection: Any
    _one: trio.Lock = field(factory=trio.Lock)

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        """Rows of a statement."""
        async with self._one:
            rows: Sequence[Any] = await self.bridge.shielded(self.connection.fetch, sql, *arguments)
            return rows

    async def execute(self, sql: str, *arguments: Any) -> str:
        """Run a statement, or several without arguments; returns the last one's tag."""
        async with self._one:
            return str(await self.bridge.shielded(self.connection.execute, sql, *arguments))

    async def waits(self) -> dict[int, list[int]]:
        """Who waits for a lock, by process id, and for whom."""
        return {row["pid"]: list(row["by"]) for row in await self.fetch(_WAITS) if row["by"]}

    async def statements(self) -> dict[int, str]:
        """What each session of this database runs, or ran last."""
        rows = await self.fetch(
            "SELECT pid, query, wait_event, state FROM pg_stat_activity WHERE datname = current_database()"
        )
        return {row["pid"]: f"{row['state']}, waits for {row['wait_event']}: {row['query']}" for row in rows}

    async def deadlocks(self) -> int:
        """The server's own counter; sessions publish when they end a transaction."""
        (row,) = await self.fetch("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(row["deadlocks"])


@asynccontextmanager
async def open_monitor(bridge: Bridge, dsn: str) -> AsyncIterator[Monitor]:
    """Connect; `dsn` is the store's address."""
    address = dsn.replace("postgresql+asyncpg://", "postgresql://")

    async def connect() -> Any:
        return await asyncpg.connect(address, server_settings={"application_name": "monitor", "jit": "off"})

    connection = await bridge.shielded(connect)
    try:
        yield Monitor(bridge, connection)
    finally:
        with trio.CancelScope(shield=True):
            await bridge.shielded(connection.close)


def cycle_in(waits: dict[int, list[int]]) -> list[int]:
    """A circle of process ids that wait for each other; empty if there is none."""
    done: set[int] = set()

    def follow(pid: int, path: list[int]) -> list[int]:
        if pid in path:
            return path[path.index(pid) :]
        if pid in done:
            return []
        for other in waits.get(pid, ()):
            found = follow(other, [*path, pid])
            if found:
                return found
        done.add(pid)
        return []

    for pid in waits:
        found = follow(pid, [])
        if found:
            return found
    return []
