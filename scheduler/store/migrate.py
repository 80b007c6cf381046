"""Bring a database's schema to what this version needs, or tell how far it is from it.

Each step takes its locks up front with a lock_timeout of 3 s, all changes of one step commit together, and an
advisory lock, tried and not waited for, keeps two migrations apart. Killed in between, the next one goes on.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from attrs import frozen
from sqlalchemy.ext.asyncio import create_async_engine

from nurseries.bridge import Bridge
from scheduler.store.errors import SchemaMismatch, StoreUnavailable
from scheduler.store.translation import translate

T = TypeVar("T")

_ONE_AT_A_TIME = 0x61_73_79_6E_63
"""The advisory lock's number: "async" in ASCII."""


@frozen(kw_only=True)
class MigrationStatus:
    """Where a database's schema stands."""

    current: str | None
    """Its revision; None: an empty database."""
    head: str
    """The revision this version of asyncsched needs."""

    @property
    def is_current(self) -> bool:
        return self.current == self.head


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """The newest revision this version knows."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def _current(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _upgrade(connection: sa.Connection) -> list[str]:
    taken = connection.execute(sa.text("SELECT pg_try_advisory_lock(:n)"), {"n": _ONE_AT_A_TIME}).scalar_one()
    connection.rollback()
    if not taken:
        raise StoreUnavailable("another migration of this database is running: try again when it has ended")
    script = ScriptDirectory.from_config(_config())
    before = _current(connection)
    known = {step.revision for step in script.walk_revisions()}
    if before is not None and before not in known:
        raise SchemaMismatch(
            f"the database's schema ({before}) is newer than this version of asyncsched knows: upgrade asyncsched"
        )
    connection.rollback()
    connection.execute(sa.text("SET lock_timeout = '3s'"))
    connection.commit()
    command.upgrade(_config(connection), "head")
    connection.commit()
    connection.execute(sa.text("SELECT pg_advisory_unlock(:n)"), {"n": _ONE_AT_A_TIME})
    connection.commit()
    return [step.revision for step in reversed(list(script.iterate_revisions("head", before or "base")))]


async def _run(bridge: Bridge, dsn: str, work: Callable[[sa.Connection], T]) -> T:
    async def crossing() -> T:
        engine = create_async_engine(dsn, pool_size=1, connect_args={"timeout": 5})
        try:
            async with engine.connect() as connection:
                return await connection.run_sync(work)
        finally:
            await engine.dispose()

    try:
        return await bridge.shielded(crossing)
    except Exception as error:
        raised = translate(error, committing=False, xid=None)
        if raised is None:
            raise
        raise raised from error


async def check(bridge: Bridge, dsn: str) -> MigrationStatus:
    """Where the schema stands; changes nothing. Raises StoreUnavailable or DatabaseRefused."""
    return MigrationStatus(current=await _run(bridge, dsn, _current), head=head())


async def upgrade(bridge: Bridge, dsn: str) -> list[str]:
    """Run what is missing; return the revisions that were run, none if the schema was current.

    Raises SchemaMismatch if the database is newer than this version, StoreUnavailable, Conflict (a lock was not
    to be had within 3 s: try again) or DatabaseRefused.
    """
    return await _run(bridge, dsn, _upgrade)
