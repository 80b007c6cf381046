"""A migration while others work: it comes through or gives up within its bound, and nobody is in a circle with it."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import trio

from nurseries.bridge import Bridge, open_bridge
from scheduler.store import migrate
from scheduler.store.errors import Conflict, LockOrderError
from scheduler.store.tables import metadata
from tests.database import Server
from tests.store.schema_changes import further_migration
from tests.world import chain, open_world

HEAD = migrate.head()
COLUMN = "ALTER TABLE task_instance ADD COLUMN more integer; ALTER TABLE dag ADD COLUMN more integer"


@asynccontextmanager
async def somebody(bridge: Bridge, dsn: str) -> AsyncIterator[Any]:
    """Another program's session."""
    made = await bridge.shielded(asyncpg.connect, dsn.replace("+asyncpg", ""))
    try:
        yield made
    finally:
        await bridge.shielded(made.close)


async def until_a_lock_is_waited_for(server: Server, dsn: str) -> str:
    """The table that somebody waits for."""
    name = dsn.split("/")[3].split("?")[0]
    while True:
        table = server.sql("SELECT relation::regclass FROM pg_locks WHERE NOT granted AND relation IS NOT NULL", name)
        if table:
            return table
        await trio.sleep(0.01)


async def test_it_comes_through_beside_a_busy_writer_and_nobody_deadlocks(
    server: Server, dsn: str, tmp_path: Path
) -> None:
    done, refused, changes, over = 0, [], 0, False

    async def work(number: int) -> None:
        nonlocal done
        while not over:
            try:
                await world.trigger(f"chain{number}")
                await world.judge()
                done += 1
            except Conflict as error:
                refused.append(error.sqlstate)

    async with open_world(dsn) as world:
        await world.put(*(chain(2, f"chain{n}") for n in range(3)))
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(work, number)
            for n in range(5):
                before = done
                while done < before + 3:
                    await trio.sleep(0.005)
                columns = [COLUMN.replace("more", f"m{i}") for i in range(n + 1)]
                with further_migration(tmp_path / str(n), *columns), contextlib.suppress(Conflict):
                    changes += len(await migrate.upgrade(world.bridge, dsn))
            over = True
        assert changes, "not one of five came through"
        assert set(refused) <= {"55P03"}, "somebody who waited for the migration was refused for another reason"
        assert world.store.deadlocks == 0
    name = dsn.split("/")[3].split("?")[0]
    assert server.sql(f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{name}'") == "0"


@pytest.mark.parametrize("held", ["task_instance", "seat", "xcom"])
async def test_who_holds_a_table_it_waits_for_can_have_every_other_one(
    server: Server, dsn: str, tmp_path: Path, held: str
) -> None:
    """Else the two were in a circle: a writer touches tables in an order of its own."""
    with further_migration(tmp_path, COLUMN) as revisions:
        async with open_bridge() as bridge, somebody(bridge, dsn) as holder:
            await bridge.shielded(holder.execute, f"BEGIN; SELECT FROM {held} FOR UPDATE")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(migrate.upgrade, bridge, dsn)
                assert await until_a_lock_is_waited_for(server, dsn) == held
                for other in metadata.tables.keys() - {held}:
                    await bridge.shielded(holder.execute, f"LOCK TABLE {other} IN ROW SHARE MODE NOWAIT")
                await bridge.shielded(holder.execute, "ROLLBACK")
            assert (await migrate.check(bridge, dsn)).current == revisions[-1]


async def test_it_gives_up_after_its_patience_and_holds_nobody_up_that_long(
    server: Server, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "PATIENCE_SECONDS", 4.0)
    written, heard = 0, False

    async def write() -> None:
        nonlocal written
        while not heard:
            await world.commands.set_pool(world.store, name="p", slots=1, description="")
            written += 1

    with further_migration(tmp_path, COLUMN):
        async with open_world(dsn) as world, somebody(world.bridge, dsn) as holder:
            await world.bridge.shielded(holder.execute, "BEGIN; SELECT FROM task_instance")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                begun = trio.current_time()
                with pytest.raises(Conflict, match="works with the table task_instance: stop the daemons"):
                    await migrate.upgrade(world.bridge, dsn)
                waited = trio.current_time() - begun
                heard = True
            assert 2.0 < waited < 8.0, f"{waited:.1f} s with a patience of 4"
            assert written > 20, "others were held up"
            assert (await migrate.check(world.bridge, dsn)).current == HEAD


async def test_a_migration_that_locks_what_it_did_not_lock_at_first_is_refused(
    server: Server, dsn: str, tmp_path: Path
) -> None:
    name = dsn.split("/")[3].split("?")[0]
    server.sql("CREATE TABLE theirs (n integer); INSERT INTO theirs VALUES (1)", name)
    async with open_bridge() as bridge:
        for statement in ("UPDATE theirs SET n = 2", "ALTER TABLE theirs ADD COLUMN m integer"):
            refused = pytest.raises(LockOrderError, match=r"not locked at its beginning: \['theirs'\]")
            with further_migration(tmp_path, f"{COLUMN}; {statement}"), refused:
                await migrate.upgrade(bridge, dsn)
        assert (await migrate.check(bridge, dsn)).current == HEAD
    assert server.sql("SELECT * FROM theirs", name) == "1"


async def test_what_is_missing_comes_as_one_or_not_at_all(server: Server, dsn: str, tmp_path: Path) -> None:
    async with open_bridge() as bridge:
        with further_migration(tmp_path, COLUMN, "SELECT 1 / 0"), pytest.raises(Exception, match="division by zero"):
            await migrate.upgrade(bridge, dsn)
        assert (await migrate.check(bridge, dsn)).current == HEAD
        with further_migration(tmp_path, COLUMN, "SELECT 1") as revisions:
            assert await migrate.upgrade(bridge, dsn) == revisions
