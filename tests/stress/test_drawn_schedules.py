"""Level T: the real routines of two daemons under their supervisors, held up where Hypothesis says.

Each example draws, for every statement in turn, how many milliseconds it is late; so steps of different routines and
daemons meet in orders that a quiet machine never shows. Whatever the order: every run ends, no lock is taken against
the order, and nothing is lost or done twice.
"""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from attrs import define, field
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from nurseries.bridge import Bridge, open_bridge
from scheduler.model import Dag
from scheduler.routines.load_dags import store_file
from scheduler.store.writer import Reading, Transaction
from tests.database import Server
from tests.stress.daemons import Daemon, Ledger, open_daemon
from tests.stress.report import SEED, number, tell
from tests.stress.test_soak import loaded
from tests.world import chain, fan

EXAMPLES = number("SCHEDULES", 100)
PATIENCE_S = 45.0
SEEN: dict[str, int] = {}

delays = st.lists(st.sampled_from([0, 0, 0, 1, 2, 5, 12]), min_size=20, max_size=150)


@define(eq=False)
class Delays:
    """A stepper that lets statements through late, and keeps the ledger."""

    bridge: Bridge
    drawn: list[int]
    ledger: Ledger = field(factory=Ledger)
    order: list[str] = field(factory=list)

    async def before(self, transaction: Transaction, text: str) -> None:
        await self.ledger.before(transaction, text)
        late = self.drawn.pop() if self.drawn else 0
        if late:
            await self.bridge.call_trio(trio.sleep, late / 1000)

    async def after(self, transaction: Transaction, text: str) -> None:
        await self.ledger.after(transaction, text)
        if text == "COMMIT":
            self.order.append(transaction.name)


def some_dags() -> list[Dag]:
    return [chain(3), fan(4), fan(6, "narrow", max_active_tasks=2)]


async def unfinished(tx: Reading) -> int:
    import sqlalchemy as sa

    (row,) = await tx.fetch(sa.text("SELECT count(*) AS n FROM dag_run WHERE end_date IS NULL"))
    return int(row["n"])


async def play(dsn: str, folder: Path, drawn: Sequence[int], dies_after: int) -> tuple[list[str], Ledger, list[Daemon]]:
    """Two daemons; after so many commits the first one ends at once, and a third adopts its worker and attempts."""
    async with open_bridge() as bridge:
        delays = Delays(bridge, list(reversed(drawn)))
        everybody: list[Daemon] = []

        @asynccontextmanager
        async def daemon(number: int, heir_of: Daemon | None = None) -> AsyncIterator[Daemon]:
            opened = open_daemon(bridge, dsn, folder, ledger=delays.ledger, number=number, heir_of=heir_of)
            async with opened as one:
                one.store.stepper = delays
                everybody.append(one)
                yield one

        async with trio.open_nursery() as nursery, daemon(1) as second:
            death, dead = trio.Event(), trio.Event()

            async def first(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
                async with daemon(0):
                    task_status.started()
                    await death.wait()
                dead.set()

            await nursery.start(first)
            await second.store.transact(store_file, "dags.py", loaded(*some_dags()), frozenset({"dags.py"}))
            async with trio.open_nursery() as operators:
                for n, dag in enumerate(some_dags() * 2):
                    operators.start_soon(trigger, everybody[n % 2], dag.dag_id)
            with trio.fail_after(PATIENCE_S):
                while len(delays.order) < dies_after and await second.store.read(unfinished):
                    await trio.sleep(0.001)
            death.set()
            await dead.wait()
            async with daemon(2, heir_of=everybody[1]):
                with trio.fail_after(PATIENCE_S):
                    while await second.store.read(unfinished):
                        await trio.sleep(0.02)
        return delays.order, delays.ledger, everybody


async def trigger(one: Daemon, dag_id: str) -> None:
    await one.commands.trigger(one.store, dag_id=dag_id, conf=None, logical_date=None)


@pytest.mark.stress
@pytest.mark.takes(100)
def test_whatever_the_order_every_run_ends_and_no_lock_is_taken_against_it(server: Server, tmp_path: Path) -> None:
    @seed(SEED)
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
    )
    @given(delays, st.integers(8, 60))
    def example(drawn: list[int], dies_after: int) -> None:
        with server.database() as dsn:
            order, ledger, two = trio.run(play, dsn, tmp_path, drawn, dies_after)
            name = dsn.split("/")[3].split("?")[0]
            ended = server.sql("SELECT count(*) FROM dag_run WHERE state IN ('success', 'failed')", name)
            doubled = "SELECT count(*) FROM (SELECT ti_id, try_number FROM attempt WHERE state IN ('success', 'failed',"
            twice = server.sql(f"{doubled} 'skipped') GROUP BY 1, 2 HAVING count(*) > 1) AS d", name)
        ledger.check()
        assert ended == "6"
        assert twice == "0", "two attempts of one try were accepted"
        for one in two:
            assert one.store.deadlocks == 0
            assert not set(one.steps.failures) - {"40001"}, one.steps.failures
        schedule = hashlib.sha256(" ".join(order).encode()).hexdigest()
        SEEN[schedule] = SEEN.get(schedule, 0) + 1

    example()
    tell(
        "drawn schedules",
        f"{sum(SEEN.values())} examples of two whole daemons and an heir, {len(SEEN)} distinct orders of commits",
    )
    assert len(SEEN) > EXAMPLES // 2, "the draws make no difference"
