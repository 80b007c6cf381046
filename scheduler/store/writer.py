"""What a transaction may do, and who may run one: `Transaction`, and the registry of writers.

A writer is a module-level async function decorated with `writer`, which declares the locks it may take. It
awaits nothing but its transaction's own methods, changes nothing outside the database, and may be run again:
always lock, then read, decide in pure code, write, announce. `transaction.py` runs it.
"""

from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

import sqlalchemy as sa
from attrs import field, frozen

from scheduler.model.facts import Fact, FactKind
from scheduler.store.errors import LockOrderError
from scheduler.store.locks import APPEND_ONLY, SATELLITES, HeldLocks, Lock, LockStatement, Mode, Wait
from scheduler.store.statements import compiled, rows_touched

P = ParamSpec("P")
T = TypeVar("T")

Params = Mapping[str, Any] | None
Row = Mapping[str, Any]

BEGINNING = "SELECT pg_current_xact_id()::text AS xid, clock_timestamp() AS now"
"""First statement of every transaction: its id, to settle an unknown outcome by, and the database's clock."""


class Stepper(Protocol):
    """Somebody who watches a transaction statement by statement, and may hold it up: tests do."""

    async def before(self, transaction: "Transaction", text: str) -> None:
        """Called on the asyncio side before each statement, and before COMMIT with the text "COMMIT"."""

    async def after(self, transaction: "Transaction", text: str) -> None:
        """Called after each statement that succeeded."""


class Reading:
    """What a read-only function is given: it can fetch, and cannot lock or write."""

    def __init__(self, driver: Any, now: datetime) -> None:
        self._driver = driver
        self.now = now
        """The database's clock when the transaction began; aware, UTC."""

    async def fetch(self, statement: sa.Executable, params: Params = None) -> Sequence[Row]:
        """Run a SELECT and return all rows as mappings."""
        made = compiled(statement)
        return await self._fetch(made.text, made.arguments(params))

    async def _fetch(self, text: str, arguments: list[Any]) -> Sequence[Row]:
        rows: Sequence[Row] = await self._driver.fetch(text, *arguments)
        return rows


class Transaction(Reading):
    """What a writer is given: the law of locks stands between it and the connection."""

    def __init__(
        self, driver: Any, now: datetime, allowed: frozenset[Lock], *, name: str = "", stepper: Stepper | None = None
    ) -> None:
        super().__init__(driver, now)
        self.name = name
        """The writer's."""
        self.held = HeldLocks(allowed)
        self.announcements: dict[Hashable, None] = {}
        self.facts: list[Fact] = []
        self._stepper = stepper

    async def lock(self, statement: LockStatement, **params: Any) -> list[int]:
        """Run a locking statement; return the keys it locked, ascending.

        Raises LockOrderError if the order would be broken, before anything is sent.
        """
        self.held.about_to_lock(statement.lock, wait=statement.wait)
        rows = await self.fetch(statement.select, params)
        keys = [row["id"] for row in rows]
        self.held.locked(statement.lock, keys, wait=statement.wait, mode=statement.mode)
        return keys

    async def insert(self, lock: Lock, statement: sa.Executable, params: Params = None) -> Sequence[Row]:
        """Run one INSERT into the table of `lock`, whose rows arrive sorted by its contended unique key.

        The statement must return `id`. The rows count as held.
        """
        self.held.about_to_lock(lock, wait=Wait.WAIT, inserting=True)
        rows = await self.fetch(statement, params)
        self.held.locked(lock, [row["id"] for row in rows], wait=Wait.WAIT, mode=Mode.UPDATE, inserted=True)
        return rows

    async def write(self, lock: Lock, keys: Collection[int], statement: sa.Executable, params: Params = None) -> None:
        """Run one UPDATE or DELETE of exactly the rows `keys`, which this transaction holds.

        Raises LockOrderError if it does not hold them, or if the statement touched another number of rows.
        """
        self.held.check_covers(lock, keys)
        touched = await self._execute(statement, params)
        if touched != len(keys):
            raise LockOrderError(f"{lock.name}: {len(keys)} rows to write, {touched} written")

    async def write_with_satellites(
        self, lock: Lock, keys: Collection[int], statement: sa.Executable, params: Params = None
    ) -> None:
        """Run one statement that writes exactly the held rows `keys` and rows of their satellites, in CTEs.

        It returns one row with the count of the former as `touched`. All rows are held, so the order in which the
        plan visits them does not matter. Raises LockOrderError as `write` does.
        """
        self.held.check_covers(lock, keys)
        (row,) = await self.fetch(statement, params)
        if row["touched"] != len(keys):
            raise LockOrderError(f"{lock.name}: {len(keys)} rows to write, {row['touched']} written")

    async def write_together(
        self, rows: Mapping[Lock, Collection[int]], statement: sa.Executable, params: Params = None
    ) -> None:
        """Run one statement that writes exactly these held rows of several tables, and of their satellites, in CTEs.

        It returns one row with the count for each table under the table's name. Otherwise as `write_with_satellites`.
        """
        for lock, keys in rows.items():
            self.held.check_covers(lock, keys)
        (row,) = await self.fetch(statement, params)
        for lock, keys in rows.items():
            if row[lock.table.name] != len(keys):
                raise LockOrderError(f"{lock.name}: {len(keys)} rows to write, {row[lock.table.name]} written")

    async def write_satellite(
        self, table: sa.Table, owners: Iterable[int], statement: sa.Executable, params: Params = None
    ) -> Sequence[Row]:
        """Insert, update or delete rows of a satellite table that belong to the held rows `owners`."""
        self.held.check_covers(SATELLITES[table], owners)
        return await self.fetch(statement, params)

    async def append(self, table: sa.Table, statement: sa.Executable, params: Params = None) -> None:
        """Insert into an append-only table: no contended key, no foreign key, so no lock."""
        assert table in APPEND_ONLY, table.name
        await self._execute(statement, params)

    async def consume(
        self, table: sa.Table, owners: Iterable[int], statement: sa.Executable, params: Params = None
    ) -> None:
        """Delete rows of an append-only table that belong to the held rows `owners`."""
        self.held.check_covers(APPEND_ONLY[table], owners)
        await self._execute(statement, params)

    def announce(self, *topics: Hashable) -> None:
        """Remember topics to be poked after the commit; hints only, nothing depends on them."""
        self.announcements.update(dict.fromkeys(topics))

    def tell(self, kind: FactKind, **about: Any) -> None:
        """Remember a fact, to be told to whoever listens after the commit."""
        self.facts.append(Fact(kind, about))

    async def _execute(self, statement: sa.Executable, params: Params) -> int:
        made = compiled(statement)
        if self._stepper is not None:
            await self._stepper.before(self, made.text)
        status: str = await self._driver.execute(made.text, *made.arguments(params))
        if self._stepper is not None:
            await self._stepper.after(self, made.text)
        return rows_touched(status)

    async def _fetch(self, text: str, arguments: list[Any]) -> Sequence[Row]:
        if self._stepper is None:
            return await super()._fetch(text, arguments)
        await self._stepper.before(self, text)
        rows = await super()._fetch(text, arguments)
        await self._stepper.after(self, text)
        return rows


@frozen
class Writer(Generic[P, T]):
    """A registered writer: a function of a transaction together with the locks it declares."""

    name: str
    locks: tuple[Lock, ...]
    inserts: tuple[Lock, ...]
    mode: Mode
    function: Callable[Concatenate[Transaction, P], Awaitable[T]] = field(repr=False)

    @property
    def allowed(self) -> frozenset[Lock]:
        return frozenset(self.locks) | frozenset(self.inserts)


WRITERS: dict[str, Writer[..., Any]] = {}
"""Every writer in the code base by name; LOCKING.md's table and the lock-order tests come from here."""


def writer(
    *locks: Lock, inserts: tuple[Lock, ...] = (), mode: Mode = Mode.NO_KEY_UPDATE
) -> Callable[[Callable[Concatenate[Transaction, P], Awaitable[T]]], Writer[P, T]]:
    """Declare an async function as a writer that takes `locks`, in this order, and inserts into `inserts`.

    Raises LockOrderError at import if the order does not rise, or if the name is taken.
    """
    for declared in (locks, inserts):
        ranks = [lock.value for lock in declared]
        if ranks != sorted(set(ranks)):
            raise LockOrderError(f"locks must rise: {[lock.name for lock in declared]}")

    def register(function: Callable[Concatenate[Transaction, P], Awaitable[T]]) -> Writer[P, T]:
        made = Writer(function.__name__, locks, inserts, mode, function)
        if made.name in WRITERS:
            raise LockOrderError(f"two writers are called {made.name}")
        WRITERS[made.name] = made
        return made

    return register
