"""Several daemons over one database at full load, for as long as ASYNCSCHED_STRESS_SECONDS says (30 by default)."""

import random
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
import trio
from attrs import define, evolve, field

from nurseries.bridge import open_bridge
from scheduler.commands import CommandError
from scheduler.commands.cancel import cancel_runs
from scheduler.commands.clear import clear_tasks
from scheduler.commands.mark import mark_tasks
from scheduler.decisions.clearing import FAILURES, Selection
from scheduler.model import MARKS, Dag
from scheduler.routines.load_dags import store_file
from scheduler.routines.prune import purge_runs, purge_seats
from scheduler.store.errors import Conflict
from scheduler.store.writer import Reading
from tests import conftest
from tests.database import Server, running_server
from tests.interleavings.theatre import loaded
from tests.stress.cancelling import checked_out, database_of, left_open
from tests.stress.daemons import Daemon, Ledger, open_daemon
from tests.stress.report import SEED, number, tell
from tests.world import chain, every, fan

pytestmark = [pytest.mark.stress, pytest.mark.alone]

SECONDS = number("SECONDS", 30)
DAEMONS = number("DAEMONS", 3)
BACKLOG = 40
"""Unfinished runs that operators keep up."""


@pytest.fixture
def busy() -> Iterator[Server]:
    """A server that cleans up after us, as in production."""
    with running_server(settings={"autovacuum": "on", "autovacuum_naptime": "5s", "shared_buffers": "128MB"}) as server:
        yield server


@pytest.fixture
def busy_dsn(busy: Server) -> Iterator[str]:
    with busy.database() as dsn:
        yield dsn


@pytest.fixture(autouse=True)
def _longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "LIMIT_S", SECONDS * 1.5 + 120)


def dags(version: int) -> list[Dag]:
    """Twelve, of every shape; their limits change with the version."""
    made = [evolve(fan(4 + i, f"fan{i}"), max_active_tasks=6 + version % 3) for i in range(6)]
    made += [chain(3 + i, f"chain{i}") for i in range(4)]
    made.append(evolve(chain(2, "clock"), schedule=every(0.5), max_active_runs=4))
    made.append(evolve(fan(3, "short"), dagrun_timeout=0.05))
    return made


@define(eq=False)
class Watch:
    """What is measured while it runs."""

    longest_wait: float = 0.0
    marks: list[tuple[float, int, int]] = field(factory=list)
    """(seconds, transactions, bytes of this process)."""
    commands: int = 0


async def operate(one: Daemon, rng: random.Random, watch: Watch) -> None:
    """A person, or a program, that asks for everything there is to ask."""
    names = [dag.dag_id for dag in dags(0)]
    version = 0
    while True:
        kind = rng.random()
        try:
            if kind < 0.80:
                if await unfinished(one) < BACKLOG:
                    await one.commands.trigger(one.store, dag_id=rng.choice(names), conf=None, logical_date=None)
                else:
                    await trio.sleep(0.01)
            elif kind < 0.84:
                some = await one.store.read(running)
                if some:
                    await one.store.transact(cancel_runs, rng.sample(some, min(3, len(some))))
            elif kind < 0.86:
                runs = await one.store.read(any_runs)
                if rng.random() < 0.5:
                    await one.store.transact(clear_tasks, one.commands.graphs, runs, Selection())
                else:
                    state = rng.choice(sorted(MARKS))
                    await one.store.transact(mark_tasks, one.commands.graphs, runs, Selection(only=FAILURES), state)
            elif kind < 0.88:
                await one.commands.pause(one.store, dag_id=rng.choice(names), paused=rng.random() < 0.3)
            elif kind < 0.92:
                await one.commands.set_pool(
                    one.store, name="default_pool", slots=rng.choice([64, 128]), description=None
                )
            elif kind < 0.95:
                version += 1
                file = loaded(*dags(version), source=f"# {version}")
                await one.store.transact(store_file, "dags.py", file, frozenset({"dags.py"}))
            else:
                await one.store.transact(purge_runs, timedelta(seconds=2), 50)
                await one.store.transact(purge_seats, 10)
            watch.commands += 1
        except CommandError:
            pass
        except Conflict as error:
            if error.sqlstate != "40001":  # two daemons stored one new dag; nothing else is expected
                raise


async def running(tx: Reading) -> list[int]:
    rows = await tx.fetch(sa.text("SELECT id FROM dag_run WHERE state IN ('queued', 'running') ORDER BY id"))
    return [row["id"] for row in rows]


async def any_runs(tx: Reading) -> list[int]:
    rows = await tx.fetch(sa.text("SELECT id FROM dag_run ORDER BY random() LIMIT 3"))
    return [row["id"] for row in rows]


async def unfinished(one: Daemon) -> int:
    return len(await one.store.read(running))


async def look(stores: list[Any], busy: Server, database: str, watch: Watch) -> None:
    """How long somebody has been waiting for a lock; how many transactions; how much memory."""
    begun = time.monotonic()
    waits = (
        "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - waitstart)), 0) FROM pg_locks"
        f" WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = '{database}')"
    )
    while True:
        watch.longest_wait = max(watch.longest_wait, float(await trio.to_thread.run_sync(busy.sql, waits) or 0))
        done = sum(store.transactions for store in stores)
        watch.marks.append((time.monotonic() - begun, done, psutil.Process().memory_info().rss))
        await trio.sleep(min(1.0, SECONDS / 30))


async def test_daemons_at_full_load_never_deadlock(busy: Server, busy_dsn: str, tmp_path: Path) -> None:
    database = database_of(busy_dsn)
    counter, commits = (
        f"SELECT {column} FROM pg_stat_database WHERE datname = '{database}'" for column in ("deadlocks", "xact_commit")
    )
    before, committed, ledger, watch = int(busy.sql(counter)), int(busy.sql(commits)), Ledger(), Watch()
    async with open_bridge() as bridge:
        async with AsyncExitStack() as stack:
            everybody = [
                await stack.enter_async_context(open_daemon(bridge, busy_dsn, tmp_path, ledger=ledger, number=n))
                for n in range(DAEMONS)
            ]
            stores = [one.store for one in everybody]
            await stores[0].transact(store_file, "dags.py", loaded(*dags(0)), frozenset({"dags.py"}))
            with trio.move_on_after(SECONDS):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(look, stores, busy, database, watch)
                    for n, one in enumerate(everybody):
                        nursery.start_soon(operate, one, random.Random(SEED + n), watch)
                        nursery.start_soon(operate, one, random.Random(SEED + 100 + n), watch)
        for one in everybody:
            assert checked_out(one.store) == 0
            assert one.store.deadlocks == 0
            assert not set(one.steps.failures) - {"40001"}, one.steps.failures
        assert not bridge.error_counts
    # connections are closed by now, so the counter is complete
    assert left_open(busy, busy_dsn) == ""
    transactions = sum(store.transactions for store in stores)
    tasks = sum(one.executor.ended for one in everybody)
    rates = rates_of(watch)
    memory = [size for _, _, size in watch.marks]
    deadlocks, committed = int(busy.sql(counter)) - before, int(busy.sql(commits)) - committed
    tell(
        "soak",
        f"{SECONDS} s, {DAEMONS} daemons, {committed} transactions, {transactions} of them of {len(ledger.commits)}"
        f" writers (the others read, or renew a lease), {tasks} tasks"
        f" ended, {watch.commands} commands, {ledger.rows} row locks, {len(ledger.orders)} orders of locks",
    )
    tell(
        "soak",
        f"longest wait seen {1000 * watch.longest_wait:.0f} ms; {rates[0]:.0f} -> {rates[-1]:.0f} transactions/s;"
        f" memory {memory[len(memory) // 3] >> 20} -> {memory[-1] >> 20} MB; deadlocks {deadlocks}",
    )
    tell("soak", ", ".join(f"{name} {count}" for name, count in ledger.commits.most_common()))
    assert deadlocks == 0
    ledger.check()
    assert watch.longest_wait < 1.0
    assert rates[-1] > rates[0] / 2, f"throughput falls: {rates}"
    assert memory[-1] < memory[len(memory) // 3] * 1.25 + (16 << 20), "memory grows"
    assert tasks > 0


def rates_of(watch: Watch) -> list[float]:
    """Transactions a second in each third."""
    marks = watch.marks
    cuts = [marks[round(i * (len(marks) - 1) / 3)] for i in range(4)]
    return [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(cuts)]
