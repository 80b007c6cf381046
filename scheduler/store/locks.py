"""The law of locks: which rows may be locked, in which order, by which statements. LOCKING.md has the prose.

Ranks only rise inside a transaction, each rank is locked once, by one statement on one table, ordered by its
immutable primary key. Only this module and `transaction.py` hold locking clauses and commits. The order check
runs on every acquisition, in production too. Before all ranks comes the schema, which only a migration locks.
"""

from collections.abc import Iterable
from enum import Enum, StrEnum
from typing import Any

import sqlalchemy as sa
from attrs import field, frozen
from sqlalchemy.dialects.postgresql import ARRAY

from scheduler.store import tables
from scheduler.store.errors import LockOrderError


class Lock(Enum):
    """Everything that may be locked. The value is the rank: 'a < b' means a before b if both are held."""

    SEAT = 10
    DAG_FILE = 20
    DAG = 30
    DAG_RUN = 40
    POOL = 50
    TASK_INSTANCE = 80

    @property
    def table(self) -> sa.Table:
        return _TABLES[self]


_TABLES = {
    Lock.SEAT: tables.seat,
    Lock.DAG_FILE: tables.dag_file,
    Lock.DAG: tables.dag,
    Lock.DAG_RUN: tables.dag_run,
    Lock.POOL: tables.pool,
    Lock.TASK_INSTANCE: tables.task_instance,
}

INSERTED = 1
"""Added to a rank: the unique values locked by inserting into its table come after its rows."""

SATELLITES: dict[sa.Table, Lock] = {
    tables.dag_version: Lock.DAG,
    tables.attempt: Lock.TASK_INSTANCE,
    tables.xcom: Lock.TASK_INSTANCE,
}
"""Tables without a rank, written only under the lock of the row they belong to."""

APPEND_ONLY: dict[sa.Table, Lock] = {tables.event: Lock.DAG_RUN}
"""Tables that anyone may append to and that are deleted from under the lock named here."""


class Wait(StrEnum):
    """What to do about a row that somebody else holds."""

    WAIT = "wait"
    SKIP = "skip"


class Mode(StrEnum):
    """How strong: NO KEY UPDATE for all but purge, which deletes rows that others refer to."""

    NO_KEY_UPDATE = "no key update"
    UPDATE = "update"


@frozen
class LockStatement:
    """One prepared locking statement: made once, at import, by `locking`."""

    lock: Lock
    wait: Wait
    mode: Mode
    select: sa.Select[tuple[int]]


def locking(
    lock: Lock,
    where: sa.ColumnElement[bool],
    *,
    wait: Wait,
    mode: Mode = Mode.NO_KEY_UPDATE,
    limit: bool = False,
) -> LockStatement:
    """A statement that locks the rows of `lock`'s table that satisfy `where`, in key order.

    With `limit` it takes a parameter `at_most`. It returns keys and nothing else: what a locking statement
    reads may predate its wait, so rows are read by a second statement.
    """
    key = lock.table.c.id
    select: sa.Select[tuple[int]] = sa.select(key).where(where).order_by(key)
    if limit:
        select = select.limit(sa.bindparam("at_most", type_=sa.BigInteger))
    select = select.with_for_update(key_share=mode is Mode.NO_KEY_UPDATE, skip_locked=wait is Wait.SKIP, of=lock.table)
    return LockStatement(lock, wait, mode, select)


def keys_param(name: str = "keys") -> sa.BindParameter[Any]:
    """A parameter that takes a list of primary keys."""
    return sa.bindparam(name, type_=ARRAY(sa.BigInteger))


def by_key(
    lock: Lock,
    *conditions: sa.ColumnElement[bool],
    wait: Wait = Wait.WAIT,
    mode: Mode = Mode.NO_KEY_UPDATE,
) -> LockStatement:
    """Lock the rows with a key in the parameter `keys` that also satisfy `conditions`."""
    where = sa.and_(lock.table.c.id == sa.any_(keys_param()), *conditions)
    return locking(lock, where, wait=wait, mode=mode)


_ONE_AT_A_TIME = 0x61_73_79_6E_63
"""The advisory lock's number: "async" in ASCII."""
TRY_SCHEMA = sa.text(f"SELECT pg_try_advisory_xact_lock({_ONE_AT_A_TIME})")
"""A migration's first lock, tried and not waited for: keeps two of them apart until the transaction ends."""


def lock_table(name: str, *, wait: Wait) -> sa.TextClause:
    """Lock out everybody else from a whole table; with SKIP it fails with 55P03 at once if somebody is there.

    Writers touch tables in an order of their own, so a transaction may wait for the first table it locks and for
    no other.
    """
    return sa.text(f'LOCK TABLE "{name}" IN ACCESS EXCLUSIVE MODE{" NOWAIT" if wait is Wait.SKIP else ""}')


@frozen
class Acquisition:
    """One entry of a transaction's ledger."""

    lock: Lock
    keys: tuple[int, ...]
    mode: Mode
    wait: Wait
    inserted: bool = False


@frozen
class HeldLocks:
    """What a transaction holds, and the check that it asks in order. Costs one comparison an acquisition."""

    allowed: frozenset[Lock]
    """What the writer has declared; see `transaction.writer`."""
    ledger: list[Acquisition] = field(factory=list)
    _highest: list[int] = field(factory=lambda: [0])
    _keys: dict[Lock, set[int]] = field(factory=dict)

    def about_to_lock(self, lock: Lock, *, wait: Wait, inserting: bool = False) -> None:
        """Check, before the statement is sent, that `lock` comes after everything held.

        Raises LockOrderError. A statement that skips locked rows cannot wait, so its place is not compared,
        but it counts as held afterwards.
        """
        if lock not in self.allowed:
            raise LockOrderError(f"{lock.name} is not among the locks this writer declares")
        place = lock.value + (INSERTED if inserting else 0)
        if wait is Wait.WAIT and place <= self._highest[0]:
            raise LockOrderError(f"{lock.name} (place {place}) asked for while holding place {self._highest[0]}")
        self._highest[0] = max(self._highest[0], place)

    def locked(self, lock: Lock, keys: Iterable[int], *, wait: Wait, mode: Mode, inserted: bool = False) -> None:
        """Note what the statement returned."""
        got = tuple(keys)
        self.ledger.append(Acquisition(lock, got, mode, wait, inserted))
        self._keys.setdefault(lock, set()).update(got)

    def check_covers(self, lock: Lock, keys: Iterable[int]) -> None:
        """Raises LockOrderError unless every row in `keys` is held or was inserted by this transaction."""
        missing = set(keys) - self._keys.get(lock, set())
        if missing:
            raise LockOrderError(f"writing {lock.table.name} rows that nobody locked: {sorted(missing)[:5]}")

    def of(self, lock: Lock) -> frozenset[int]:
        """The keys held at one rank."""
        return frozenset(self._keys.get(lock, ()))
