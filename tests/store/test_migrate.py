"""Migrations: an empty database, a current one, one that is ahead, two at once; and the schema equals the tables."""

from contextlib import AsyncExitStack

import asyncpg
import pytest
import sqlalchemy as sa
import trio
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import create_async_engine

from nurseries.bridge import open_bridge
from scheduler.store import migrate
from scheduler.store.errors import DatabaseRefused, SchemaMismatch, StoreUnavailable
from scheduler.store.locks import TRY_SCHEMA
from scheduler.store.tables import metadata
from tests.database import Server

ALL = [step.revision for step in reversed(list(ScriptDirectory(str(migrate.SCRIPTS)).walk_revisions()))]


async def test_an_empty_database_is_filled_and_a_current_one_left_alone(empty_dsn: str) -> None:
    async with open_bridge() as bridge:
        before = await migrate.check(bridge, empty_dsn)
        assert (before.current, before.is_current) == (None, False)
        applied = await migrate.upgrade(bridge, empty_dsn)
        assert (applied[0], applied[-1]) == ("0001", before.head)
        assert applied == sorted(set(applied))
        assert (await migrate.check(bridge, empty_dsn)).is_current
        assert await migrate.upgrade(bridge, empty_dsn) == []


async def test_several_migrations_at_once_wait_for_the_one_that_came_first(empty_dsn: str) -> None:
    results: list[list[str]] = []

    async def upgrade() -> None:
        results.append(await migrate.upgrade(bridge, empty_dsn))

    async with open_bridge() as bridge:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(upgrade)
        assert (await migrate.check(bridge, empty_dsn)).is_current
    assert sorted(results) == [[], [], [], [], ALL]


async def test_a_migration_that_takes_too_long_is_not_waited_for_forever(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "PATIENCE_SECONDS", 1.6)
    async with open_bridge() as bridge, AsyncExitStack() as stack:
        other = await bridge.shielded(asyncpg.connect, empty_dsn.replace("+asyncpg", ""))
        stack.push_async_callback(bridge.shielded, other.close)
        await bridge.shielded(other.execute, "BEGIN")
        await bridge.shielded(other.execute, str(TRY_SCHEMA))
        with pytest.raises(StoreUnavailable, match="another migration"):
            await migrate.upgrade(bridge, empty_dsn)
        await bridge.shielded(other.execute, "ROLLBACK")
        assert await migrate.upgrade(bridge, empty_dsn) == ALL


async def test_a_schema_from_the_future_is_refused_and_not_touched(server: Server, dsn: str) -> None:
    server.sql("UPDATE alembic_version SET version_num = '9999'", dsn.split("/")[3].split("?")[0])
    async with open_bridge() as bridge:
        with pytest.raises(SchemaMismatch, match="newer than this version"):
            await migrate.upgrade(bridge, dsn)
        assert (await migrate.check(bridge, dsn)).current == "9999"


async def test_the_migrated_schema_is_what_the_tables_say(dsn: str) -> None:
    def compare(connection: sa.Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))

    async with open_bridge() as bridge:

        async def crossing() -> list[object]:
            engine = create_async_engine(dsn)
            try:
                async with engine.connect() as connection:
                    return await connection.run_sync(compare)
            finally:
                await engine.dispose()

        assert await bridge.shielded(crossing) == []


async def test_the_migrated_checks_are_what_the_tables_say(dsn: str, empty_dsn: str) -> None:
    declared, migrated = await _checks(empty_dsn, create=True), await _checks(dsn, create=False)
    assert len(declared) == 4
    assert migrated == declared


async def _checks(dsn: str, *, create: bool) -> dict[str, str]:
    """The CHECK constraints of a database by name; with `create`, of the tables as they are declared."""

    async def crossing() -> dict[str, str]:
        engine = create_async_engine(dsn)
        try:
            async with engine.begin() as connection:
                if create:
                    await connection.run_sync(metadata.create_all)
                rows = await connection.execute(
                    sa.text(
                        "SELECT conrelid::regclass || '.' || conname AS name, pg_get_constraintdef(oid) AS said"
                        " FROM pg_constraint WHERE contype = 'c' AND connamespace = current_schema()::regnamespace"
                    )
                )
                return {row.name: row.said for row in rows}
        finally:
            await engine.dispose()

    async with open_bridge() as bridge:
        return await bridge.shielded(crossing)


async def test_a_database_that_does_not_exist_is_refused_with_a_sentence(server: Server) -> None:
    async with open_bridge() as bridge:
        with pytest.raises(DatabaseRefused, match="does not exist: create it"):
            await migrate.check(bridge, server.dsn("no_such_database"))


async def test_a_server_that_is_not_there_is_weather(server: Server) -> None:
    async with open_bridge() as bridge:
        with pytest.raises(StoreUnavailable):
            await migrate.check(bridge, "postgresql+asyncpg://nobody@/x?host=/nowhere")
