"""S1 to S10: the situations in which schedulers have been seen to deadlock, played with this project's own code.

Each ends with: nothing open, no lock held, PostgreSQL's counter of deadlocks at 0, all orders of locks one acyclic
graph. Assets and deferred tasks do not exist yet; where a scenario is about them, its docstring says what stands in.
S10 has a second part, with whole daemons, in `test_faults.py`; S11 is `test_fixes_that_do_not_hold.py`.
"""

import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import trio
from attrs import define, evolve, field

from nurseries.bridge import open_bridge
from scheduler.commands import Choice, CommandError
from scheduler.commands.cancel import cancel_runs
from scheduler.commands.choosing import RUNS_AT_ONCE, TASKS_AT_ONCE
from scheduler.commands.clear import clear_tasks
from scheduler.commands.mark import mark_tasks
from scheduler.commands.pools import set_parallelism
from scheduler.decisions.clearing import Selection
from scheduler.model import OutcomeKind, RetryPolicy, Task, TaskState
from scheduler.routines.create_runs import create_due_runs
from scheduler.routines.prune import purge_runs, purge_seats
from scheduler.routines.rescue import rescue_lost, rescue_stuck
from scheduler.routines.start_runs import start_queued_runs
from scheduler.routines.time_out_runs import time_out_due_runs
from scheduler.store import migrate
from scheduler.store.errors import Conflict, OutcomeUnknown, StoreUnavailable
from scheduler.store.locks import Lock
from scheduler.store.writer import Transaction
from tests.database import Server
from tests.store.schema_changes import further_migration
from tests.stress.cancelling import checked_out, database_of, left_open
from tests.stress.daemons import Ledger, open_daemon
from tests.stress.lives import another_worker, five, keys
from tests.stress.probes import fail
from tests.stress.report import tell
from tests.world import World, chain, every, fan, open_world

pytestmark = pytest.mark.stress

STATEMENTS_UNDER_A_POOL = 8
"""At most, COMMIT included; 7 have been seen, with one task admitted and with twenty."""
PLANS = {
    "as it likes": (),
    "heap scans": ("indexscan", "indexonlyscan", "bitmapscan"),
    "nested loops": ("hashjoin", "mergejoin"),
    "hash joins": ("nestloop", "mergejoin"),
}


@asynccontextmanager
async def stage(
    server: Server,
    dsn: str,
    *,
    daemons: int = 2,
    plan: str = "as it likes",
    connections: int = 5,
    ledger: Ledger | None = None,
) -> AsyncIterator[list[World]]:
    """So many daemons over one database, and the oracle of all scenarios at the end."""
    name, ledger = database_of(dsn), ledger or Ledger()
    for what in PLANS[plan]:
        server.sql(f"ALTER DATABASE {name} SET enable_{what} = off")
    worlds = []
    async with AsyncExitStack() as stack:
        for _ in range(daemons):
            world = await stack.enter_async_context(open_world(dsn, connections=connections))
            world.store.stepper = ledger
            worlds.append(world)
        yield worlds
        assert left_open(server, dsn) == ""
        assert sum(checked_out(world.store) for world in worlds) == 0
        assert sum(world.store.deadlocks for world in worlds) == 0
    ledger.check()
    assert server.sql(f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{name}'") == "0"
    scenario = os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split("_")[1].upper()
    done = f"{sum(ledger.commits.values())} transactions of {len(ledger.commits)} writers"
    tell("scenarios", f"{scenario}: {done}, plans: {plan}")


async def together(*calls: Callable[[], Awaitable[Any]]) -> None:
    """All at once, to the end of each."""
    async with trio.open_nursery() as nursery:
        for one in calls:
            nursery.start_soon(one)


async def work(world: World, *, until: Callable[[], Awaitable[bool]], ends: OutcomeKind = OutcomeKind.SUCCESS) -> None:
    """Admit, start, end and judge, until it is enough."""
    while not await until():
        workloads = await world.admit(20)
        answers = await world.start(workloads)
        won = [one for one, answer in zip(workloads, answers, strict=True) if answer.accepted]
        if won:
            await world.end(won, ends)
        await world.judge()
        await world.store.transact(start_queued_runs, world.graphs, 10)


async def all_ended(world: World) -> bool:
    return await world.rows("SELECT 1 FROM dag_run WHERE state IN ('queued', 'running') LIMIT 1") == []


@pytest.mark.parametrize("plan", PLANS)
async def test_s1_a_definition_is_reloaded_while_workers_finish_its_tasks(server: Server, dsn: str, plan: str) -> None:
    """Runs keep the version they began with, so a reload re-points dags and not tasks: that is what is played."""
    async with stage(server, dsn, plan=plan) as (one, two):
        await one.put(*five())
        for n in range(30):
            await one.trigger(f"dag{n % 5}")

        async def reload() -> None:
            version = 0
            while not await all_ended(one):
                version += 1
                await one.put(*five(max_active_tasks=2 + version % 5), source=f"# {version}")

        await together(
            reload, lambda: work(one, until=lambda: all_ended(one)), lambda: work(two, until=lambda: all_ended(two))
        )


async def test_s2_all_siblings_finish_at_once(server: Server, dsn: str) -> None:
    """Sixty tasks of one run end in transactions of their own, all at the same time, while the run is judged."""
    async with stage(server, dsn, connections=8) as (one, two):
        await set_parallelism(one.store, slots=-1)
        await one.put(fan(60, max_active_tasks=100))
        run = await one.trigger("fan")
        await one.round()
        siblings = await one.admit()
        assert len(siblings) == 60
        await one.start(siblings)
        took: list[float] = []

        async def end(world: World, n: int) -> None:
            begun = trio.current_time()
            await world.end(siblings[n : n + 1])
            took.append(trio.current_time() - begun)

        async def judge() -> None:
            while len(took) < len(siblings):
                await two.judge()

        await together(judge, *(lambda n=n, w=(one, two)[n % 2]: end(w, n) for n in range(len(siblings))))
        await one.judge()
        assert (await one.states(run))["last"] == "scheduled"
        assert sorted(took)[-1] < 2.0, "the slowest of sixty waits for its turn, not for a lock"


async def test_s3_a_scheduling_pass_over_a_run_while_workers_start_finish_and_retry(server: Server, dsn: str) -> None:
    """Tasks fail and are rescheduled for a retry; nobody climbs from an instance to its run."""
    async with stage(server, dsn) as (one, two):
        retry = RetryPolicy(retries=2, delay=0.01)
        await one.put(*(chain(4, f"c{i}", retry=retry) for i in range(4)))
        for i in range(8):
            await one.trigger(f"c{i % 4}")
        await together(
            lambda: work(one, until=lambda: all_ended(one), ends=OutcomeKind.FAILED),
            lambda: work(two, until=lambda: all_ended(two)),
        )
        assert await all_ended(one)


async def test_s4_time_outs_ends_cancels_clears_and_rescues_meet(server: Server, dsn: str) -> None:
    """One owner for each state; rows that were skipped are revisited, so every run comes to its end."""
    async with stage(server, dsn) as (one, two):
        await one.put(*five(dagrun_timeout=30))
        for n in range(15):
            await one.trigger(f"dag{n % 5}")
        await one.round()
        workloads = await one.admit()
        await one.start(workloads[::2])
        one.later(seconds=31)
        two.now = one.now
        everything = await keys(one)
        some, others, more = everything[:6], everything[4:12], everything[8:]
        await together(
            lambda: one.store.transact(time_out_due_runs, 3),
            lambda: two.store.transact(time_out_due_runs, 10),
            lambda: one.store.transact(cancel_runs, some),
            lambda: two.store.transact(clear_tasks, two.graphs, others[::-1], Selection()),
            lambda: one.store.transact(mark_tasks, one.graphs, more, Selection(), TaskState.SUCCESS),
            lambda: two.end(workloads[::4], OutcomeKind.FAILED),
            lambda: one.end(workloads[2::4]),
            lambda: two.store.transact(rescue_stuck, two.graphs, [], 10),
            lambda: one.store.transact(rescue_lost, one.graphs, 10),
            two.judge,
        )
        for _ in range(20):
            await one.store.transact(time_out_due_runs, 10)
            await one.end(workloads[::2], OutcomeKind.FAILED, reason="cancelled")
            await one.judge()
        assert await one.rows("SELECT 1 FROM task_instance WHERE state IN ('running', 'restarting')") == []
        await one.store.transact(clear_tasks, one.graphs, everything, Selection())
        await together(lambda: work(one, until=lambda: all_ended(one)), lambda: work(two, until=lambda: all_ended(two)))
        assert await one.rows("SELECT 1 FROM dag_run WHERE state <> 'success'") == [], "cleared, all of them run again"


@pytest.mark.parametrize("plan", PLANS)
async def test_s5_every_housekeeping_routine_runs_twice_at_once(server: Server, dsn: str, plan: str) -> None:
    """The same statements against themselves, while a third connection moves rows in the heap."""
    async with stage(server, dsn, plan=plan) as (one, two):
        await one.put(*five(schedule=every(3600)), *(chain(1, f"short{i}") for i in range(5)))
        for n in range(20):
            await one.trigger(f"dag{n % 5}")
            await one.trigger(f"short{n % 5}")
        for _ in range(4):
            await one.round()
        for _ in range(5):
            await another_worker(one)
        workloads = await one.admit()
        await one.start(workloads)
        one.later(days=100)
        two.now = one.now
        done = trio.Event()

        async def move_rows() -> None:
            while not done.is_set():
                for table, column in (("dag_run", "run_id"), ("task_instance", "task_id"), ("seat", "hostname")):
                    sql = (
                        f"UPDATE {table} SET {column} = {column} WHERE id = (SELECT id FROM {table}"
                        " ORDER BY random() LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)"
                    )
                    await trio.to_thread.run_sync(server.sql, sql, database_of(dsn))

        def both(call: Callable[[World], Awaitable[Any]]) -> list[Callable[[], Awaitable[Any]]]:
            return [lambda: call(one), lambda: call(two)]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(move_rows)
            for _ in range(3):
                await together(
                    *both(lambda w: w.store.transact(purge_runs, timedelta(days=90), 7)),
                    *both(lambda w: w.store.transact(purge_seats, 3)),
                    *both(lambda w: w.store.transact(rescue_lost, w.graphs, 5)),
                    *both(lambda w: w.store.transact(rescue_stuck, w.graphs, [], 5)),
                    *both(lambda w: w.store.transact(time_out_due_runs, 5)),
                    *both(lambda w: w.store.transact(start_queued_runs, w.graphs, 5)),
                    *both(lambda w: w.store.transact(create_due_runs, w.graphs, 5)),
                )
            done.set()


async def test_s6_bulk_actions_meet_the_scheduler(server: Server, dsn: str) -> None:
    """A thousand tasks are marked, cleared and cancelled, each in one command, while they are scheduled and run.

    The commands go batch by batch, so that no transaction holds more rows than a batch has.
    """
    async with stage(server, dsn) as (one, two):
        await one.put(fan(48, "wide", max_active_tasks=50, max_active_runs=20))
        ledger: Any = one.store.stepper
        start = datetime(2026, 1, 1, tzinfo=UTC)
        first, *_ = [await one.trigger("wide", logical_date=start + timedelta(days=n)) for n in range(24)]
        enough = trio.Event()

        async def some_succeeded(many: int) -> None:
            while len(await two.rows(f"SELECT 1 FROM attempt WHERE state = 'success' LIMIT {many}")) < many:
                await trio.sleep(0.01)

        async def act() -> None:
            everything = Choice(dag_id="wide", run_id=first, future=True)
            await some_succeeded(30)
            marked = await two.commands.mark(two.store, choice=everything, state=TaskState.SKIPPED)
            assert sum(len(run.tasks) for run in marked) >= 900
            cleared = await two.commands.clear(two.store, choice=everything)
            assert sum(len(run.tasks) for run in cleared) >= 900
            await some_succeeded(60)
            unfinished = await keys(two, "state IN ('queued', 'running')")
            await two.store.transact(cancel_runs, unfinished)
            enough.set()

        async def busy() -> bool:
            return enough.is_set()

        await together(act, lambda: work(one, until=busy))
        await work(one, until=lambda: all_ended(one))
        for name in ("mark_tasks", "clear_tasks"):
            assert ledger.commits[name] >= 2, f"{name}: 1,200 tasks are more than one batch"
            assert ledger.most[name, Lock.DAG_RUN] <= RUNS_AT_ONCE
            assert 500 < ledger.most[name, Lock.TASK_INSTANCE] <= TASKS_AT_ONCE


class CancelAt(Ledger):
    """Cancels the caller at its n-th statement."""

    def __init__(self, n: int, scope: trio.CancelScope) -> None:
        super().__init__()
        self.left = n
        self._scope = scope

    async def before(self, transaction: Transaction, text: str) -> None:
        await super().before(transaction, text)
        self.left -= 1
        if self.left == 0:
            self._scope.cancel()


async def test_s7_a_cancel_at_every_statement_of_every_transaction_on_the_way(server: Server, dsn: str) -> None:
    """The whole life of a task, each of its transactions cancelled at each of its statements: it happens, once."""
    cancels = 0
    async with open_world(dsn, connections=1) as world:
        await world.put(chain(2))

        async def cancelled(call: Callable[[], Awaitable[Any]], n: int) -> tuple[Any, bool]:
            nonlocal cancels
            with trio.CancelScope() as scope:
                world.store.stepper = stepper = CancelAt(n, scope)
                result = await call()
                cancels += scope.cancel_called
            world.store.stepper = None
            assert left_open(server, dsn) == ""
            return result, stepper.left <= 0

        n, more = 0, True
        while more:
            n += 1
            run, first = await cancelled(lambda n=n: world.trigger("chain", run_id=f"run-{n}"), n)
            workloads, second = await cancelled(world.admit, n)
            answers, third = await cancelled(lambda w=workloads: world.start(w), n)
            assert [answer.accepted for answer in answers] == [True]
            _, fourth = await cancelled(lambda w=workloads: world.end(w), n)
            await world.judge()
            assert await world.states(run) == {"t0": "success", "t1": "scheduled"}
            unfinished = await keys(world, "state = 'running'")
            done, fifth = await cancelled(
                lambda r=unfinished: world.store.transact(clear_tasks, world.graphs, r, Selection()), n
            )
            assert [len(one.tasks) for one in done if one.run_id == run] == [2]
            assert await world.states(run) == {"t0": "none", "t1": "none"}
            _, sixth = await cancelled(lambda r=unfinished: world.store.transact(cancel_runs, r), n)
            more = any((first, second, third, fourth, fifth, sixth))
        assert checked_out(world.store) == 0
        assert not world.bridge.error_counts
    tell("scenarios", f"S7: {cancels} cancels, one at each statement of six writers")


async def test_s8_the_schema_is_locked_and_changed_under_full_load(server: Server, dsn: str, tmp_path: Path) -> None:
    """Further migrations, each of which adds a column, stand in for those to come; everything else is production's."""
    ledger, changes, tries, done = Ledger(), 5, 0, 0
    async with open_bridge() as bridge, AsyncExitStack() as stack:
        daemons = [
            await stack.enter_async_context(open_daemon(bridge, dsn, tmp_path, ledger=ledger, number=n)) for n in (1, 2)
        ]
        async with open_world(dsn) as world:
            await world.put(*five())
            for n in range(30):
                await world.trigger(f"dag{n % 5}")
            columns = [f"ALTER TABLE task_instance ADD COLUMN extra_{n} integer" for n in range(changes)]
            for n in range(changes):
                with further_migration(tmp_path / str(n), *columns[: n + 1]):
                    applied = False
                    while not applied:
                        tries += 1
                        assert tries < 50
                        with contextlib.suppress(Conflict):  # the load goes first; ask again
                            done += len(await migrate.upgrade(bridge, dsn))
                            applied = True
                if await all_ended(world):
                    for i in range(10):
                        await world.trigger(f"dag{i % 5}")
        failures = sum((one.steps.failures for one in daemons), start=type(daemons[0].steps.failures)())
        assert "40P01" not in failures, failures
    assert done == changes
    ledger.check()
    name = database_of(dsn)
    assert server.sql(f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{name}'") == "0"
    tell(
        "scenarios",
        f"S8: {changes} migrations in {tries} tries under load; steps that failed: {dict(failures) or 0}",
    )


@define(eq=False)
class Hot(Ledger):
    """Also counts what a transaction still sends while it holds a pool's row that others may wait for."""

    holding: Counter[int] = field(factory=Counter)
    """Statements, COMMIT included -> transactions."""
    _sent: "WeakKeyDictionary[Transaction, int]" = field(factory=WeakKeyDictionary)

    async def before(self, transaction: Transaction, text: str) -> None:
        await super().before(transaction, text)
        if any(one.lock is Lock.POOL and one.keys for one in transaction.held.ledger):
            self._sent[transaction] = self._sent.get(transaction, 0) + 1
            if text == "COMMIT":
                self.holding[self._sent[transaction]] += 1


async def test_s9_five_hundred_tasks_share_one_pool(server: Server, dsn: str) -> None:
    """Two daemons fill and empty it; its slots are never exceeded, at any instant anybody can see.

    That nobody waits for a row held longer than one statement is not so: who admits holds the pool's row from the
    count of its free slots to the commit. What holds is that this is a fixed number of statements, however many tasks
    are admitted; that nobody needs the row who only starts or ends; and that no wait reaches its bound (55P03 would
    fail the test).
    """
    slots, hot = 20, Hot()
    async with stage(server, dsn, ledger=hot) as (one, two):
        await one.commands.set_pool(one.store, name="one", slots=slots, description="")
        tasks = tuple(Task(task_id=f"t{i:03}", pool="one") for i in range(100))
        await one.put(*(evolve(chain(0, f"d{i}"), tasks=tasks, max_active_tasks=100) for i in range(5)))
        for i in range(5):
            await one.trigger(f"d{i}")
        most = 0

        async def look() -> None:
            nonlocal most
            while not await all_ended(one):
                (row,) = await one.rows("SELECT count(*) AS n FROM task_instance WHERE state IN ('queued', 'running')")
                most = max(most, row["n"])

        await together(
            look, lambda: work(one, until=lambda: all_ended(one)), lambda: work(two, until=lambda: all_ended(two))
        )
        assert 0 < most <= slots
        (row,) = await one.rows("SELECT count(*) AS n FROM task_instance WHERE state = 'success'")
        assert row["n"] == 500
    told = ", ".join(f"{n} of {many} transactions" for n, many in sorted(hot.holding.items()))
    tell("scenarios", f"S9: statements sent while holding the pool's row, COMMIT included: {told}")
    assert 0 < max(hot.holding) <= STATEMENTS_UNDER_A_POOL
    assert {name for name, lock in hot.most if lock is Lock.POOL} == {"admit_scheduled", "write_pool"}


class Fault(Ledger):
    """Has PostgreSQL fail the n-th statement with a given SQLSTATE, or end the connection."""

    def __init__(self, n: int, sqlstate: str) -> None:
        super().__init__()
        self.left = n
        self._sqlstate = sqlstate

    async def before(self, transaction: Transaction, text: str) -> None:
        await super().before(transaction, text)
        self.left -= 1
        if self.left == 0:
            await fail(transaction, self._sqlstate)


@pytest.mark.parametrize("sqlstate", ["40P01", "55P03", "40001", "25P03"])
async def test_s10_errors_at_every_statement_change_nothing_and_are_retried(
    server: Server, dsn: str, sqlstate: str
) -> None:
    """A task's life with each transaction failing once at each statement. Lost replies: test_frozen_server.py."""
    failed = 0
    async with open_world(dsn, connections=2) as world:
        await world.put(chain(2))

        async def stubborn(call: Callable[[], Awaitable[Any]], n: int) -> tuple[Any, bool]:
            nonlocal failed
            world.store.stepper = fault = Fault(n, sqlstate)
            while True:
                try:
                    result = await call()
                    world.store.stepper = None
                    return result, fault.left <= 0
                except (Conflict, StoreUnavailable, OutcomeUnknown):
                    failed += 1
                except CommandError as error:
                    raise AssertionError("it happened, although it failed") from error

        n, more = 0, True
        while more:
            n += 1
            run, first = await stubborn(lambda n=n: world.trigger("chain", run_id=f"run-{n}"), n)
            workloads, second = await stubborn(world.admit, n)
            answers, third = await stubborn(lambda w=workloads: world.start(w), n)
            assert [answer.accepted for answer in answers] == [True]
            _, fourth = await stubborn(lambda w=workloads: world.end(w, result="1"), n)
            _, fifth = await stubborn(world.judge, n)
            assert await world.states(run) == {"t0": "success", "t1": "scheduled"}
            more = any((first, second, third, fourth, fifth))
            await world.store.transact(cancel_runs, await keys(world, "state = 'running'"))
            await world.judge()
        rows = await world.rows("SELECT ti_id, count(*) AS n FROM attempt GROUP BY 1")
        assert all(row["n"] == 1 for row in rows), "no effect twice"
        assert left_open(server, dsn) == ""
        assert checked_out(world.store) == 0
        assert (world.store.deadlocks > 0) == (sqlstate == "40P01"), "an injected 40P01 is an alarm as well"
    tell("scenarios", f"S10: {failed} times {sqlstate}, at each statement of five writers: no effect twice, none lost")
