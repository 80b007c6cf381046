"""The one function that runs a transaction, and the only commit.

`Store.transact` runs a writer as a single crossing into asyncio: begin, await the writer, commit or roll back,
all on that side. Outside is a shield, inside a deadline: a cancel acts before or after a transaction and never
within it, so a cancelled caller is never unsure whether something happened.

Time-outs nest; `limits.py` has them.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

import asyncpg
import sqlalchemy as sa
import trio
from attrs import define, field
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from nurseries.bridge import Bridge, deadline
from scheduler.model.facts import Fact
from scheduler.store.errors import DEADLOCK, Conflict, OutcomeUnknown, StoreUnavailable
from scheduler.store.limits import Limits
from scheduler.store.statements import compiled, rows_touched
from scheduler.store.translation import translate
from scheduler.store.writer import BEGINNING, Reading, Stepper, Transaction, Writer

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)


READ_SECONDS = 30.0
SETTLE_SECONDS = 2.0
"""How long an unknown outcome is asked after."""
ANSWER_SECONDS = 1.0
"""How long one such question waits for its answer."""
STATUS = "SELECT pg_xact_status(CAST(CAST($1 AS text) AS xid8))"


@define(eq=False)
class Store:
    """The database as routines and commands see it. Make one with `engine.open_store`."""

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


async def alter(
    bridge: Bridge, dsn: str, work: Callable[Concatenate[sa.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run `work` as one transaction on a connection of its own, with nothing bounded: for migrations.

    Raises StoreUnavailable, Conflict, DatabaseRefused, and whatever `work` raises; then nothing was committed.
    """

    async def crossing() -> T:
        engine = create_async_engine(dsn, pool_size=1, connect_args={"timeout": 5})
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(work, *args, **kwargs)
        finally:
            await engine.dispose()

    try:
        return await bridge.shielded(crossing)
    except Exception as error:
        raised = translate(error, committing=False, xid=None)
        if raised is None:
            raise
        raise raised from error
