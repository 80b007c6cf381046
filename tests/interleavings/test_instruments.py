"""Tests of the tests: writers that break one rule each, and the instrument that must say so."""

import pickle
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from attrs import evolve

from scheduler.store import runs, tables, tasks
from scheduler.store.events import EventKind, append
from scheduler.store.locks import HeldLocks, Lock, LockStatement, Mode, Wait, by_key
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction, Writer
from tests.database import Server
from tests.interleavings.lockdep import CycleFound, Lockdep
from tests.interleavings.observe import Observer, Undeclared
from tests.interleavings.scenes import arrange
from tests.interleavings.stage import DeadlockFound, Stage
from tests.interleavings.theatre import Theatre, play
from tests.stress.daemons import Ledger

Function = Callable[..., Awaitable[Any]]
ROWS = "SELECT min(id) AS first, max(id) AS last FROM "


async def _ids(tx: Transaction, table: str) -> tuple[int, int]:
    (row,) = await tx.fetch(sa.text(ROWS + table))
    return row["first"], row["last"]


async def undeclared(tx: Transaction) -> None:
    await tx.fetch(sa.text("SELECT id FROM dag ORDER BY id FOR NO KEY UPDATE"))


async def clause_lost(tx: Transaction) -> None:
    first, _ = await _ids(tx, "task_instance")
    lost = LockStatement(
        Lock.TASK_INSTANCE,
        Wait.WAIT,
        Mode.NO_KEY_UPDATE,
        sa.select(tables.task_instance.c.id).where(sa.text(f"id={first}")),
    )
    await tx.lock(lost)


async def stronger(tx: Transaction) -> None:
    first, _ = await _ids(tx, "pool")
    await tx.lock(by_key(Lock.POOL), keys=[first])
    await tx.fetch(sa.text(f"SELECT id FROM pool WHERE id = {first} FOR UPDATE"))


async def child_of_a_stranger(tx: Transaction) -> None:
    await tx.fetch(
        sa.text(
            "INSERT INTO attempt (token, ti_id, try_number, state, daemon, queued_at, log_path)"
            " SELECT gen_random_uuid(), max(id), 1, 'lost', gen_random_uuid(), now(), '' FROM task_instance"
        )
    )


async def backwards(tx: Transaction) -> None:
    first, _ = await _ids(tx, "dag_run")
    await tx.lock(tasks.LOCK_UNFINISHED, runs=[first + 4])
    await tx.fetch(sa.text(f"UPDATE dag_run SET seq = seq WHERE id = {first}"))


async def advisory(tx: Transaction) -> None:
    await tx.fetch(sa.text("SELECT pg_advisory_xact_lock(1)"))


async def whole_table(tx: Transaction) -> None:
    await tx.fetch(sa.text("LOCK TABLE pool IN EXCLUSIVE MODE"))


async def deletes_softly(tx: Transaction) -> None:
    _, last = await _ids(tx, "pool")
    keys = await tx.lock(by_key(Lock.POOL), keys=[last])
    await tx.write(Lock.POOL, keys, sa.text("DELETE FROM pool WHERE id = ANY(:keys)"), {"keys": keys})


async def as_it_should(tx: Transaction) -> None:
    first, last = await _ids(tx, "dag_run")
    keys = await tx.lock(runs.LOCK_RUN, keys=[last, first])
    await append(tx, [(key, None, EventKind.RUN, tx.now) for key in keys])


BAD: dict[Function, str] = {
    undeclared: "nobody declared it",
    clause_lost: "is not locked",
    stronger: "FOR UPDATE; what was declared is weaker",
    child_of_a_stranger: "locked FOR KEY SHARE; nobody declared it",
    backwards: "nobody declared it",
    advisory: "locks that the law does not know",
    whole_table: "locks that the law does not know",
    deletes_softly: "FOR UPDATE; what was declared is weaker",
}


def _writer(function: Function) -> Writer[..., Any]:
    return Writer(function.__name__, tuple(Lock), tuple(Lock), Mode.NO_KEY_UPDATE, function)


def test_what_is_not_declared_is_found(server: Server) -> None:
    async def main(theatre: Theatre) -> None:
        await arrange(theatre, "rich")
        for function, message in {**BAD, as_it_should: ""}.items():
            await theatre.reset("rich")
            store = evolve(theatre.store, stepper=Observer(theatre.monitor, Lockdep()))
            if not message:
                await store.transact(_writer(function))
                continue
            with pytest.raises(Undeclared, match=message) as found:
                await store.transact(_writer(function))
            assert f"in {function.__name__}" in str(found.value), "it says where"

    play(server, main)


def test_two_orders_are_a_cycle_though_nothing_ran_at_the_same_time(server: Server) -> None:
    """The law refuses the second order itself, so here it is asleep."""

    async def one_way(tx: Transaction) -> None:
        await tx.lock(by_key(Lock.DAG_RUN), keys=[(await _ids(tx, "dag_run"))[0]])
        await tx.lock(by_key(Lock.TASK_INSTANCE), keys=[(await _ids(tx, "task_instance"))[0]])

    async def the_other(tx: Transaction) -> None:
        await tx.lock(by_key(Lock.TASK_INSTANCE), keys=[(await _ids(tx, "task_instance"))[0]])
        await tx.lock(by_key(Lock.DAG_RUN), keys=[(await _ids(tx, "dag_run"))[0]])

    async def main(theatre: Theatre) -> None:
        await arrange(theatre, "rich")
        store = evolve(theatre.store, stepper=Ledger(Lockdep()))
        await store.transact(_writer(one_way))
        with pytest.raises(CycleFound, match="dag_run rows -> task_instance rows -> dag_run rows") as found:
            await store.transact(_writer(the_other))
        assert "in one_way" in str(found.value)
        assert "in the_other" in str(found.value)
        assert str(found.value).count("FROM dag_run") == str(found.value).count("FROM task_instance") == 2, "statements"
        await in_two_processes(evolve(theatre.store, stepper=None))

    async def in_two_processes(store: Store) -> None:
        here, there = Lockdep(), Lockdep()
        await evolve(store, stepper=Ledger(here)).transact(_writer(one_way))
        await evolve(store, stepper=Ledger(there)).transact(_writer(the_other))
        here.absorb(*pickle.loads(pickle.dumps((there.edges, there.modes, there.dropped))))
        with pytest.raises(CycleFound, match="taken in a circle"):
            here.check()

    _asleep(lambda: play(server, main))


def test_a_deadlock_on_the_stage_is_seen_and_told(server: Server) -> None:
    async def one_way(tx: Transaction) -> None:
        first, last = await _ids(tx, "dag_run")
        await tx.fetch(sa.text(f"UPDATE dag_run SET seq = seq WHERE id = {first}"))
        await tx.fetch(sa.text(f"UPDATE dag_run SET seq = seq WHERE id = {last}"))

    async def the_other(tx: Transaction) -> None:
        first, last = await _ids(tx, "dag_run")
        await tx.fetch(sa.text(f"UPDATE dag_run SET seq = seq WHERE id = {last}"))
        await tx.fetch(sa.text(f"UPDATE dag_run SET seq = seq WHERE id = {first}"))

    async def main(theatre: Theatre) -> None:
        await arrange(theatre, "rich")
        stage: Stage = theatre.stage
        a = stage.start("A", theatre.store, lambda store: store.transact(_writer(one_way)))
        b = stage.start("B", theatre.store, lambda store: store.transact(_writer(the_other)))
        await stage.settle()
        for actor in (a, a, b, b):  # each has read the keys and holds one row
            await stage.turn(actor)
        await stage.turn(a)
        assert a.waits
        with pytest.raises(DeadlockFound, match="UPDATE dag_run") as found:
            await stage.turn(b)
        assert "what happened" in str(found.value)
        await stage.clear()

    play(server, main)


def _asleep(run: Callable[[], None]) -> None:
    """With the run-time check off."""
    check = HeldLocks.about_to_lock
    HeldLocks.about_to_lock = lambda *_args, **_options: None  # type: ignore[method-assign]
    try:
        run()
    finally:
        HeldLocks.about_to_lock = check  # type: ignore[method-assign]
