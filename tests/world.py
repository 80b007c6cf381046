"""A small world for tests of routines: a store on a real database, dags put in by hand, and a worker played by name.

Nothing here replaces a part of ours: every verb is one of the production writers, run by the production store.
"""

import hashlib
import uuid
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from attrs import define, field

from nurseries.bridge import Bridge, open_bridge
from scheduler.commands import Commands
from scheduler.commands.trigger import Request, trigger_runs
from scheduler.executors.base import Berth
from scheduler.loading.loader import Loaded
from scheduler.model import (
    Catchup,
    Dag,
    Outcome,
    OutcomeKind,
    Schedule,
    ScheduleKind,
    StartAnswer,
    StartRequest,
    Task,
    Workload,
)
from scheduler.model.facts import Fact
from scheduler.procedures.advance import Advanced
from scheduler.procedures.claiming import Look
from scheduler.procedures.pictures import Pictures, look_at
from scheduler.procedures.placement import Capacity, Place, Whereabouts
from scheduler.procedures.settle import Verdict
from scheduler.procedures.turn import Turn, prepare, unknown
from scheduler.routines.create_runs import Created, create_due_runs
from scheduler.routines.enqueue_tasks import admit_scheduled
from scheduler.routines.load_dags import store_file
from scheduler.routines.record_outcomes import advance_runs, end_attempts
from scheduler.routines.schedule_tasks import Judged, judge_runs
from scheduler.routines.start_attempts import start_claimed
from scheduler.store import seats
from scheduler.store.documents import Graphs
from scheduler.store.engine import open_store
from scheduler.store.seats import Seat
from scheduler.store.transaction import Store
from scheduler.store.writer import Reading

NEVER = Schedule(kind=ScheduleKind.NEVER, text="never")


def every(seconds: float) -> Schedule:
    return Schedule(kind=ScheduleKind.EVERY, text=f"every {seconds} s", seconds=seconds)


def chain(length: int, dag_id: str = "chain", **task_options: Any) -> Dag:
    """t0 -> t1 -> ..., each taking the result of the one before."""
    tasks = tuple(
        Task(
            task_id=f"t{i}",
            upstream=(f"t{i - 1}",) if i else (),
            inputs=(f"t{i - 1}",) if i else (),
            **task_options,
        )
        for i in range(length)
    )
    return Dag(dag_id=dag_id, schedule=NEVER, tasks=tasks)


def fan(width: int, dag_id: str = "fan", **options: Any) -> Dag:
    """first -> m0, m1, ... -> last."""
    middle = tuple(f"m{i}" for i in range(width))
    tasks = (
        Task(task_id="first"),
        *(Task(task_id=name, upstream=("first",), inputs=("first",)) for name in middle),
        Task(task_id="last", upstream=tuple(sorted(middle)), inputs=tuple(sorted(middle))),
    )
    return Dag(dag_id=dag_id, schedule=NEVER, tasks=tasks, **options)


@define(kw_only=True, eq=False)
class World:
    """See the module. `now` moves the clock of every later transaction; None: the database's own."""

    store: Store
    dsn: str
    bridge: Bridge
    graphs: Graphs = field(factory=Graphs)
    now: datetime | None = None
    poked: list[Hashable] = field(factory=list)
    facts: list[Fact] = field(factory=list)
    worker: str = field(factory=lambda: str(uuid.uuid4()))
    daemon: str = field(factory=lambda: str(uuid.uuid4()))
    pictures: Pictures = field(factory=Pictures)
    whereabouts: dict[str, Whereabouts] = field(factory=dict)
    commands: Commands = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.commands = Commands(graphs=self.graphs)

    async def sit_down(self) -> None:
        """Seat the daemon and the worker, as production does."""
        await self.store.transact(
            seats.take_seat, Seat(uuid=self.daemon, kind="daemon", hostname="h", pid=1, home=f"/{self.daemon}")
        )
        await seats.register(self.store, Seat(uuid=self.worker, kind="worker", hostname="h", pid=2, home="/home"))

    @property
    def place(self) -> Place:
        return Place(
            daemon=self.daemon,
            logs=Path("/logs"),
            source_path=lambda one, two: Path("/s", one, two),
            dags_dir=Path("/d"),
        )

    async def put(self, *dags: Dag, file: str = "dags.py", source: str = "") -> None:
        """Store a file that defines these dags."""
        source_hash = hashlib.sha256(source.encode()).hexdigest()
        loaded = Loaded(source=source, source_hash=source_hash, dags=tuple(dags))
        await self.store.transact(store_file, file, loaded, frozenset({file}))

    async def create(self) -> Created:
        return await self.store.transact(create_due_runs, self.graphs, 100)

    async def trigger(self, dag_id: str, **options: Any) -> str:
        options = {"conf": None, "logical_date": None, **options}
        return (await self.commands.trigger(self.store, dag_id=dag_id, **options)).run_id

    async def launch(self, dag_id: str, *, slots: int = 1000, run_id: str | None = None) -> list[Workload]:
        """Trigger where a worker has room: the first tasks start in the same transaction."""
        request = Request(run_id=run_id or f"manual__{uuid.uuid4()}")
        _, launched = await self.store.transact(
            trigger_runs, self.graphs, dag_id, lambda: [request], self.capacity(slots)
        )
        self.pictures.keep(launched.pictures)
        self.whereabouts.update(launched.placed.whereabouts)
        return list(launched.placed.workloads)

    async def judge(self) -> Judged:
        """Judge until nothing is left, as ScheduleTasks does."""
        while True:
            done = await self.store.transact(judge_runs, self.graphs, self.pictures, 100)
            if done.stale:
                self.pictures.clear()
                continue
            self.pictures.keep(done.pictures, finished=done.finished)
            if not done.pictures and not done.finished:
                return done

    def capacity(self, free: int) -> Capacity:
        """Room at the worker."""
        berths = [Berth(worker_id=self.worker, hostname="h", free=free)] if free > 0 else []
        return Capacity(where=self.place, berths=berths)

    async def admit(self, slots: int = 1000, *, starts: bool = False) -> list[Workload]:
        """Admit one page; with `starts` at a worker that runs them at once, as in production."""
        capacity = self.capacity(slots) if starts else Capacity(where=self.place, slots=slots)
        done = await self.store.transact(admit_scheduled, self.graphs, self.pictures, capacity, Look())
        self.pictures.keep(done.pictures)
        self.whereabouts.update(done.placed.whereabouts)
        return list(done.placed.workloads)

    async def plan(self, workloads: Sequence[Workload], **said: Any) -> Turn:
        """What should follow from the success of these."""
        reports = {one.token: Outcome(token=one.token, kind=OutcomeKind.SUCCESS, **said) for one in workloads}
        strange = unknown(self.pictures, reports, self.whereabouts)
        if strange:
            self.pictures.keep(await self.store.read(look_at, self.graphs, strange))
        return prepare(self.pictures, reports, self.whereabouts)

    async def advance(
        self, workloads: Sequence[Workload], *, slots: int = 1000, look: Look | None = None, **said: Any
    ) -> Advanced:
        """The short way: end these as successes, judge their runs, start what has become ready."""
        return await self.take(await self.plan(workloads, **said), slots=slots, look=look)

    async def take(self, turn: Turn, *, slots: int = 1000, look: Look | None = None) -> Advanced:
        """Do what was planned."""
        done = await self.store.transact(advance_runs, self.graphs, self.pictures, turn, self.capacity(slots), look)
        self.pictures.forget(done.stale)
        self.pictures.keep(done.pictures, finished=done.finished)
        self.whereabouts.update(done.placed.whereabouts)
        return done

    async def start(self, workloads: Sequence[Workload], *, worker: str | None = None) -> list[StartAnswer]:
        requests = [
            StartRequest(token=one.token, worker_id=worker or self.worker, pid=7, hostname="h") for one in workloads
        ]
        return await self.store.transact(start_claimed, self.graphs, requests)

    async def end(
        self, workloads: Sequence[Workload], kind: OutcomeKind = OutcomeKind.SUCCESS, **said: Any
    ) -> dict[str, Verdict]:
        reports = [Outcome(token=one.token, kind=kind, **said) for one in workloads]
        return await self.store.transact(end_attempts, self.graphs, reports)

    async def round(self, kind: OutcomeKind = OutcomeKind.SUCCESS, **said: Any) -> list[str]:
        """Judge, admit, start and end everything there is; return the ids of the tasks that ran."""
        await self.judge()
        workloads = await self.admit()
        answers = await self.start(workloads)
        assert all(answer.accepted for answer in answers)
        await self.end(workloads, kind, **said)
        await self.judge()
        return sorted(one.task_id for one in workloads)

    async def rows(self, sql: str, **params: Any) -> list[dict[str, Any]]:
        """What a SELECT returns."""

        async def fetch(tx: Reading) -> list[dict[str, Any]]:
            return [dict(row) for row in await tx.fetch(sa.text(sql), params)]

        return await self.store.read(fetch)

    async def states(self, run_id: str) -> dict[str, str]:
        rows = await self.rows(
            "SELECT ti.task_id, ti.state FROM task_instance ti JOIN dag_run r ON r.id = ti.run_pk"
            " WHERE r.run_id = :run_id ORDER BY ti.task_index",
            run_id=run_id,
        )
        return {row["task_id"]: row["state"] for row in rows}

    async def run_state(self, run_id: str) -> str:
        (row,) = await self.rows("SELECT state FROM dag_run WHERE run_id = :run_id", run_id=run_id)
        return str(row["state"])

    def later(self, **delta: float) -> datetime:
        """Move the clock on."""
        self.now = (self.now or datetime.now(UTC)) + timedelta(**delta)
        return self.now


@asynccontextmanager
async def open_world(
    dsn: str, *, connections: int = 4, poke: Callable[..., None] | None = None
) -> AsyncIterator[World]:
    """A world on the database at `dsn`."""
    worlds: list[World] = []

    def clock() -> datetime:
        return (worlds[0].now if worlds else None) or datetime.now(UTC)

    async with (
        open_bridge() as bridge,
        open_store(bridge, dsn, connections=connections, reserved=2, clock=clock) as store,
    ):
        world = World(store=store, dsn=dsn, bridge=bridge)
        store.poke = poke or (lambda *topics: world.poked.extend(topics))
        store.tell = world.facts.extend
        worlds.append(world)
        await world.sit_down()
        yield world


__all__ = ["NEVER", "Catchup", "World", "chain", "every", "fan", "open_world"]
