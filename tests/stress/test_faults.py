"""S10, second part: a whole daemon whose transactions fail, each of its writers once at each statement, goes on."""

from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from attrs import define, evolve, field

from nurseries.bridge import open_bridge
from nurseries.errors import Weather
from scheduler.commands import CommandError
from scheduler.routines.load_dags import store_file
from scheduler.store.errors import OutcomeUnknown
from scheduler.store.writer import Transaction
from tests.database import Server
from tests.interleavings.theatre import loaded
from tests.stress.cancelling import checked_out, database_of, left_open
from tests.stress.daemons import Daemon, Ledger, open_daemon
from tests.stress.probes import fail
from tests.stress.proxy import Proxy
from tests.stress.report import tell
from tests.stress.test_drawn_schedules import some_dags, unfinished
from tests.world import chain, every

pytestmark = pytest.mark.stress

AT_LEAST = {
    "trigger_runs", "create_due_runs", "judge_runs", "admit_scheduled", "start_claimed", "end_attempts", "advance_runs",
}  # fmt: skip
"""Writers without which no run comes to its end."""
ONCE = "SELECT ti_id, try_number FROM attempt WHERE state IN ('success', 'failed', 'skipped') GROUP BY 1, 2"
PATIENCE_S = 60.0


@define(eq=False, kw_only=True)
class Unanswered(Ledger):
    """Loses answers to COMMIT of each writer, never of one writer twice in a row."""

    proxy: Proxy
    times: int = 3
    lost: Counter[str] = field(factory=Counter)
    _shaken: set[str] = field(factory=set)
    _doomed: set[int] = field(factory=set)
    """Transactions whose answer is to be lost: a COMMIT of somebody else may come between."""

    async def before(self, transaction: Transaction, text: str) -> None:
        await super().before(transaction, text)
        name = transaction.name
        if text == "COMMIT" and self.lost[name] < self.times and name not in self._shaken:
            self._shaken.add(name)
            self.lost[name] += 1
            self._doomed.add(id(transaction))
            self.proxy.lose_next_commit(after_server=True)

    async def after(self, transaction: Transaction, text: str) -> None:
        await super().after(transaction, text)
        if text == "COMMIT":
            self._shaken.discard(transaction.name)
            if id(transaction) in self._doomed:  # it was answered after all
                self._doomed.discard(id(transaction))
                self.lost[transaction.name] -= 1


@define(eq=False)
class Faults(Ledger):
    """Has PostgreSQL fail each statement of each writer once, never one writer twice in a row: delays would double."""

    sqlstate: str = ""
    fired: set[tuple[str, str]] = field(factory=set)
    _shaken: set[str] = field(factory=set)
    """Writers that have failed and not committed since."""

    @property
    def writers(self) -> set[str]:
        """Those that have failed."""
        return {name for name, _ in self.fired}

    async def before(self, transaction: Transaction, text: str) -> None:
        await super().before(transaction, text)
        place = transaction.name, text
        if place not in self.fired and transaction.name not in self._shaken:
            self.fired.add(place)
            self._shaken.add(transaction.name)
            await fail(transaction, self.sqlstate)

    async def after(self, transaction: Transaction, text: str) -> None:
        await super().after(transaction, text)
        if text == "COMMIT":
            self._shaken.discard(transaction.name)


async def trigger(one: Daemon, dag_id: str, run_id: str) -> None:
    """Until it is so: by its own key, so that it cannot happen twice."""
    perhaps = False
    while True:
        try:
            await one.commands.trigger(one.store, dag_id=dag_id, conf=None, logical_date=None, run_id=run_id)
            return
        except OutcomeUnknown:
            perhaps = True
        except Weather:
            continue
        except CommandError as error:
            if not perhaps:
                raise AssertionError("it happened, although it failed") from error
            return


async def until_all_are_finished(one: Daemon) -> None:
    """What is asked may get no answer, either."""
    while True:
        with suppress(Weather):
            if not await one.store.read(unfinished):
                return
        await trio.sleep(0.01)


@pytest.mark.parametrize("sqlstate", ["40P01", "55P03", "40001", "25P03"])
async def test_s10_a_daemon_outlives_a_fault_at_each_statement_of_each_writer(
    server: Server, dsn: str, tmp_path: Path, sqlstate: str
) -> None:
    faults, runs = Faults(sqlstate=sqlstate), 0
    dags = [*some_dags(), chain(2, "once", rerun_when_lost=False), evolve(chain(1, "clock"), schedule=every(0.3))]
    async with open_bridge() as bridge, open_daemon(bridge, dsn, tmp_path, ledger=Ledger(), number=1) as one:
        await one.store.transact(store_file, "dags.py", loaded(*dags), frozenset({"dags.py"}))
        one.store.stepper = faults
        with trio.fail_after(PATIENCE_S):
            in_vain = 0  # rounds in which nothing failed: what is left was seen once, when it was not its turn
            while in_vain < 3 or not faults.writers >= AT_LEAST:
                before = len(faults.fired)
                for dag in dags:
                    runs += 1
                    await trigger(one, dag.dag_id, f"run-{runs}")
                await until_all_are_finished(one)
                in_vain = in_vain + 1 if len(faults.fired) == before else 0
            one.store.stepper = Ledger()
            ended = one.executor.ended
            await trigger(one, "chain", "last")
            await until_all_are_finished(one)
        assert one.executor.ended > ended, "it is alive"
        assert sum(one.steps.failures.values()) > 0
        assert (one.store.deadlocks > 0) == (sqlstate == "40P01"), "an injected 40P01 is an alarm as well"
        with trio.fail_after(10):
            while checked_out(one.store):
                await trio.sleep(0.01)
        assert not bridge.error_counts
    name = database_of(dsn)
    assert left_open(server, dsn) == ""
    assert server.sql("SELECT count(*) FROM dag_run WHERE run_type = 'manual'", name) == str(runs + 1)
    assert server.sql(f"{ONCE} HAVING count(*) > 1", name) == "", "two attempts of one try were accepted"
    did = f"{len(faults.fired)} statements of {len(faults.writers)} writers of a daemon, {runs} runs"
    tell("scenarios", f"S10: {sqlstate} at {did}: alive, no effect twice")


async def test_s10_a_daemon_outlives_commits_that_nobody_answers(server: Server, dsn: str, tmp_path: Path) -> None:
    """What such a commit has started is found at once: with 20 s for each the limit would not do."""
    sockets = tmp_path / "sockets"
    sockets.mkdir()
    through, runs = dsn.replace(str(server.socket_dir), str(sockets)), 0
    dags = [*some_dags(), evolve(chain(1, "clock"), schedule=every(0.3))]
    writers = AT_LEAST - {"start_claimed"}  # nothing here is asked for
    async with open_bridge() as bridge, Proxy.open(Path(server.socket_dir), sockets) as proxy:
        ledger = Unanswered(proxy=proxy)
        async with open_daemon(bridge, through, tmp_path, ledger=Ledger(), number=1) as one:
            await one.store.transact(store_file, "dags.py", loaded(*dags), frozenset({"dags.py"}))
            one.store.stepper = ledger
            with trio.fail_after(PATIENCE_S):
                while any(ledger.lost[name] < ledger.times for name in writers):
                    for dag in dags:
                        runs += 1
                        await trigger(one, dag.dag_id, f"run-{runs}")
                    await until_all_are_finished(one)
            one.store.stepper = Ledger()
            with trio.fail_after(10):
                while checked_out(one.store):
                    await trio.sleep(0.01)
            assert not bridge.error_counts
    name = database_of(dsn)
    assert left_open(server, dsn) == ""
    assert server.sql("SELECT count(*) FROM dag_run WHERE run_type = 'manual'", name) == str(runs)
    assert server.sql(f"{ONCE} HAVING count(*) > 1", name) == "", "two attempts of one try were accepted"
    missed = int(server.sql("SELECT count(*) FROM attempt WHERE message = 'it never reached its worker'", name))
    assert missed > 0, "no lost commit had started a task"
    did = f"{proxy.lost} answers lost by {len(ledger.lost)} writers of a daemon, {runs} runs, {missed} attempts missed"
    tell("scenarios", f"S10: COMMIT without an answer: {did}: alive, no effect twice, nothing stuck")
