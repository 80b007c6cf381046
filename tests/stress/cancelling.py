"""A storm of cancels over a production store, and what must be true of the connections afterwards."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import trio
from attrs import define, field

from scheduler.commands.clear import clear_tasks
from scheduler.commands.mark import mark_tasks
from scheduler.decisions.clearing import Selection
from scheduler.model import OutcomeKind, TaskState, Workload
from scheduler.procedures.pictures import look_at
from scheduler.routines.create_runs import create_due_runs
from scheduler.routines.rescue import rescue_lost, rescue_stuck
from scheduler.routines.schedule_tasks import judge_runs
from scheduler.routines.time_out_runs import time_out_due_runs
from scheduler.store import pools, seats
from scheduler.store.errors import Conflict, OutcomeUnknown, StoreUnavailable
from scheduler.store.transaction import Store
from tests.database import Server
from tests.world import World

OFTEN = ["trigger", "trigger", "judge", "create", "pool", "clear", "mark", "time out", "rescue stuck", "rescue lost",
         "look", "beat", "admit", "admit and start", "start", "end", "end", "advance", "advance"]  # fmt: skip
"""What callers ask for, some of it twice as often."""
CLAIMS = ("admit", "admit and start", "advance")
UNFINISHED = "SELECT 1 FROM attempt WHERE state IN ('queued', 'running')"
OURS = "application_name = 'asyncsched' AND datname = '{database}'"


def database_of(dsn: str) -> str:
    """The name in a DSN."""
    return dsn.split("@/")[1].split("?")[0]


def left_open(server: Server, dsn: str) -> str:
    """What our sessions still hold or are in the middle of; empty if nothing."""
    ours = OURS.format(database=database_of(dsn))
    return server.sql(
        f"SELECT pid, state, query FROM pg_stat_activity WHERE {ours} AND state <> 'idle'"
        " UNION ALL SELECT l.pid, l.mode, l.locktype FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
        f" WHERE {ours} AND l.locktype <> 'virtualxid'"
    )


def checked_out(store: Store) -> int:
    """Connections that somebody has and slots that somebody holds; 0 once all is at rest."""
    pool: Any = store.engine.pool
    reserve: Any = store.reserve.pool
    taken = store.slots.borrowed_tokens + store.reserve_slots.borrowed_tokens
    return int(pool.checkedout() + reserve.checkedout() + taken)


@define(eq=False)
class Storm:
    """Callers that ask for transactions and are cancelled at random instants."""

    world: World
    seed: int
    callers: int = 20
    mean: float = 0.010
    """Seconds until a caller is cancelled, on average."""
    cancels: int = 0
    finished: int = 0
    felt_after: int = 0
    """Cancels that came while the caller's own transaction ran, which then committed."""
    overshoot: list[float] = field(factory=list)
    """Seconds from each cancel to the caller's return."""
    promised: set[str] = field(factory=set)
    """Run ids whose trigger returned."""
    denied: set[str] = field(factory=set)
    """Run ids whose trigger was cancelled or refused: they must not exist."""
    unknown: dict[str, str] = field(factory=dict)
    """Run ids whose trigger ended with an unknown outcome, and their dags."""
    unknown_claims: int = 0
    """Claims that ended so: their attempts may exist, though nobody was told of them."""
    answers: Counter[str] = field(factory=Counter)
    cut: Counter[str] = field(factory=Counter)
    """Cancels, by what was called."""
    ended: Counter[str] = field(factory=Counter)
    """Calls that finished, likewise."""
    known: set[str] = field(factory=set)
    """Tokens of attempts that a claim returned."""
    _queued: list[Workload] = field(factory=list)
    _running: list[Workload] = field(factory=list)
    _random: random.Random = field(init=False)
    _made: int = 0
    _enough: int = 0
    _late: list[float] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self._random = random.Random(self.seed)

    async def blow(self, *, cancels: int, seconds: float) -> None:
        """Until so many calls were cancelled, or the time is over."""
        self._enough = self.cancels + cancels
        until = trio.current_time() + seconds
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as callers:
                nursery.start_soon(self._look_at_the_loop)
                for _ in range(self.callers):
                    callers.start_soon(self._call, until)
            nursery.cancel_scope.cancel()

    def enough_after(self, cancels: int) -> None:
        """It goes on for so many more, however many it was to be."""
        self._enough = self.cancels + cancels

    async def _look_at_the_loop(self) -> None:
        """How late somebody wakes who waits for nothing but the time: the machine's part of the overshoot."""
        while True:
            at = trio.current_time() + 0.005
            await trio.sleep_until(at)
            self._late.append(trio.current_time() - at)

    def lateness(self) -> float:
        """p99, in seconds."""
        return sorted(self._late)[int(0.99 * len(self._late))]

    async def _call(self, until: float) -> None:
        calls = self._calls()
        while self.cancels < self._enough and trio.current_time() < until:
            name = self._random.choice(OFTEN)
            self._made += 1
            dag, key = f"chain{self._random.randrange(10)}", f"run-{self.seed}-{self._made}"
            act = partial(self._trigger, dag, key) if name == "trigger" else calls[name]
            done = False
            at = trio.current_time() + self._random.expovariate(1 / self.mean)
            try:
                with trio.CancelScope(deadline=at) as scope:
                    await act()
                    done = True  # on the next line: what follows a commit is synchronous
                    await trio.lowlevel.checkpoint_if_cancelled()
            except (StoreUnavailable, OutcomeUnknown, Conflict) as error:
                self.answers[type(error).__name__] += 1
                if isinstance(error, OutcomeUnknown):
                    self.unknown_claims += name in CLAIMS
                    if name == "trigger":
                        self.unknown[key] = dag
                    continue
                await trio.sleep(0.001)  # it may refuse at once
            else:
                if scope.cancelled_caught:
                    self.cancels += 1
                    self.cut[name] += 1
                    self.felt_after += done
                    self.overshoot.append(trio.current_time() - at)
                self.finished += done
                self.ended[name] += done
            if name == "trigger":
                (self.promised if done else self.denied).add(key)

    def _calls(self) -> dict[str, Callable[[], Awaitable[Any]]]:
        world, store = self.world, self.world.store
        return {
            "judge": lambda: store.transact(judge_runs, world.graphs, world.pictures, 20),
            "create": lambda: store.transact(create_due_runs, world.graphs, 20),
            "pool": lambda: store.transact(pools.write_pool, f"pool{self._random.randrange(10)}", 5, None),
            "clear": lambda: store.transact(clear_tasks, world.graphs, self._runs(), Selection()),
            "mark": lambda: store.transact(mark_tasks, world.graphs, self._runs(), Selection(), TaskState.SKIPPED),
            "time out": lambda: store.transact(time_out_due_runs, 5),
            "rescue stuck": lambda: store.transact(rescue_stuck, world.graphs, [], 10),
            "rescue lost": lambda: store.transact(rescue_lost, world.graphs, 10),
            "look": lambda: store.read(look_at, world.graphs, self._runs()),
            "beat": lambda: seats.beat(store, world.daemon),
            "admit": partial(self._admit, starts=False),
            "admit and start": partial(self._admit, starts=True),
            "start": self._start,
            "end": self._end,
            "advance": self._advance,
        }

    def _runs(self) -> list[int]:
        """Any three runs, as far as there are so many."""
        return [self._random.randint(1, max(3, len(self.promised))) for _ in range(3)]

    async def _trigger(self, dag: str, key: str) -> None:
        await self.world.trigger(dag, run_id=key)

    async def _admit(self, *, starts: bool) -> None:
        got = await self.world.admit(10, starts=starts)
        self._claimed(got, self._running if starts else self._queued)

    def _claimed(self, got: Sequence[Workload], where: list[Workload]) -> None:
        self.known.update(one.token for one in got)
        where += got

    async def _start(self) -> None:
        some = self._some(self._queued)
        won = {answer.token for answer in await self.world.start(some) if answer.accepted}
        self._running += [one for one in some if one.token in won]
        self._forget(self._queued, some)

    async def _end(self) -> None:
        some = self._some(self._running)
        await self.world.end(some, self._random.choice([OutcomeKind.SUCCESS, OutcomeKind.FAILED]))
        self._forget(self._running, some)

    async def _advance(self) -> None:
        some = self._some(self._running)
        done = await self.world.advance(some, slots=10)
        self._claimed(done.placed.workloads, self._running)
        self._forget(self._running, [one for one in some if one.token in done.answers])

    def _some(self, workloads: list[Workload]) -> list[Workload]:
        """Others may take the same, and one of them is refused."""
        return self._random.sample(workloads, min(5, len(workloads)))

    @staticmethod
    def _forget(workloads: list[Workload], gone: Sequence[Workload]) -> None:
        tokens = {one.token for one in gone}
        workloads[:] = [one for one in workloads if one.token not in tokens]

    async def settle(self) -> None:
        """Once the weather is fair: whoever does not know asks again by his key, and every claim comes to an end."""
        there = {row["run_id"] for row in await self.world.rows("SELECT run_id FROM dag_run")}
        for key, dag in self.unknown.items():
            if key not in there:
                await self._trigger(dag, key)
            self.promised.add(key)
        self.unknown.clear()
        self.world.later(seconds=60)  # no worker has renewed its lease, no start is on its way
        store, graphs = self.world.store, self.world.graphs
        for _ in range(1 + len(await self.world.rows(UNFINISHED))):
            await store.transact(rescue_stuck, graphs, [], 50)
            await store.transact(rescue_lost, graphs, 50)
            if not await self.world.rows(UNFINISHED):
                return

    async def wrong(self) -> str:
        """What was promised and is not there, or was denied and is there; empty if nothing."""
        rows = await self.world.rows("SELECT run_id FROM dag_run")
        there = {row["run_id"] for row in rows}
        lost, ghosts = self.promised - there, self.denied & there
        tokens = {row["token"] for row in await self.world.rows("SELECT token::text AS token FROM attempt")}
        lost |= self.known - tokens
        if not self.unknown_claims:
            ghosts |= tokens - self.known
        if len(there) < len(rows):
            return "a run is there twice"
        return f"lost: {sorted(lost)[:3]}, came after a cancel: {sorted(ghosts)[:3]}" if lost or ghosts else ""

    def percentile(self, share: float) -> float:
        """Of the overshoot, in seconds."""
        ordered = sorted(self.overshoot) or [0.0]
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
