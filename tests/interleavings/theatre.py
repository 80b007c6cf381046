"""A database with a scene in it that can be set up again in a few milliseconds, stores on it, and a stage."""

import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio
from attrs import define, field
from sqlalchemy import event

from nurseries.bridge import Bridge, open_bridge
from scheduler.loading.loader import Loaded
from scheduler.model import Dag
from scheduler.procedures.pictures import Pictures
from scheduler.procedures.placement import Place
from scheduler.store.documents import Graphs
from scheduler.store.engine import open_store
from scheduler.store.locks import Lock
from scheduler.store.tables import metadata
from scheduler.store.transaction import Store
from tests.database import Server
from tests.interleavings.monitor import Monitor, open_monitor
from tests.interleavings.stage import PATIENT, Stage, open_stage

T = TypeVar("T")
_TABLES = [table.name for table in metadata.sorted_tables]
_COUNTED = [*(lock.table.name for lock in Lock), "event"]
"""Keys begin anew with each scene; not those of versions, which daemons remember for ever."""
VACUUM_EVERY = 12
"""Resets: what they leave behind makes every statement slower."""


def run_long(main: Callable[[], Awaitable[T]], *, limit_s: float = 3600.0) -> T:
    """Run an async main as one trio run with a limit of its own, longer than a usual test's."""

    async def limited() -> T:
        with trio.fail_after(limit_s):
            return await main()

    return trio.run(limited)


def loaded(*dags: Dag, source: str = "") -> Loaded:
    """A DAG file that defines these."""
    return Loaded(source=source, source_hash=hashlib.sha256(source.encode()).hexdigest(), dags=dags)


@define(eq=False)
class Daemon:
    """What one daemon keeps in memory, and its store."""

    store: Store
    uuid: str = field(factory=lambda: str(uuid.uuid4()))
    graphs: Graphs = field(factory=Graphs)
    pictures: Pictures = field(factory=Pictures)

    @property
    def place(self) -> Place:
        return Place(
            daemon=self.uuid,
            logs=Path("/logs"),
            source_path=lambda one, two: Path("/s", one, two),
            dags_dir=Path("/d"),
        )


@define(eq=False)
class Theatre:
    """See the module. `now` is the clock of every transaction."""

    bridge: Bridge
    monitor: Monitor
    stage: Stage
    stores: list[Store]
    now: datetime
    graphs: Graphs = field(factory=Graphs)
    scenes: dict[str, datetime] = field(factory=dict)
    """Scenes that are kept, and what time it is in them."""
    resets: int = 0

    @property
    def store(self) -> Store:
        return self.stores[0]

    def later(self, **delta: float) -> None:
        """Let time pass."""
        self.now += timedelta(**delta)

    async def keep(self, name: str) -> None:
        """Keep the present rows as the scene `name`."""
        await self.monitor.execute(
            f"CREATE SCHEMA {name}; " + "; ".join(f"CREATE TABLE {name}.{one} AS TABLE public.{one}" for one in _TABLES)
        )
        # a function: what it does is parsed and planned once
        await self.monitor.execute(
            f"CREATE FUNCTION {name}.reset() RETURNS void LANGUAGE plpgsql AS $$BEGIN {self._setting_up(name)}; END$$"
        )
        self.scenes[name] = self.now

    @staticmethod
    def _setting_up(name: str, order: str = "", do: str = "PERFORM") -> str:
        return "; ".join(
            [
                *(f"DELETE FROM public.{one}" for one in reversed(_TABLES)),
                *(
                    f"INSERT INTO public.{one} OVERRIDING SYSTEM VALUE SELECT * FROM {name}.{one} s{order}"
                    for one in _TABLES
                ),
                *(
                    f"{do} setval('{one}_id_seq', greatest(1, (SELECT coalesce(max(id), 1) FROM {name}.{one})))"
                    for one in _COUNTED
                ),
            ]
        )

    async def reset(self, name: str, *, shuffle: int | None = None) -> None:
        """Set up a kept scene again, the rows in the heap in an order of their own if `shuffle` is given."""
        assert not self.stage.unfinished(), "somebody is on the stage"
        if shuffle is None:
            await self.monitor.fetch(f"SELECT {name}.reset()")
        else:
            await self.monitor.execute(self._setting_up(name, f" ORDER BY md5('{shuffle}' || s::text)", "SELECT"))
        self.now = self.scenes[name]
        self.stage.actors.clear()
        self.stage.story.clear()
        self.resets += 1
        if self.resets % VACUUM_EVERY == 0:
            await self.monitor.execute(f"VACUUM (ANALYZE) {', '.join(_TABLES)}")

    async def rows(self, sql: str, *arguments: Any) -> list[dict[str, Any]]:
        """Committed rows."""
        return [dict(row) for row in await self.monitor.fetch(sql, *arguments)]


@asynccontextmanager
async def open_theatre(dsn: str, *, stores: int = 1, connections: int = 8) -> AsyncIterator[Theatre]:
    """A theatre on an up-to-date, empty database. Each of the stores is a daemon's, with connections of its own."""
    async with AsyncExitStack() as stack:
        bridge = await stack.enter_async_context(open_bridge())
        monitor = await stack.enter_async_context(open_monitor(bridge, dsn))
        await monitor.execute(
            "CREATE EXTENSION IF NOT EXISTS pgrowlocks; SET session_replication_role = replica;"
            " SET synchronous_commit = off"
        )
        made: list[Theatre] = []

        def clock() -> datetime:
            return made[0].now

        opened = [
            await stack.enter_async_context(
                open_store(bridge, dsn, connections=connections, reserved=4, limits=PATIENT, clock=clock)
            )
            for _ in range(stores)
        ]
        for store in opened:
            await _hurry(bridge, store)
        stage = await stack.enter_async_context(open_stage(monitor))
        theatre = Theatre(bridge, monitor, stage, opened, datetime.now(UTC).replace(microsecond=0))
        made.append(theatre)
        yield theatre


async def _hurry(bridge: Bridge, store: Store) -> None:
    """Let a store's commits return before they are on the disk: no lock is held longer or shorter for it.

    No server dies in a theatre, and what it writes is thrown away; waiting for the disk is a fifth of the time.
    """

    def connected(connection: Any, _record: object) -> None:
        connection.run_async(lambda driver: driver.execute("SET synchronous_commit = off"))

    async def anew() -> None:
        for engine in (store.engine, store.reserve):
            event.listen(engine.sync_engine, "connect", connected)
            await engine.dispose()
            held = [await engine.connect() for _ in range(engine.pool.size())]  # type: ignore[attr-defined]
            for one in held:
                await one.close()

    await bridge.shielded(anew)


def play(server: Server, main: Callable[[Theatre], Awaitable[T]], *, stores: int = 1) -> T:
    """Run `main` with a theatre on a new database; the server must not have counted a deadlock."""

    async def with_theatre(dsn: str) -> T:
        async with open_theatre(dsn, stores=stores) as theatre:
            result = await main(theatre)
            await theatre.stage.clear()
            for store in theatre.stores:
                assert store.deadlocks == 0
                await theatre.bridge.shielded(store.engine.dispose)  # who is gone has published its counts
            assert await theatre.monitor.deadlocks() == 0, "PostgreSQL counted a deadlock"
            return result

    with server.database() as dsn:
        try:
            return run_long(partial(with_theatre, dsn))
        except BaseExceptionGroup as group:
            raise plain(group) from None


def plain(error: BaseException) -> BaseException:
    """The one exception in nurseries in nurseries; a group if there are several."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
