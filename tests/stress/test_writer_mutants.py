"""Mutants of our writers: statements swapped, locks dropped. A life that passes on the code as it is kills each."""

import inspect
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field, frozen

import scheduler
from scheduler.store import tables as t
from scheduler.store.writer import Reading, Transaction, Writer
from tests.database import Server
from tests.store.test_locking_law import load_writers
from tests.stress import checks, lives
from tests.stress.cancelling import database_of
from tests.stress.kills import Told, compact, told_by
from tests.stress.mutation import count_locks, swaps, unlocked
from tests.stress.report import tell

pytestmark = [
    pytest.mark.stress,
    # what a mutant leaves behind is its own business
    pytest.mark.filterwarnings("ignore"),
]

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
SNAPSHOT = "called by Store.read only: all its statements see one snapshot (REPEATABLE READ), in any order"
OF_RUNS = "a run begins again, gets another end, or just moves on: one of the three, so the rows written are disjoint"
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
    "look_at: ": SNAPSHOT,
    "overview: ": SNAPSHOT,
    "_write_instances: await clearing.": (
        "an instance that is written is in one of the three lists, so the rows written are disjoint"
    ),
    "_write_runs: await clearing.requeue": OF_RUNS,
    "_write_runs: await clearing.end_anew": OF_RUNS,
    "requeue: await tx.write(Lock.DAG_RUN": WRITES,
    "delete_runs: await tx.consume(t.event": WRITES,
    "delete_runs: await tx.write_satellite(t.xcom": WRITES,
}
"""Part of a swap -> why nothing can tell it from the original."""


GUARDS: dict[str, str] = {
    "rescue_lost: tasks.CLAIM_EXPIRED_WORKERS": (
        "nothing of the seat is written. Who ends the attempts is settled under the locks of their instances, by token:"
        " without this one a second rescuer waits there and then finds nothing, with it he skips. A lease that is"
        " renewed meanwhile comes too late in both: it had ended when the rescuer looked"
    ),
}
"""Locks that no life misses -> why."""

TOLD_BY: dict[str, Callable[..., Any]] = {
    "_lock_pools: pools.LOCK_NAMED": checks.admissions_never_exceed_a_pool,
    "_lock_pools: pools.CLAIM_NAMED": checks.slots_are_never_exceeded,
    "launch: pools.CLAIM_NAMED": checks.slots_are_never_exceeded,
    "start_queued_runs: dags.CLAIM": checks.running_runs_are_never_exceeded,
    "rewrite: await tx.lock(tasks.LOCK_KEYS": checks.clearing_reads_what_it_holds,
}
"""What only one check can tell, for it takes two at the same time: the locks that guard a limit, and a stale read."""


@cache
def functions() -> list[Any]:
    """Writers and the pieces they are made of: whatever is given a transaction."""
    load_writers()
    found = {}
    for name, module in sorted(sys.modules.items()):
        if name.startswith("scheduler."):
            for one in vars(module).values():
                function = one.function if isinstance(one, Writer) else one
                if inspect.iscoroutinefunction(function) and function.__module__ == name and _works_in_one(function):
                    found[function.__code__] = function
    return list(found.values())


def _works_in_one(function: Any) -> bool:
    return any(one in (Transaction, Reading) for one in inspect.get_annotations(function, eval_str=True).values())


def all_lives() -> list[Callable[..., Any]]:
    """Checks and tests that lead rows through their lives."""
    found: list[Callable[..., Any]] = [
        checks.a_start_is_won_by_one_worker,
        checks.an_end_is_recorded_once,
        checks.slots_are_never_exceeded,
        checks.admissions_never_exceed_a_pool,
        checks.clearing_reads_what_it_holds,
        checks.running_runs_are_never_exceeded,
    ]
    found += [
        one
        for name, one in vars(lives).items()
        if name.startswith("test_") and list(inspect.signature(one).parameters) == ["dsn"]
    ]
    return found


@frozen
class Ground:
    """One database for many lives, empty for each: to make and drop one takes longer than most of them."""

    server: Server
    dsn: str

    @classmethod
    @contextmanager
    def open(cls, server: Server) -> Iterator["Ground"]:
        with server.database() as dsn:
            server.sql("CREATE SCHEMA kept; CREATE TABLE kept.pool AS SELECT * FROM pool", database_of(dsn))
            yield cls(server, dsn)

    def lead(self, life: Callable[..., Any]) -> Told | None:
        """Empty it, then lead rows through this life."""
        deletes = "; ".join(f"DELETE FROM {table.name}" for table in reversed(t.metadata.sorted_tables))
        columns = "name, slots, description"
        pools = f"INSERT INTO pool ({columns}) SELECT {columns} FROM kept.pool ORDER BY id"
        self.server.sql(f"{deletes}; {pools}", database_of(self.dsn))
        both = "server" in inspect.signature(life).parameters
        return told_by(life, *([self.server, self.dsn] if both else [self.dsn]))


@contextmanager
def noting(codes: dict[Any, list[Any]], life: Any) -> Iterator[None]:
    """Note which functions a life calls."""

    def called(frame: Any, event: str, _: Any) -> None:
        if event == "call" and "/scheduler/" in frame.f_code.co_filename:
            known = codes.setdefault(frame.f_code, [])
            if life not in known:
                known.append(life)

    sys.setprofile(called)
    try:
        yield
    finally:
        sys.setprofile(None)


@cache
def who_calls(server: Server) -> dict[Any, list[Any]]:
    """The lives that call each function, the short ones first; all pass on the code as it is."""
    found: dict[Any, list[Any]] = {}
    took = {}
    with Ground.open(server) as ground:
        for life in all_lives():
            begun = time.thread_time()
            with noting(found, life):
                told = ground.lead(life)
            took[life] = time.thread_time() - begun
            assert told is None, f"{life.__name__} fails by itself: {told}"
    return {code: sorted(callers, key=took.__getitem__) for code, callers in found.items()}


@define
class Judged:
    """What became of the mutants of one kind."""

    ground: Ground
    excuses: dict[str, str]
    killed: list[str] = field(factory=list)
    excused: list[str] = field(factory=list)
    survivors: list[str] = field(factory=list)
    _used: set[str] = field(factory=set)

    def judge(self, function: Any, what: str, change: Callable[[], AbstractContextManager[None]]) -> None:
        """Lead rows through all lives that call the function until one tells."""
        excuses = {part for part in self.excuses if part in what}
        only = [check for part, check in TOLD_BY.items() if part in what]
        what = " <-> ".join(compact(part, 60) for part in what.split(" <-> "))
        if excuses:
            self._used |= excuses
            self.excused.append(f"{what}: excused: {compact(self.excuses[min(excuses)], 60)}")
            return
        heard = []
        for life in only or who_calls(self.ground.server).get(function.__code__, ()):
            with change():
                told = self.ground.lead(life)
            if told is not None and told.is_kill:
                self.killed.append(f"{what}: {life.__name__}: {told}")
                return
            if told is not None:
                heard.append(f"{life.__name__}: {told}")
        self.survivors.append(f"{what} {heard or ''}")

    def report(self, kind: str) -> None:
        """Say what became of each. Fails if one survives, or if an excuse is not needed."""
        for line in (*self.killed, *self.excused):
            tell("mutants", f"{kind}: {line}")
        counts = f"{len(self.killed)} killed, {len(self.excused)} excused, {len(self.survivors)} survive"
        tell("mutants", f"{kind}, of {len(functions())} functions: {counts}")
        assert not self.survivors, "\n".join(self.survivors)
        assert self._used == self.excuses.keys(), f"no excuse is needed: {sorted(self.excuses.keys() - self._used)}"


@pytest.mark.takes(15)
def test_swapping_two_statements_of_a_writer_is_noticed(server: Server) -> None:
    with Ground.open(server) as ground:
        judged = Judged(ground, EXCUSED_SWAPS)
        for function in functions():
            for what, change in swaps(function):
                judged.judge(function, what, change)
    judged.report("swapped")


@pytest.mark.takes(20)
def test_dropping_a_lock_of_a_writer_is_noticed(server: Server) -> None:
    with Ground.open(server) as ground:
        judged = Judged(ground, GUARDS)
        for function in functions():
            for what, change in unlocked(function):
                judged.judge(function, what, change)
    judged.report("lock dropped")
    there = sum(count_locks(path.read_text()) for path in Path(scheduler.__file__).parent.rglob("*.py"))
    assert len(judged.killed) + len(judged.excused) == there, "some locks are taken by functions that are not found"
