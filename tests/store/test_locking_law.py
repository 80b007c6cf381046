"""The law of locks: the check itself, the register of writers, and its table in LOCKING.md."""

import importlib
import os
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import scheduler.commands
import scheduler.procedures
import scheduler.routines
import scheduler.store
from scheduler.store.errors import LockOrderError
from scheduler.store.locks import HeldLocks, Lock, Mode, Wait, by_key, locking
from scheduler.store.tables import metadata
from scheduler.store.writer import WRITERS, Transaction, writer

PAGE = Path(scheduler.store.__file__).parent / "LOCKING.md"
ALL = frozenset(Lock)


ROOMS = (scheduler.store, scheduler.procedures, scheduler.commands, scheduler.routines)
"""Packages that may hold writers and their SQL; `tests/test_tidy.py` keeps them out of the others."""


def modules() -> list[ModuleType]:
    """All modules of these rooms, but migrations."""
    return [
        importlib.import_module(found.name)
        for package in ROOMS
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if ".migrations" not in found.name
    ]


def load_writers() -> None:
    """Import every room that may hold a writer."""
    modules()


def table() -> str:
    """The writers and their locks, as Markdown."""
    load_writers()
    lines = ["| writer | module | locks, in order | inserts | mode |", "|---|---|---|---|---|"]
    for name, one in sorted(WRITERS.items()):
        module = one.function.__module__.removeprefix("scheduler.")
        if not one.function.__module__.startswith("scheduler."):
            continue
        locks = ", ".join(lock.name for lock in one.locks)
        inserts = ", ".join(lock.name for lock in one.inserts) or "-"
        lines.append(f"| `{name}` | {module} | {locks} | {inserts} | {one.mode} |")
    return "\n".join(lines)


def test_the_table_of_writers_is_what_the_code_says() -> None:
    """To renew it: ASYNCSCHED_UPDATE=1 pytest tests/store/test_locking_law.py"""
    text = PAGE.read_text()
    head, rest = text.split("<!-- writers -->\n")
    old, tail = rest.split("<!-- /writers -->")
    if os.environ.get("ASYNCSCHED_UPDATE"):
        PAGE.write_text(f"{head}<!-- writers -->\n{table()}\n<!-- /writers -->{tail}")
        return
    assert old.strip() == table()


def held(*locks: Lock) -> HeldLocks:
    return HeldLocks(frozenset(locks) or ALL)


def test_a_rank_below_what_is_held_is_refused_before_anything_is_sent() -> None:
    locks = held()
    locks.about_to_lock(Lock.TASK_INSTANCE, wait=Wait.WAIT)
    with pytest.raises(LockOrderError, match=r"DAG_RUN .* while holding place 80"):
        locks.about_to_lock(Lock.DAG_RUN, wait=Wait.WAIT)


def test_the_same_rank_twice_is_refused() -> None:
    locks = held()
    locks.about_to_lock(Lock.DAG, wait=Wait.WAIT)
    with pytest.raises(LockOrderError):
        locks.about_to_lock(Lock.DAG, wait=Wait.WAIT)


def test_rows_come_before_inserts_at_one_rank() -> None:
    locks = held()
    locks.about_to_lock(Lock.DAG, wait=Wait.WAIT)
    locks.about_to_lock(Lock.DAG, wait=Wait.WAIT, inserting=True)
    with pytest.raises(LockOrderError):
        locks.about_to_lock(Lock.DAG, wait=Wait.WAIT, inserting=True)


def test_what_skips_may_come_late_and_counts_as_held() -> None:
    locks = held()
    locks.about_to_lock(Lock.TASK_INSTANCE, wait=Wait.SKIP)
    locks.about_to_lock(Lock.DAG_RUN, wait=Wait.SKIP)
    with pytest.raises(LockOrderError):
        locks.about_to_lock(Lock.POOL, wait=Wait.WAIT)


def test_a_lock_that_was_not_declared_is_refused() -> None:
    with pytest.raises(LockOrderError, match="not among the locks"):
        held(Lock.DAG).about_to_lock(Lock.POOL, wait=Wait.WAIT)


def test_writing_rows_nobody_locked_is_refused() -> None:
    locks = held()
    locks.locked(Lock.DAG, [1, 2], wait=Wait.WAIT, mode=Mode.NO_KEY_UPDATE)
    locks.check_covers(Lock.DAG, [2])
    with pytest.raises(LockOrderError, match=r"dag rows that nobody locked: \[3\]"):
        locks.check_covers(Lock.DAG, [2, 3])


def test_a_writer_whose_locks_do_not_rise_does_not_import() -> None:
    with pytest.raises(LockOrderError, match="must rise"):

        @writer(Lock.TASK_INSTANCE, Lock.DAG_RUN)
        async def wrong(tx: Transaction) -> None: ...


def test_two_writers_cannot_have_one_name() -> None:
    load_writers()
    taken = next(iter(WRITERS))

    async def another(tx: Transaction) -> None: ...

    another.__name__ = taken
    with pytest.raises(LockOrderError, match="two writers"):
        writer(Lock.DAG)(another)


def test_every_locking_statement_orders_by_the_primary_key_and_locks_one_table() -> None:
    from sqlalchemy.dialects.postgresql import dialect

    for lock in Lock:
        for wait in Wait:
            for mode in Mode:
                text = str(by_key(lock, wait=wait, mode=mode).select.compile(dialect=dialect()))  # type: ignore[no-untyped-call]
                assert f"ORDER BY {lock.table.name}.id" in text
                assert f"FOR {mode.upper()} OF {lock.table.name}" in text
                assert text.endswith("SKIP LOCKED") == (wait is Wait.SKIP)


def test_a_limit_is_part_of_the_statement_only_when_asked_for() -> None:
    made = locking(Lock.SEAT, Lock.SEAT.table.c.kind == "daemon", wait=Wait.SKIP, limit=True)
    assert "LIMIT" in str(made.select)


def test_the_schema_hides_no_locks() -> None:
    for one in metadata.tables.values():
        for key in one.foreign_keys:
            assert key.ondelete is None, f"{one.name}: a cascade locks rows in the order it finds them"
            assert not key.deferrable, f"{one.name}: a deferred check locks at COMMIT"


def test_every_lockable_table_has_an_immutable_bigint_key() -> None:
    for lock in Lock:
        key = lock.table.c.id
        assert key.primary_key
        assert key.identity is not None
        assert key.identity.always
