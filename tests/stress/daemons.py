"""Daemons with the production's routines under the production's supervisor, on an executor that runs nothing.

It starts what it is given and reports an end at once, so that the database is all there is to wait for. Three of the
routines are not there: those that read DAG files and warm processes (load_dags, warm_workers), which have nothing to
do here, and prune, which comes once an hour; its writers and store_file are called by the tests themselves.
"""

import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from attrs import define, field

from nurseries.bridge import Bridge
from nurseries.clock import SystemClock
from nurseries.gate import Gate
from nurseries.routine import Progress
from nurseries.supervisor import Supervisor
from nurseries.switchboard import Switchboard
from scheduler import assembly
from scheduler.commands import Commands
from scheduler.executors.base import Berth, Topics, WorkerInfo
from scheduler.executors.inbox import Inbox
from scheduler.loading.sources import PinnedSources
from scheduler.model import Outcome, OutcomeKind, StartAnswer, StartRequest, Workload
from scheduler.procedures.dispatch import Dispatch
from scheduler.procedures.pictures import Pictures
from scheduler.procedures.placement import Place
from scheduler.store import seats
from scheduler.store.documents import Graphs
from scheduler.store.engine import open_store
from scheduler.store.errors import Conflict
from scheduler.store.locks import Lock, Wait
from scheduler.store.seats import Seat
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction
from tests.interleavings.lockdep import LOCKDEP, Lockdep

TOPICS = Topics()
ENDS = [OutcomeKind.SUCCESS] * 90 + [OutcomeKind.FAILED] * 6 + [OutcomeKind.LOST] * 2 + [OutcomeKind.SKIPPED] * 2


@define(eq=False)
class InstantExecutor:
    """Every accepted attempt ends at once, mostly well."""

    switchboard: Switchboard
    slots: int = 64
    seed: int = 0
    starts: Inbox[StartRequest] = field(factory=Inbox)
    outcomes: Inbox[Outcome] = field(factory=Inbox)
    ended: int = 0
    worker: str = field(factory=lambda: str(uuid.uuid4()))
    _given: set[str] = field(factory=set)
    _random: random.Random = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def call(self, switchboard: Switchboard) -> None:
        """As a worker that has outlived its daemon: whatever was not answered or acknowledged is said again."""
        self.switchboard = switchboard
        self.switchboard.poke(TOPICS.worker_changed, TOPICS.start_requested, TOPICS.outcome_reported, TOPICS.slot_freed)

    def free_slots(self) -> int:
        return self.slots - len(self._given)

    def submit(self, workloads: Sequence[Workload]) -> None:
        for one in workloads:
            self._given.add(one.token)
            if one.inputs is None:
                self.starts.put(StartRequest(token=one.token, worker_id=self.worker, pid=1, hostname="h"))
            else:
                self._end(one.token)
        self.switchboard.poke(TOPICS.start_requested, TOPICS.outcome_reported, TOPICS.slot_freed)

    def berths(self) -> list[Berth]:
        free = self.free_slots()
        return [Berth(worker_id=self.worker, hostname="h", free=free)] if free > 0 else []

    def holds(self, token: str) -> bool:
        return token in self._given or token in self.outcomes

    def _end(self, token: str) -> None:
        kind = self._random.choice(ENDS)
        result = "1" if kind is OutcomeKind.SUCCESS else None
        self.outcomes.put(Outcome(token=token, kind=kind, result=result))

    def answer(self, answers: Sequence[StartAnswer]) -> None:
        for one in answers:
            if one.accepted:
                self._end(one.token)
            else:
                self._given.discard(one.token)
        self.switchboard.poke(TOPICS.outcome_reported, TOPICS.slot_freed)

    def acknowledge(self, tokens: Iterable[str]) -> None:
        for token in tokens:
            self.ended += token in self._given
            self._given.discard(token)

    def cancel(self, token: str, reason: str) -> None:
        if token in self._given:
            self.outcomes.put(Outcome(token=token, kind=OutcomeKind.FAILED, reason="cancelled"))
            self.switchboard.poke(TOPICS.outcome_reported)

    def warm(self, files: Iterable[tuple[str, str, str]]) -> None:
        """Nothing to warm."""

    def workers(self) -> list[WorkerInfo]:
        me = WorkerInfo(
            worker_id=self.worker,
            pid=1,
            hostname="h",
            slots=self.slots,
            running=tuple(self._given),
            last_heard=SystemClock().monotonic(),
            draining=False,
        )
        return [me]


@define(eq=False)
class Ledger:
    """A stepper that feeds the session's graph of lock orders, and counts what was committed.

    Each acquisition goes into the graph before the next statement of its transaction, whatever becomes of that.
    """

    lockdep: Lockdep = LOCKDEP
    orders: set[tuple[str, str]] = field(factory=set)
    """(held, then waited for)."""
    commits: Counter[str] = field(factory=Counter)
    rows: int = 0
    most: dict[tuple[str, Lock], int] = field(factory=dict)
    """How many rows of one kind a writer has held at once."""

    async def before(self, transaction: Transaction, text: str) -> None:
        """Raises CycleFound, in the transaction: a bug, as it would be in production."""
        self.lockdep.declared(transaction)

    async def after(self, transaction: Transaction, text: str) -> None:
        self.lockdep.passed(transaction, text)
        if text != "COMMIT":
            return
        self.commits[transaction.name] += 1
        held: list[str] = []
        for one in transaction.held.ledger:
            place = f"{one.lock.name}{' values' if one.inserted else ''}"
            if one.wait is Wait.WAIT:
                self.orders.update((before, place) for before in held)
            if not one.inserted:
                assert list(one.keys) == sorted(one.keys), f"{transaction.name}: {place} not in key order"
            self.rows += len(one.keys)
            kind = transaction.name, one.lock
            self.most[kind] = max(self.most.get(kind, 0), len(one.keys))
            if one.keys:
                held.append(place)

    def check(self) -> None:
        """All orders of the session so far, those of other tests too. Raises CycleFound, with both statements."""
        self.lockdep.check()


@define(eq=False)
class Steps:
    """An instrument that counts the steps of routines, and what they failed with."""

    ended: int = 0
    failures: Counter[str] = field(factory=Counter)

    def step_started(self, name: str) -> None:
        """Nothing."""

    def step_ended(self, name: str, *, seconds: float, progress: Progress | None, error: BaseException | None) -> None:
        self.ended += 1
        if isinstance(error, Conflict):
            self.failures[error.sqlstate] += 1
        elif isinstance(error, Exception):
            self.failures[type(error).__name__] += 1


@define(eq=False)
class Daemon:
    """One of several over a database."""

    store: Store
    executor: InstantExecutor
    commands: Commands
    steps: Steps
    seat: Seat


@asynccontextmanager
async def open_daemon(
    bridge: Bridge,
    dsn: str,
    folder: Path,
    *,
    ledger: Ledger,
    number: int,
    connections: int = 5,
    heir_of: Daemon | None = None,
) -> AsyncIterator[Daemon]:
    """A running daemon, without the routines that read files or start processes.

    `heir_of`: a daemon that is dead, whose home and worker it takes over.
    """
    switchboard, graphs, clock = Switchboard(), Graphs(), SystemClock()
    async with open_store(bridge, dsn, connections=connections, reserved=2, poke=switchboard.poke) as store:
        store.stepper = ledger
        executor = InstantExecutor(switchboard, seed=number) if heir_of is None else heir_of.executor
        home = f"/daemon-{number}" if heir_of is None else heir_of.seat.home
        seat = Seat(uuid=str(uuid.uuid4()), kind="daemon", hostname="h", pid=number, home=home)
        await store.transact(seats.take_seat, seat)
        sources = PinnedSources(folder)
        place = Place(daemon=seat.uuid, logs=folder, source_path=sources.path, dags_dir=folder)
        pictures, steps = Pictures(), Steps()
        dispatch = Dispatch(store=store, executor=executor, place=place, pictures=pictures, sources=sources)
        routines = assembly.routines(
            store=store,
            graphs=graphs,
            executor=executor,
            dispatch=dispatch,
            switchboard=switchboard,
            seat=seat,
            clock=clock,
        )
        supervisor = Supervisor(routines, switchboard=switchboard, gate=Gate(store.probe), instrument=steps)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.run)
            executor.call(switchboard)
            yield Daemon(store, executor, Commands(graphs=graphs, dispatch=dispatch), steps, seat)
            nursery.cancel_scope.cancel()
