"""Bring a database's schema to what this version needs, or tell how far it is from it.

All that is missing is done in one transaction: killed at any instant, nothing has happened. Its first locks are an
advisory one, tried, which keeps two migrations apart, and then every table of ours. Daemons that are running touch
tables in another order, so it waits for a table only while it holds none (the one that was in use at the last try),
tries the others, and gives all up if one is in use: what runs is held up for moments, and there is no circle.
"""

from pathlib import Path

import sqlalchemy as sa
import trio
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from attrs import frozen

from nurseries.bridge import Bridge
from scheduler.store.errors import Conflict, LockOrderError, SchemaMismatch, StoreUnavailable
from scheduler.store.locks import TRY_SCHEMA, Lock, Wait, lock_table
from scheduler.store.tables import metadata
from scheduler.store.transaction import alter

SCRIPTS = Path(__file__).parent / "migrations"
PATIENCE_SECONDS = 10.0
"""How long a migration tries to get its locks."""
TABLE_SECONDS = 1.5
"""How long it waits for one table: longer than deadlock_timeout by default, at which an autovacuum gives way."""
PACE_SECONDS = 0.1

_IN_ORDER = [*(lock.table.name for lock in Lock), *sorted(metadata.tables.keys() - {lock.table.name for lock in Lock})]
_EXISTING = sa.text(
    "SELECT oid, relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = current_schema()::regnamespace"
)
_LOCKED_BESIDE = sa.text(
    "SELECT DISTINCT c.relname FROM pg_locks l JOIN pg_class c ON c.oid = l.relation"
    " WHERE l.pid = pg_backend_pid() AND l.mode <> 'AccessShareLock' AND c.oid = ANY(:before)"
    " AND c.relname <> ALL(:locked)"
)


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


class _Another(StoreUnavailable):
    """Another migration is running."""


class _InUse(Exception):
    """Somebody works with the table of this name."""


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """The newest revision this version knows."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def _current(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _lock_tables(connection: sa.Connection, existing: set[str], first: str | None) -> list[str]:
    """Lock out everybody else from our tables; wait, at most TABLE_SECONDS, for `first` and no other."""
    names = [name for name in (*_IN_ORDER, "alembic_version") if name in existing]
    connection.execute(sa.text(f"SET LOCAL lock_timeout = {int(TABLE_SECONDS * 1000)}"))
    for name in sorted(names, key=lambda name: name != first):
        try:
            connection.execute(lock_table(name, wait=Wait.WAIT if name == first else Wait.SKIP))
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == "55P03":
                raise _InUse(name) from error
            raise
    return names


def _upgrade(connection: sa.Connection, first: str | None) -> list[str]:
    if not connection.execute(TRY_SCHEMA).scalar_one():
        raise _Another("another migration of this database is running: try again when it has ended")
    script = ScriptDirectory.from_config(_config())
    before = _current(connection)
    if before is not None and before not in {step.revision for step in script.walk_revisions()}:
        raise SchemaMismatch(
            f"the database's schema ({before}) is newer than this version of asyncsched knows: upgrade asyncsched"
        )
    missing = [step.revision for step in reversed(list(script.iterate_revisions("head", before or "base")))]
    if missing:
        existing = {row.relname: row.oid for row in connection.execute(_EXISTING)}
        locked = _lock_tables(connection, set(existing), first)
        command.upgrade(_config(connection), "head")
        beside = connection.execute(_LOCKED_BESIDE, {"before": list(existing.values()), "locked": locked}).scalars()
        if names := list(beside):
            raise LockOrderError(f"the migration locks tables that were not locked at its beginning: {names}")
    return missing


async def check(bridge: Bridge, dsn: str) -> MigrationStatus:
    """Where the schema stands; changes nothing. Raises StoreUnavailable or DatabaseRefused."""
    return MigrationStatus(current=await alter(bridge, dsn, _current), head=head())


async def upgrade(bridge: Bridge, dsn: str) -> list[str]:
    """Run what is missing; return the revisions that were run, none if the schema was current.

    Raises SchemaMismatch if the database is newer than this version; Conflict if the tables, or StoreUnavailable
    if the right to migrate, were not to be had for PATIENCE_SECONDS; StoreUnavailable or DatabaseRefused.
    """
    begun, first = trio.current_time(), None
    while True:
        late = trio.current_time() - begun > PATIENCE_SECONDS - TABLE_SECONDS
        try:
            return await alter(bridge, dsn, _upgrade, first)
        except _InUse as error:
            first = str(error)
            if late:
                raise Conflict(
                    f"somebody works with the table {first}: stop the daemons of this database, or try again",
                    sqlstate="55P03",
                ) from error
        except _Another:
            if late:
                raise
        await trio.sleep(PACE_SECONDS)
