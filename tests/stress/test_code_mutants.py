"""Mutants of our transaction code: each is killed by a check that passes on the code as it is, or is excused."""

import inspect
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import trio
from attrs import frozen

import nurseries.bridge
from scheduler.procedures import advance, claiming, grants, launch, settle, verdict
from scheduler.store import dags, engine, purge, runs, tasks, transaction, translation
from scheduler.store.locks import HeldLocks
from scheduler.store.transaction import Store
from scheduler.store.writer import WRITERS, Transaction
from tests.database import Server
from tests.store.test_locking_law import load_writers
from tests.stress import checks, crossings, lives
from tests.stress.mutation import replaced, swaps
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

    def __str__(self) -> str:
        return self.name


def text(name: str, function: Any, old: str, new: str, check: checks.Check) -> Mutant:
    return Mutant(name, lambda: replaced(function, old, new), check)


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
         checks.a_lost_reply_is_settled),
    text("an unknown outcome passed off as a refusal", translation.translate,
         "return OutcomeUnknown(xid, status=None)", "return StoreUnavailable('away')", checks.a_lost_reply_is_settled),
    text("an unknown outcome not asked after", Store.transact, "if isinstance(failure, OutcomeUnknown):", "if False:",
         checks.a_lost_reply_is_settled),
    text("the question after an unknown outcome not shielded", Store._settle, SHIELD, "trio.CancelScope()",
         checks.a_lost_reply_is_settled),
    text("announced before the commit", Store.transact, "committing = True",
         "committing = True; self.poke(*transaction.announcements)", checks.what_follows_a_commit_sees_it),
    text("a deadlock is no alarm", Store._translated, "self.deadlocks += 1", "pass", checks.a_deadlock_is_an_alarm),
    text("a deadlock is a bug", translation.translate, "if state in CONFLICTS:", "if False:",
         checks.a_deadlock_is_an_alarm),
    text("a time-out is a bug", translation.translate, "isinstance(error, _BROKEN)", "False",
         checks.a_transaction_has_a_deadline),
    text("no lock_timeout", engine.server_settings, "'lock_timeout': f'{int(limits.lock * 1000)}', ", "",
         checks.time_outs_nest),
    text("no deadlock_timeout", engine.server_settings, "if may_set_deadlock_timeout:", "if False:",
         checks.time_outs_nest),
    text("no transaction_timeout", engine.server_settings, "if version >= 170000:", "if False:",
         checks.time_outs_nest),
    text("ranks compared with < for <=", HeldLocks.about_to_lock, "place <= self._highest[0]",
         "place < self._highest[0]", checks.law),
    text("the highest rank forgotten", HeldLocks.about_to_lock, LAST, "pass", checks.law),
    text("what skips not counted as held", HeldLocks.about_to_lock, LAST, f"{LAST} if wait is Wait.WAIT else None",
         checks.law),
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

WRITES = (
    "writes of held rows in two tables by key, with values that were computed before: neither reads what the other"
    " writes, no constraint joins them, and others see both or none"
)
INSTANCES = "an instance has one live attempt and falls into one of the two groups, so the rows written are disjoint"
RUN_FACTS = (
    "a run's facts are written under its lock only, which is held; events are read by one statement together with the"
    " state of their instances, so what it returns agrees with itself, whenever that is"
)
ONLY_FALLS = (
    "what is counted grows only under a lock that is held before both, and a count that is too high starts less"
)
HINTS = (
    "read before any lock, so what they say may be old in either order: what follows from it is a compare-and-set on"
    " the token, under the lock, and what is missed is found by the next look"
)
EXCUSED_SWAPS: dict[str, str] = {
    "take_seat: if keys: <-> await tx.insert": (
        "the update writes the held rows by key, the insert leaves alone what is there: no row is touched by both"
    ),
    "pause_dag: await dags.pause(tx, keys, paused=paused) <-> if not paused": (
        "dags are held and written, then runs are read and events appended: none of it depends on is_paused"
    ),
    "create_due_runs: known = await graphs.load": (
        "versions are immutable, and the other read is of dags that are held"
    ),
    "create_due_runs: if pointers: <-> launched = await launch": (
        "the pointers are columns of dags that are held, which launching neither reads nor writes; rows of a lower rank"
        " may be written late, for they are locked already"
    ),
    "judge_runs: due_events = await events.due": RUN_FACTS,
    "forget_files: await dags.clear_files": (
        "the rows of the files are held; writing them waits for nobody, also after locks of a higher rank"
    ),
    "start_queued_runs: queued = await tx.lock(runs.CLAIM_QUEUED": f"running runs of dags that are held; {ONLY_FALLS}",
    "start_queued_runs: active = await runs.count_active": f"running runs of dags that are held; {ONLY_FALLS}",
    "time_out_due_runs: timers = await events.due": RUN_FACTS,
    "time_out_due_runs: await events.consume": WRITES,
    "impose: if queued": "a run is queued or running, not both: the rows written are disjoint",
    "impose: if running: <-> if running or queued": (
        "the verdict is written to held runs; what follows locks, reads and writes instances and reads no run"
    ),
    "impose: await tasks.skip(tx": INSTANCES,
    "impose: await tasks.request_cancel": WRITES,
    "rescue_stuck: tokens = await tasks.tokens_stuck": HINTS,
    "rescue_stuck: started = await tasks.running_at": HINTS,
    "delete_runs: await tx.consume(t.event": WRITES,
    "delete_runs: await tx.write_satellite(t.xcom": WRITES,
}
"""Part of a swap -> why nothing can tell it from the original."""


def killed_by(check: Callable[..., Awaitable[None]], *arguments: Any) -> str | None:
    """What told, or None."""

    async def run() -> None:
        with trio.fail_after(20):
            await check(*arguments)

    try:
        trio.run(run)
    except trio.TooSlowError:
        return "came to no end"
    except BaseException as error:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_of_the_transaction_code_is_killed(mutant: Mutant, server: Server) -> None:
    with server.database() as dsn, mutant.change():
        told = killed_by(mutant.check, server, dsn)
    assert told is not None, f"{mutant.check.__name__} does not notice"
    tell("mutants", f"{mutant.name}: killed by {mutant.check.__name__}")


def functions() -> list[Any]:
    """Writers and the pieces they are made of."""
    load_writers()
    made = [one.function for one in WRITERS.values() if one.function.__module__.startswith("scheduler.")]
    for module in (launch, settle, verdict, advance, claiming, grants, purge, tasks, runs, dags):
        made += [
            one
            for one in vars(module).values()
            if inspect.iscoroutinefunction(one) and one.__module__ == module.__name__
        ]
    return made


def all_lives() -> list[Callable[..., Any]]:
    """Checks and tests that lead rows through their lives."""
    found = [checks.a_start_is_won_by_one_worker, checks.an_end_is_recorded_once, checks.slots_are_never_exceeded]
    found += [
        one
        for name, one in vars(lives).items()
        if name.startswith("test_") and list(inspect.signature(one).parameters) == ["dsn"]
    ]
    return found


def arguments_of(life: Callable[..., Any], server: Server, dsn: str) -> list[Any]:
    return [server, dsn] if "server" in inspect.signature(life).parameters else [dsn]


@contextmanager
def noting(codes: dict[Any, set[Any]], life: Any) -> Iterator[None]:
    """Note which functions a life calls."""

    def called(frame: Any, event: str, _: Any) -> None:
        if event == "call" and "/scheduler/" in frame.f_code.co_filename:
            codes.setdefault(frame.f_code, set()).add(life)

    sys.setprofile(called)
    try:
        yield
    finally:
        sys.setprofile(None)


@pytest.mark.takes(60)
def test_swapping_two_statements_of_a_writer_is_noticed(server: Server) -> None:
    who_calls: dict[Any, set[Any]] = {}
    order = all_lives()
    for life in order:
        with server.database() as dsn, noting(who_calls, life):
            told = killed_by(life, *arguments_of(life, server, dsn))
        assert told is None, f"{life.__name__} fails by itself: {told}"
    killed, excused, survivors, used = [], [], [], set[str]()
    for function in functions():
        for what, change in swaps(function):
            if excuses := {part for part in EXCUSED_SWAPS if part in what}:
                excused.append(what)
                used |= excuses
                continue
            for life in [one for one in order if one in who_calls.get(function.__code__, ())]:
                with server.database() as dsn, change():
                    told = killed_by(life, *arguments_of(life, server, dsn))
                if told is not None:
                    killed.append(f"{what}: {life.__name__}: {told}")
                    break
            else:
                survivors.append(what)
    tell(
        "mutants",
        f"statements of writers swapped: {len(killed)} killed, {len(excused)} excused, {len(survivors)} survive",
    )
    print("\n".join(killed))
    assert not survivors, "\n".join(survivors)
    assert used == EXCUSED_SWAPS.keys(), f"no excuse is needed any more: {sorted(EXCUSED_SWAPS.keys() - used)}"
