"""What is really locked, read from PostgreSQL after each statement, against what the transaction declares.

For one transaction of a writer that runs alone. Row locks are read with `pgrowlocks` from another session; rows
that the transaction inserted, with their foreign keys, through its own; advisory and table locks from `pg_locks`.
"""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from attrs import define, field

from scheduler.store.locks import APPEND_ONLY, SATELLITES, Acquisition, Lock, Mode, Wait
from scheduler.store.tables import metadata
from scheduler.store.writer import Transaction
from tests.interleavings.lockdep import KEY_SHARE, LOCKDEP, NO_KEY_UPDATE, UPDATE, Lockdep, Node, stack
from tests.interleavings.monitor import Monitor
from tests.interleavings.stage import shorten

RANKED: dict[str, Lock] = {lock.table.name: lock for lock in Lock}
OWNED: dict[str, Lock] = {table.name: lock for table, lock in {**SATELLITES, **APPEND_ONLY}.items()}
OWNER_COLUMN = {Lock.DAG: "dag_pk", Lock.DAG_RUN: "run_pk", Lock.TASK_INSTANCE: "ti_id"}
WEAK_TABLE_LOCKS = ("AccessShareLock", "RowShareLock", "RowExclusiveLock")


class Undeclared(AssertionError):
    """PostgreSQL and the ledger do not say the same."""


def _key(table: str) -> str:
    """The column with the key of the ranked row that a row is, or belongs to."""
    if table in RANKED:
        return "id"
    assert table in OWNED, f"{table} has no place in locks.py: give it a rank, or an owner"
    return OWNER_COLUMN[OWNED[table]]


_LOCKED = " UNION ALL ".join(
    f"SELECT '{table}' AS tbl, t.{_key(table)} AS key, t.ctid::text AS row, l.mode"
    f" FROM pgrowlocks('{table}') p JOIN {table} t ON t.ctid = p.locked_row,"
    " unnest(p.pids, p.modes) AS l(pid, mode) WHERE l.pid = $1"
    for table in metadata.tables
)
_EXISTING = " UNION ALL ".join(f"SELECT '{table}' AS tbl, id AS key FROM {table}" for table in RANKED)
_OTHER = (
    "SELECT locktype, mode, relation::regclass::text AS relation FROM pg_locks WHERE pid = $1"
    " AND (locktype = 'advisory' OR locktype = 'relation' AND NOT mode = ANY($2))"
)
_MODES = {
    "For Key Share": KEY_SHARE,
    "Key Share": KEY_SHARE,
    "For Share": "share",
    "Share": "share",
    "For No Key Update": NO_KEY_UPDATE,
    "No Key Update": NO_KEY_UPDATE,
    "For Update": UPDATE,
    "Update": UPDATE,
}


def _parents(table: sa.Table) -> dict[str, Lock]:
    """Foreign key columns and the ranked tables they point at."""
    return {
        key.parent.name: RANKED[key.column.table.name] for key in table.foreign_keys if key.column.table.name in RANKED
    }


@define(eq=False)
class Observer:
    """A stepper that compares, statement by statement."""

    monitor: Monitor
    lockdep: Lockdep = LOCKDEP
    statements: int = 0
    locks: int = 0
    before_rows: dict[tuple[str, str], tuple[int, str]] = field(factory=dict)
    """Locked rows seen so far in this transaction: (table, row) -> (key, mode)."""
    fk_locks: int = 0
    _last: str = ""
    _stack: str = ""

    async def before(self, transaction: Transaction, text: str) -> None:
        """Look at what the statement before this one has done: now the ledger knows of it."""
        if not self._last:
            return
        self.lockdep.declared(transaction)
        self.statements += 1
        driver = transaction._driver
        inserted = await self._inserted(driver)
        found = await self.monitor.bridge.call_trio(self._look, driver.get_server_pid())
        try:
            self._compare(transaction, self._last, inserted, *found)
        except Undeclared as error:
            raise Undeclared(f"{transaction.name}: {error}\n  after: {shorten(self._last)}\n{self._stack}") from None

    async def after(self, transaction: Transaction, text: str) -> None:
        """Remember where we were."""
        self.lockdep.passed(transaction, text)
        self._last, self._stack = text, stack()
        if text == "COMMIT":  # the next one begins with nothing
            self._last, self.before_rows = "", {}

    async def _inserted(self, driver: Any) -> dict[str, list[dict[str, Any]]]:
        """Rows that this transaction wrote, as it sees them; those that others see too were updated."""
        rows = {}
        for table in metadata.tables:
            mine = await driver.fetch(f"SELECT * FROM {table} WHERE xmin = pg_current_xact_id()::xid")
            rows[table] = [dict(row) for row in mine]
        return rows

    async def _look(self, pid: int) -> tuple[dict[tuple[str, str], tuple[int, str]], set[tuple[str, int]], list[Any]]:
        locked = await self.monitor.fetch(_LOCKED, pid)
        existing = {(row["tbl"], row["key"]) for row in await self.monitor.fetch(_EXISTING)}
        other = await self.monitor.fetch(_OTHER, pid, WEAK_TABLE_LOCKS)
        rows: dict[tuple[str, str], tuple[int, str]] = {}
        for row in locked:
            place, mode = (row["tbl"], row["row"]), _MODES[row["mode"]]
            if place in rows and rows[place][1] == UPDATE:
                continue
            rows[place] = (row["key"], mode)
        return rows, existing, list(other)

    def _compare(
        self,
        transaction: Transaction,
        text: str,
        written: Mapping[str, list[dict[str, Any]]],
        rows: Mapping[tuple[str, str], tuple[int, str]],
        existing: set[tuple[str, int]],
        other: list[Any],
    ) -> None:
        held = transaction.held
        if other:
            raise Undeclared(f"locks that the law does not know: {[tuple(row) for row in other]}")
        strong = {
            (entry.lock, key)
            for entry in held.ledger
            for key in entry.keys
            if entry.inserted or entry.mode is Mode.UPDATE
        }
        for (table, _), (key, mode) in rows.items():
            owner = RANKED.get(table) or OWNED[table]
            if key not in held.of(owner):
                raise Undeclared(f"{table} row of {owner.name} {key} is locked FOR {mode.upper()}; nobody declared it")
            if table in RANKED and mode == UPDATE and (owner, key) not in strong:
                raise Undeclared(f"{table} {key} is locked FOR UPDATE; what was declared is weaker")
        self._check_declared(held.ledger, rows, written, existing)
        self._check_parents(transaction, written, existing)
        self._check_rising(transaction, text, rows)
        self.locks += len(rows.keys() - self.before_rows.keys())
        self.before_rows = dict(rows)

    def _check_declared(
        self,
        ledger: list[Acquisition],
        rows: Mapping[tuple[str, str], tuple[int, str]],
        written: Mapping[str, list[dict[str, Any]]],
        existing: set[tuple[str, int]],
    ) -> None:
        """What is declared is held: a locking clause that got lost shows here."""
        real = {(table, key): mode for (table, _), (key, mode) in rows.items() if table in RANKED}
        for entry in ledger:
            table = entry.lock.table.name
            new = {row["id"] for row in written[table]}
            for key in entry.keys:
                if entry.inserted and ((table, key) not in existing or key in new):
                    continue  # ours until we commit; the DELETE of our own rows included
                mode = real.get((table, key))
                if mode is None:
                    raise Undeclared(f"{table} {key} is declared as held, and is not locked")
                if mode == KEY_SHARE or (entry.mode is Mode.UPDATE and not entry.inserted and mode != UPDATE):
                    raise Undeclared(f"{table} {key} is declared FOR {entry.mode.upper()} and held FOR {mode.upper()}")

    def _check_parents(
        self,
        transaction: Transaction,
        written: Mapping[str, list[dict[str, Any]]],
        existing: set[tuple[str, int]],
    ) -> None:
        """Whoever inserts a row that refers to another one holds that one: its KEY SHARE cannot wait."""
        for table, mine in written.items():
            for row in mine:
                if table in RANKED and (table, row["id"]) in existing:
                    continue  # updated: the foreign key is as it was
                if table in RANKED and row["id"] not in transaction.held.of(RANKED[table]):
                    raise Undeclared(f"{table} {row['id']} was inserted; nobody declared it")
                for column, parent in _parents(metadata.tables[table]).items():
                    self.fk_locks += 1
                    if row[column] not in transaction.held.of(parent):
                        raise Undeclared(f"{table}.{column} = {row[column]}: {parent.name} {row[column]} is not held")

    def _check_rising(
        self, transaction: Transaction, text: str, rows: Mapping[tuple[str, str], tuple[int, str]]
    ) -> None:
        """What is new since the statement before comes after all that was held then, unless it cannot wait."""
        entry = transaction.held.ledger[-1] if transaction.held.ledger else None
        highest = max(
            ((RANKED[table].value, key) for (table, _), (key, _) in self.before_rows.items() if table in RANKED),
            default=(0, 0),
        )
        fresh: dict[tuple[Node, str], bool] = {}
        for place, (key, mode) in rows.items():
            if place in self.before_rows:
                self._check_upgrade(place[0], key, self.before_rows[place][1], mode)
                continue
            table = place[0]
            if table not in RANKED:
                self.lockdep.guarded()
                continue
            skips = entry is not None and entry.lock is RANKED[table] and entry.wait is Wait.SKIP
            if not skips and (RANKED[table].value, key) <= highest:
                raise Undeclared(f"{table} {key} is locked after {highest} was")
            fresh[Node(table), mode] = skips
        # what is declared is in the graph already; this adds what is seen in another mode or place
        for (node, mode), skips in fresh.items():
            if entry is None or entry.lock.table.name != node.table or entry.inserted or str(entry.mode) != mode:
                self.lockdep.took(transaction, node, mode, text, skips=skips)

    @staticmethod
    def _check_upgrade(table: str, key: int, before: str, now: str) -> None:
        order = [KEY_SHARE, "share", NO_KEY_UPDATE, UPDATE]
        if table in RANKED and order.index(now) > order.index(before):
            raise Undeclared(f"{table} {key} was held FOR {before.upper()} and is now FOR {now.upper()}: an upgrade")
