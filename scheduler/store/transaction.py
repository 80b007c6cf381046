"""The one function that runs a transaction, and the only commit.

`Store.transact` runs a writer as a single crossing into asyncio: begin, await the writer, commit or roll back,
all on that side. Outside is a shield, inside a deadline: a cancel acts before or after a transaction and never
within it, so a cancelled caller is never unsure whether something happened.

Time-outs nest, each bounded by the next (milliseconds where PostgreSQL counts them):
deadlock 200 ms < lock 1 s < statement 2 s < driver command 2.5 s < transaction 3 s < (server, 17 and later)
transaction 8 s < idle in transaction 30 s. A frozen server is left after at most 3 + 2.5 + 2 s.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

import asyncpg
import sqlalchemy as sa
import trio
from attrs import define, field, frozen
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from nurseries.bridge import Bridge, deadline
from scheduler.model.facts import Fact
from scheduler.store.errors import DEADLOCK, Conflict, DatabaseRefused, OutcomeUnknown, StoreUnavailable
from scheduler.store.statements import compiled, rows_touched, set_codecs
from scheduler.store.writer import BEGINNING, Reading, Stepper, Transaction, Writer

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)


@frozen(kw_only=True)
class Limits:
    """Seconds; see the module's docstring for how they nest."""

    deadlock: float = 0.2
    lock: float = 1.0
    statement: float = 2.0
    command: float = 2.5
    transaction: float = 3.0
    server_transaction: float = 8.0
    idle_in_transaction: float = 30.0
    connect: float = 3.0
    pool: float = 1.0


READ_SECONDS = 30.0
SETTLE_SECONDS = 2.0
"""How long an unknown outcome is asked after."""
ANSWER_SECONDS = 1.0
"""How long one such question waits for its answer."""
STATUS = "SELECT pg_xact_status(CAST(CAST($1 AS text) AS xid8))"
CONFLICTS = frozenset({"40001", DEADLOCK, "55P03", "57014"})
AWAY = frozenset({"53300", "57P01", "57P02", "57P03", "25P03", "25P04"})
REFUSED = {
    "3D000": "the database does not exist: create it with createdb",
    "28000": "access denied: check the user and how PostgreSQL authenticates it",
    "28P01": "access denied: the password is wrong",
}


_BROKEN = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    sa.exc.InterfaceError,
    sa.exc.TimeoutError,
)
"""The connection, not the statement."""


def _sqlstate(error: BaseException) -> str | None:
    original = getattr(error, "orig", error)
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    return state if isinstance(state, str) else None


def translate(error: BaseException, *, committing: bool, xid: str | None) -> Exception | None:
    """Sort an exception from below: ours to raise instead, or None if it is a bug and passes unchanged."""
    state = _sqlstate(error)
    lost = (
        isinstance(error, _BROKEN)
        or (isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated)
        or (state is not None and (state.startswith("08") or state in AWAY))
    )
    if committing and xid is not None and (lost or state == "57014"):
        return OutcomeUnknown(xid, status=None)
    if state in CONFLICTS:
        return Conflict(str(getattr(error, "orig", error)), sqlstate=str(state))
    if state in REFUSED:
        return DatabaseRefused(f"{REFUSED[state]} ({getattr(error, 'orig', error)})")
    if lost:
        return StoreUnavailable(f"the database is away: {getattr(error, 'orig', error)!r}")
    return None


@define(eq=False)
class Store:
    """The database as routines and commands see it. Make one with `open_store`."""

    engine: AsyncEngine
    """Hot connections: transactions of routines and commands."""
    reserve: AsyncEngine
    """A few connections for leases, probes and long reads, which no burst of work can take."""
    bridge: Bridge
    limits: Limits
    poke: Callable[..., None]
    slots: trio.CapacityLimiter
    reserve_slots: trio.CapacityLimiter
    stepper: Stepper | None = None
    """Watches, and may hold up, every statement: tests do."""
    tell: Callable[[list[Fact]], None] = field(default=lambda _facts: None)
    """Hears the facts of each committed transaction."""
    clock: Callable[[], datetime] | None = None
    """Replaces the database's clock, in tests."""
    transactions: int = 0
    deadlocks: int = 0
    last_failure: str | None = field(default=None)

    async def transact(self, writer: Writer[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one writer as one transaction and return its result. Cancelled means: nothing happened.

        A cancel that arrives while it runs is felt at the caller's next checkpoint, after the result.
        Raises StoreUnavailable or Conflict (nothing was committed), OutcomeUnknown (perhaps it was),
        and whatever the writer raises, after the rollback.
        """
        xid: str | None = None
        committing = False
        topics: tuple[Hashable, ...] = ()
        facts: list[Fact] = []

        async def crossing() -> T:
            nonlocal xid, committing, topics, facts
            async with _driver(self.engine) as driver, deadline(self.limits.transaction):
                async with _rolled_back_on_error(driver):
                    await driver.execute("BEGIN")
                    beginning = await driver.fetchrow(BEGINNING)
                    xid = beginning["xid"]
                    now = self._now(beginning["now"])
                    transaction = Transaction(driver, now, writer.allowed, name=writer.name, stepper=self.stepper)
                    result = await writer.function(transaction, *args, **kwargs)
                    if self.stepper is not None:
                        await self.stepper.before(transaction, "COMMIT")
                    committing = True
                    await driver.execute("COMMIT")
                if self.stepper is not None:
                    await self.stepper.after(transaction, "COMMIT")
                topics, facts = tuple(transaction.announcements), transaction.facts
                return result

        async with self.slots:
            try:
                result = await self.bridge.shielded(crossing)
            except Exception as error:
                raised = self._translated(error, writer.name, committing=committing, xid=xid)
                if raised is None:
                    raise
                failure: Exception = raised
                cause: Exception = error
            else:
                self.transactions += 1
                self.poke(*topics)
                if facts:
                    self.tell(facts)
                return result
        if isinstance(failure, OutcomeUnknown):
            status = await self._settle(failure.xid)
            if status == "aborted":
                raise StoreUnavailable(f"transaction {failure.xid} was cut off and rolled back") from cause
            failure = OutcomeUnknown(failure.xid, status=status)
        raise failure from cause

    async def read(
        self, function: Callable[Concatenate[Reading, P], Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a function that only reads, in a read-only transaction of its own; bounded, and shielded like all.

        Raises StoreUnavailable or Conflict.
        """

        async def crossing() -> T:
            async with _driver(self.reserve) as driver, deadline(READ_SECONDS), _rolled_back_on_error(driver):
                await driver.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                now = await driver.fetchval("SELECT clock_timestamp()")
                result = await function(Reading(driver, self._now(now)), *args, **kwargs)
                await driver.execute("COMMIT")
                return result

        async with self.reserve_slots:
            try:
                return await self.bridge.shielded(crossing)
            except Exception as error:
                raised = self._translated(error, "read", committing=False, xid=None)
                if raised is None:
                    raise
                raise raised from error

    async def single(self, statement: sa.Executable, params: dict[str, Any]) -> int:
        """Run one statement on one row as a transaction of its own on the reserved connections: a heartbeat.

        Returns the number of rows it changed. Raises StoreUnavailable or Conflict.
        """

        async def crossing() -> int:
            async with _driver(self.reserve) as driver, deadline(self.limits.transaction):
                made = compiled(statement)
                return rows_touched(await driver.execute(made.text, *made.arguments(params)))

        async with self.reserve_slots:
            try:
                return await self.bridge.shielded(crossing)
            except Exception as error:
                raised = self._translated(error, "single", committing=False, xid=None)
                if raised is None:
                    raise
                raise raised from error

    async def probe(self) -> None:
        """Return if the database answers. Raises StoreUnavailable."""
        await self.read(_nothing)

    def statistics(self) -> dict[str, Any]:
        return {
            "transactions": self.transactions,
            "deadlocks": self.deadlocks,
            "connections_in_use": self.slots.borrowed_tokens,
            "connections": int(self.slots.total_tokens),
            "last_failure": self.last_failure,
        }

    def _now(self, database_now: datetime) -> datetime:
        return self.clock() if self.clock is not None else database_now.astimezone(UTC)

    def _translated(self, error: Exception, name: str, *, committing: bool, xid: str | None) -> Exception | None:
        raised = translate(error, committing=committing, xid=xid)
        if raised is None:
            return None
        self.last_failure = f"{name}: {raised}"
        if isinstance(raised, Conflict) and raised.sqlstate == DEADLOCK:
            self.deadlocks += 1
            logger.error("PostgreSQL reported a deadlock in %s; our lock order promises none: %s", name, error)
        return raised

    async def _settle(self, xid: str) -> str | None:
        """Ask what became of a transaction, until it is no longer in progress, for a few seconds at most.

        Shielded: a cancel must not replace the answer, or the lack of one, by "nothing happened". So it is short,
        on a server that stands still too.
        """

        async def crossing() -> str | None:
            async with _driver(self.reserve) as driver, deadline(ANSWER_SECONDS):
                try:
                    answer = await driver.fetchval(STATUS, xid)
                except BaseException:
                    driver.terminate()  # it may be in the middle of a question nobody will answer
                    raise
            return str(answer) if answer is not None else None

        begun = trio.current_time()
        with trio.CancelScope(shield=True):
            while True:
                asked = trio.current_time()
                try:
                    async with self.reserve_slots:
                        status = await self.bridge.shielded(crossing)
                except asyncpg.InvalidParameterValueError:
                    return "aborted"  # "transaction ID is in the future": it never reached the disk
                except Exception as error:
                    if self._translated(error, "settle", committing=False, xid=None) is None:
                        raise
                    status = "in progress"
                if status != "in progress":
                    return status
                now = trio.current_time()
                if now - begun > SETTLE_SECONDS or now - asked > ANSWER_SECONDS / 2:
                    return None
                await trio.sleep(0.05)
        return None  # a cancel scope may swallow, says its type; this one never does


@asynccontextmanager
async def _driver(engine: AsyncEngine) -> AsyncIterator[Any]:
    """A connection of the pool, as the driver knows it; one that broke does not go back into the pool."""
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        while driver.is_closed():  # since it was last used: after an outage that may be true of the whole pool
            await connection.invalidate()
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
        try:
            yield driver
        except asyncpg.InternalClientError:
            # "cannot switch to state ...": the server's last word on an idle connection was that it ends it, and
            # the end itself has not been read yet. Nothing can be sent any more.
            driver.terminate()
            raise
        finally:
            if driver.is_closed() or driver.is_in_transaction():
                await connection.invalidate()


@asynccontextmanager
async def _rolled_back_on_error(driver: Any) -> AsyncIterator[None]:
    """Roll back if the block does not get through: the connection is clean, or it is thrown away."""
    try:
        yield
    except BaseException:
        if not driver.is_closed():
            try:
                await driver.execute("ROLLBACK")
            except (
                OSError,
                TimeoutError,
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,
            ):
                driver.terminate()
        raise


async def _nothing(_: Reading) -> None:
    return None


def server_settings(
    limits: Limits, *, may_set_deadlock_timeout: bool, version: int, synchronous_commit: str
) -> dict[str, str]:
    """Session settings sent with the connection, so that they cost no round trip."""
    settings = {
        "application_name": "asyncsched",
        "client_connection_check_interval": "1s",
        "idle_in_transaction_session_timeout": f"{int(limits.idle_in_transaction * 1000)}",
        "jit": "off",
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
