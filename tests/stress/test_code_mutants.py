"""Mutants of our transaction code: each is killed by a check that passes on the code as it is."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import asyncpg
import pytest
from attrs import frozen

import nurseries.bridge
from scheduler.store import dags, engine, runs, transaction, translation
from scheduler.store.errors import OutcomeUnknown, StoreUnavailable
from scheduler.store.locks import HeldLocks
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction
from tests.database import Server
from tests.stress import checks, crossings
from tests.stress.kills import told_by
from tests.stress.mutation import replaced
from tests.stress.report import tell

pytestmark = [
    pytest.mark.stress,
    # what a mutant leaves behind is its own business
    pytest.mark.filterwarnings("ignore"),
]


@frozen
class Mutant:
    """A change of the code, and the check that is to tell."""

    name: str
    change: Callable[[], AbstractContextManager[None]]
    check: checks.Check
    also: tuple[type[BaseException], ...] = ()
    """What tells besides an assertion of the check, the law of locks and the schema."""

    def __str__(self) -> str:
        return self.name


def text(name: str, function: Any, old: str, new: str, check: checks.Check, *also: type[BaseException]) -> Mutant:
    return Mutant(name, lambda: replaced(function, old, new), check, also)


LAST = "self._highest[0] = max(self._highest[0], place)"
SHIELD = "trio.CancelScope(shield=True)"
MUTANTS = (
    text("the shield dropped", nurseries.bridge.Bridge.shielded, SHIELD, "trio.CancelScope()",
         checks.a_cancel_does_not_tear_a_transaction),
    Mutant("one crossing for each statement", crossings.one_for_each_statement, checks.a_storm_leaves_nothing),
    Mutant("the slot waited for inside the shield", crossings.slot_inside_the_shield,
           checks.waiting_for_a_slot_can_be_cancelled),
    text("the deadline removed", Store.transact, ", deadline(self.limits.transaction)", "",
         checks.a_transaction_has_a_deadline),
    text("no deadline for a single statement", Store.single, ", deadline(self.limits.transaction)", "",
         checks.everything_else_has_a_deadline_too),
    text("no deadline for reads", Store.read, ", deadline(READ_SECONDS)", "",
         checks.everything_else_has_a_deadline_too),
    text("no deadline for the question after an unknown outcome", Store._settle, ", deadline(ANSWER_SECONDS)", "",
         checks.everything_else_has_a_deadline_too),
    text("the deadline of the first connection ignored", engine._inspect, "{'timeout': limits.connect}",
         "{'timeout': 8.0}", checks.connecting_has_a_deadline),
    text("the deadline of connecting ignored by the pools", engine.open_store, "'timeout': limits.connect,",
         "'timeout': 8.0,", checks.connecting_has_a_deadline),
    text("no rollback after an error", transaction._rolled_back_on_error, "await driver.execute('ROLLBACK')", "pass",
         checks.an_error_leaves_a_clean_connection),
    text("COMMIT not sent", Store.transact, "await driver.execute('COMMIT')", "pass", checks.inserts_arrive_sorted),
    text("COMMIT not known to be under way", Store.transact, "committing = True", "pass",
         checks.a_lost_reply_is_settled, StoreUnavailable),
    text("an unknown outcome passed off as a refusal", translation.translate,
         "return OutcomeUnknown(xid, status=None)", "return StoreUnavailable('away')", checks.a_lost_reply_is_settled,
         StoreUnavailable),
    text("an unknown outcome not asked after", Store.transact, "if isinstance(failure, OutcomeUnknown):", "if False:",
         checks.a_lost_reply_is_settled, OutcomeUnknown),
    text("the question after an unknown outcome not shielded", Store._settle, SHIELD, "trio.CancelScope()",
         checks.a_lost_reply_is_settled),
    text("announced before the commit", Store.transact, "committing = True",
         "committing = True; self.poke(*transaction.announcements)", checks.what_follows_a_commit_sees_it),
    text("a deadlock is no alarm", Store._translated, "self.deadlocks += 1", "pass", checks.a_deadlock_is_an_alarm),
    text("a deadlock is a bug", translation.translate, "if state in CONFLICTS:", "if False:",
         checks.a_deadlock_is_an_alarm, asyncpg.DeadlockDetectedError),
    text("a time-out is a bug", translation.translate, "isinstance(error, _BROKEN)", "False",
         checks.a_transaction_has_a_deadline, TimeoutError),
    text("no lock_timeout", engine.server_settings, "'lock_timeout': f'{int(limits.lock * 1000)}', ", "",
         checks.time_outs_nest),
    text("no deadlock_timeout", engine.server_settings, "if may_set_deadlock_timeout:", "if False:",
         checks.time_outs_nest),
    text("no transaction_timeout", engine.server_settings, "if version >= 170000:", "if False:",
         checks.time_outs_nest),
    text("ranks compared with < for <=", HeldLocks.about_to_lock, "place <= self._highest[0]",
         "place < self._highest[0]", checks.law),
    text("the highest rank forgotten", HeldLocks.about_to_lock, LAST, "pass", checks.law),
    text("what skips not counted as held", HeldLocks.about_to_lock, LAST,
         f"{LAST} if wait is Wait.WAIT else self._highest[0]", checks.law),
    text("inserts not told from rows", HeldLocks.about_to_lock, "INSERTED if inserting else 0", "0", checks.law),
    text("locks that were not declared", HeldLocks.about_to_lock, "if lock not in self.allowed:", "if False:",
         checks.law),
    text("check_covers accepts everything", HeldLocks.check_covers, "if missing:", "if False:", checks.law),
    text("lock() without the order check", Transaction.lock,
         "self.held.about_to_lock(statement.lock, wait=statement.wait)", "pass", checks.transactions_keep_the_law),
    text("insert() without the order check", Transaction.insert,
         "self.held.about_to_lock(lock, wait=Wait.WAIT, inserting=True)", "pass", checks.transactions_keep_the_law),
    text("lock() notes nothing", Transaction.lock,
         "self.held.locked(statement.lock, keys, wait=statement.wait, mode=statement.mode)", "pass",
         checks.inserts_arrive_sorted),
    text("write() of rows nobody locked", Transaction.write, "self.held.check_covers(lock, keys)", "pass",
         checks.transactions_keep_the_law),
    text("write_with_satellites() of rows nobody locked", Transaction.write_with_satellites,
         "self.held.check_covers(lock, keys)", "pass", checks.transactions_keep_the_law),
    text("write_together() of rows nobody locked", Transaction.write_together, "self.held.check_covers(lock, keys)",
         "pass", checks.transactions_keep_the_law),
    text("write_together() does not count", Transaction.write_together,
         "if row[lock.table.name] != len(keys):", "if False:", checks.transactions_keep_the_law),
    text("write_satellite() of rows nobody locked", Transaction.write_satellite,
         "self.held.check_covers(SATELLITES[table], owners)", "pass", checks.transactions_keep_the_law),
    text("consume() of rows nobody locked", Transaction.consume, "self.held.check_covers(APPEND_ONLY[table], owners)",
         "pass", checks.transactions_keep_the_law),
    text("write() does not count", Transaction.write, "if touched != len(keys):", "if False:",
         checks.transactions_keep_the_law),
    text("write_with_satellites() does not count", Transaction.write_with_satellites,
         "if row['touched'] != len(keys):", "if False:", checks.transactions_keep_the_law),
    text("runs inserted as they come", runs.create, "sorted(runs, key=lambda run: (run.dag_pk, run.run_id))",
         "list(runs)", checks.inserts_arrive_sorted),
    text("dags inserted as they come", dags.add, "sorted(dags, key=lambda dag: dag.dag_id)", "list(dags)",
         checks.inserts_arrive_sorted),
)  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_of_the_transaction_code_is_killed(mutant: Mutant, server: Server) -> None:
    with server.database() as dsn, mutant.change():
        told = told_by(mutant.check, server, dsn, also=mutant.also)
    assert told is not None, f"{mutant.check.__name__} does not notice"
    assert told.is_kill, f"this is no kill: {told}"
    tell("mutants", f"{mutant.name}: {mutant.check.__name__}: {told}")
