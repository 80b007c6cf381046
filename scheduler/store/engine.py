"""Open the store: look at the server, make the pools of connections, and close them at the end."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import sqlalchemy as sa
import trio
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from nurseries.bridge import Bridge
from scheduler.model.facts import Fact
from scheduler.store.errors import DatabaseRefused
from scheduler.store.limits import Limits
from scheduler.store.statements import set_codecs
from scheduler.store.transaction import Store
from scheduler.store.translation import translate

logger = logging.getLogger(__name__)


def server_settings(
    limits: Limits, *, may_set_deadlock_timeout: bool, version: int, synchronous_commit: str
) -> dict[str, str]:
    """Session settings sent with the connection, so that they cost no round trip."""
    settings = {
        "application_name": "asyncsched",
        "client_connection_check_interval": "1s",
        "idle_in_transaction_session_timeout": f"{int(limits.idle_in_transaction * 1000)}",
        "jit": "off",
        # statements find their rows by keys in arrays: a plan made for the values is no better, and is made each time
        "plan_cache_mode": "force_generic_plan",
        "lock_timeout": f"{int(limits.lock * 1000)}",
        "statement_timeout": f"{int(limits.statement * 1000)}",
        "timezone": "UTC",
    }
    if may_set_deadlock_timeout:
        settings["deadlock_timeout"] = f"{int(limits.deadlock * 1000)}"
    if synchronous_commit == "off":
        # what we promise is promised after COMMIT has returned: a claim or a result must not be lost with the server
        settings["synchronous_commit"] = "on"
    if version >= 170000:
        settings["transaction_timeout"] = f"{int(limits.server_transaction * 1000)}"
    return settings


MINIMUM_VERSION = 140000


@asynccontextmanager
async def open_store(
    bridge: Bridge,
    dsn: str,
    *,
    connections: int = 6,
    reserved: int = 3,
    limits: Limits | None = None,
    poke: Callable[..., None] = lambda *_topics: None,
    tell: Callable[[list[Fact]], None] = lambda _facts: None,
    clock: Callable[[], datetime] | None = None,
) -> AsyncIterator[Store]:
    """Connect to `dsn` ("postgresql+asyncpg://...") and yield the store; all connections are closed after.

    Raises DatabaseRefused when the server is older than PostgreSQL 14, read-only, without fsync or does not
    let us in; StoreUnavailable when it cannot be reached.
    """
    limits = limits or Limits()
    version, may_set, synchronous = await _inspect(bridge, dsn, limits)
    settings = server_settings(
        limits, may_set_deadlock_timeout=may_set, version=version, synchronous_commit=synchronous
    )

    def engine(size: int, statement_seconds: float) -> AsyncEngine:
        made = create_async_engine(
            dsn,
            pool_size=size,
            max_overflow=0,
            pool_use_lifo=True,  # the connection used last has its statements prepared and its pages at hand
            pool_timeout=limits.pool,
            connect_args={
                "timeout": limits.connect,
                "command_timeout": statement_seconds + 0.5,
                # the same few dozen for ever: by default each is made anew after five minutes, in the way of somebody
                "max_cached_statement_lifetime": 0,
                "server_settings": settings | {"statement_timeout": f"{int(statement_seconds * 1000)}"},
            },
        )
        set_codecs(made)
        return made

    hot, reserve = engine(connections, limits.statement), engine(reserved, limits.statement * 4)
    try:
        await bridge.shielded(_warm_up, hot, connections)
        await bridge.shielded(_warm_up, reserve, reserved)
        yield Store(
            engine=hot,
            reserve=reserve,
            bridge=bridge,
            limits=limits,
            poke=poke,
            tell=tell,
            clock=clock,
            slots=trio.CapacityLimiter(connections),
            reserve_slots=trio.CapacityLimiter(reserved),
        )
    except Exception as error:
        raised = translate(error, committing=False, xid=None)
        if raised is None:
            raise
        raise raised from error
    finally:
        with trio.CancelScope(shield=True):
            await bridge.shielded(hot.dispose)
            await bridge.shielded(reserve.dispose)


async def _warm_up(engine: AsyncEngine, size: int) -> None:
    """Open every connection once, here where nothing cancels it: a cancelled connect is the worst kind."""
    opened: list[AsyncConnection] = []
    try:
        for _ in range(size):
            opened.append(await engine.connect())  # noqa: PERF401  (each must be closed if a later one fails)
    finally:
        for connection in opened:
            await connection.close()


async def _inspect(bridge: Bridge, dsn: str, limits: Limits) -> tuple[int, bool, str]:
    """Look at the server before any real connection: is it new enough, durable, writable; what may we set."""

    async def look() -> sa.Row[Any]:
        engine = create_async_engine(dsn, pool_size=1, connect_args={"timeout": limits.connect})
        try:
            async with engine.connect() as connection:
                return (
                    await connection.execute(
                        sa.text(
                            "SELECT current_setting('server_version_num')::int AS version,"
                            " current_setting('server_version') AS version_text,"
                            " current_setting('fsync') = 'on' AS durable,"
                            " pg_is_in_recovery() AS standby,"
                            " current_setting('is_superuser') = 'on' AS superuser,"
                            " current_setting('synchronous_commit') AS synchronous_commit,"
                            " current_setting('deadlock_timeout') AS deadlock_timeout"
                        )
                    )
                ).one()
        finally:
            await engine.dispose()

    try:
        seen = await bridge.shielded(look)
    except Exception as error:
        raised = translate(error, committing=False, xid=None)
        if raised is None:
            raise
        raise raised from error
    if seen.version < MINIMUM_VERSION:
        raise DatabaseRefused(
            f"PostgreSQL {seen.version_text} is too old: asyncsched needs 14 or later."
            " Upgrade it, or use the embedded one (--database embedded)."
        )
    if seen.standby:
        raise DatabaseRefused("the database is a standby and read-only: give the address of its primary")
    if not seen.durable:
        raise DatabaseRefused("the database runs with fsync=off and may lose what it has promised: turn it on")
    may_set = bool(seen.superuser)
    if not may_set and seen.version >= 150000:
        may_set = await _may_set_deadlock_timeout(bridge, dsn, limits)
    if not may_set:
        logger.warning(
            "the server's deadlock_timeout is %s and this user may not lower it; with a value above our"
            " lock_timeout of %d ms a deadlock would show as a lock time-out",
            seen.deadlock_timeout,
            int(limits.lock * 1000),
        )
    return int(seen.version), may_set, seen.synchronous_commit


async def _may_set_deadlock_timeout(bridge: Bridge, dsn: str, limits: Limits) -> bool:
    async def ask() -> bool:
        engine = create_async_engine(dsn, pool_size=1, connect_args={"timeout": limits.connect})
        try:
            async with engine.connect() as connection:
                question = sa.text("SELECT has_parameter_privilege('deadlock_timeout', 'SET')")
                return bool((await connection.execute(question)).scalar_one())
        finally:
            await engine.dispose()

    return await bridge.shielded(ask)
