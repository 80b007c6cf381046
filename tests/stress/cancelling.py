"""A storm of cancels over a production store, and what must be true of the connections afterwards."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from attrs import define, field

from scheduler.commands.clear import clear_tasks
from scheduler.commands.mark import mark_tasks
from scheduler.decisions.clearing import Selection
from scheduler.model import TaskState
from scheduler.procedures.pictures import look_at
from scheduler.routines.create_runs import create_due_runs
from scheduler.routines.schedule_tasks import judge_runs
from scheduler.store import pools, seats
from scheduler.store.errors import Conflict, OutcomeUnknown, StoreUnavailable
from scheduler.store.transaction import Store
from tests.database import Server
from tests.world import World

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
    """Run ids whose trigger was cancelled: they must not exist."""
    answers: Counter[str] = field(factory=Counter)
    _random: random.Random = field(init=False)
    _made: int = 0
    _late: list[float] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self._random = random.Random(self.seed)

    async def blow(self, *, cancels: int, seconds: float) -> None:
        """Until so many calls were cancelled, or the time is over."""
        enough = self.cancels + cancels
        until = trio.current_time() + seconds
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as callers:
                nursery.start_soon(self._look_at_the_loop)
                for _ in range(self.callers):
                    callers.start_soon(self._call, enough, until)
            nursery.cancel_scope.cancel()

    async def _look_at_the_loop(self) -> None:
        """How late somebody wakes who waits for nothing but the time: the machine's part of the overshoot."""
        while True:
            at = trio.current_time() + 0.005
            await trio.sleep_until(at)
            self._late.append(trio.current_time() - at)

    def lateness(self) -> float:
        """p99, in seconds."""
        return sorted(self._late)[int(0.99 * len(self._late))]

    async def _call(self, enough: int, until: float) -> None:
        while self.cancels < enough and trio.current_time() < until:
            act, key = self._pick()
            done = False
            at = trio.current_time() + self._random.expovariate(1 / self.mean)
            try:
                with trio.CancelScope(deadline=at) as scope:
                    await act()
                    done = True  # on the next line: what follows a commit is synchronous
                    await trio.lowlevel.checkpoint_if_cancelled()
            except (StoreUnavailable, OutcomeUnknown, Conflict) as error:
                self.answers[type(error).__name__] += 1
                continue
            if scope.cancelled_caught:
                self.cancels += 1
                self.felt_after += done
                self.overshoot.append(trio.current_time() - at)
            self.finished += done
            if key is not None:
                (self.promised if done else self.denied).add(key)

    def _pick(self) -> tuple[Callable[[], Awaitable[Any]], str | None]:
        world, store = self.world, self.world.store
        kind = self._random.randrange(9)
        if kind <= 1:
            self._made += 1
            key = f"run-{self.seed}-{self._made}"
            return (lambda: world.trigger(f"chain{self._random.randrange(10)}", run_id=key)), key
        if kind == 2:
            return (lambda: store.transact(judge_runs, world.graphs, world.pictures, 20)), None
        if kind == 3:
            return (lambda: store.transact(create_due_runs, world.graphs, 20)), None
        if kind == 4:
            name = f"pool{self._random.randrange(10)}"
            return (lambda: store.transact(pools.write_pool, name, 5, None)), None
        if kind in (5, 6, 7):
            # any three runs, as far as there are so many
            some = [self._random.randint(1, max(3, self._made)) for _ in range(3)]
            if kind == 5:
                return (lambda: store.transact(clear_tasks, world.graphs, some, Selection())), None
            if kind == 6:
                return (lambda: store.transact(mark_tasks, world.graphs, some, Selection(), TaskState.SKIPPED)), None
            return (lambda: store.read(look_at, world.graphs, some)), None
        return (lambda: seats.beat(store, world.daemon)), None

    async def wrong(self) -> str:
        """What was promised and is not there, or was denied and is there; empty if nothing."""
        there = {row["run_id"] for row in await self.world.rows("SELECT run_id FROM dag_run")}
        lost, ghosts = self.promised - there, self.denied & there
        return f"lost: {sorted(lost)[:3]}, came after a cancel: {sorted(ghosts)[:3]}" if lost or ghosts else ""

    def percentile(self, share: float) -> float:
        """Of the overshoot, in seconds."""
        ordered = sorted(self.overshoot) or [0.0]
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
