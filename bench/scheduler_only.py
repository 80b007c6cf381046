"""The scheduler without processes for tasks: the daemon's own composition, a real database, a worker that is instant.

As a program: `python -m bench.scheduler_only DSN PLACE SHAPE quick|full SERVER_PID` prints one JSON object.
"""

import gc
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import trio
from attrs import asdict, define, evolve, field, frozen

from bench import dagfiles, processes
from bench.counting import Counts
from bench.daemon import Failed
from bench.machine import ROOT
from bench.measure import Report
from bench.server import Server
from bench.split import splitting
from nurseries.bridge import open_bridge
from nurseries.notify import Notifier
from nurseries.shutdown import Shutdown
from nurseries.switchboard import Switchboard
from scheduler.commands import Commands
from scheduler.config import load_config
from scheduler.daemon import Daemon, Settings
from scheduler.home import Home
from scheduler.model.facts import Fact, FactKind
from scheduler.observe import logs
from scheduler.store.engine import open_store
from scheduler.store.errors import Conflict
from scheduler.store.limits import Limits
from scheduler.store.topics import Topic
from scheduler.store.transaction import Store
from scheduler.store.writer import Reading

SLOTS = 1_000
"""How many attempts the worker takes at once: it must not be what limits."""

CALLERS = 32
"""How many triggers are under way at a time, as from a client that wants throughput."""

WARM_UP = 200
"""Task instances."""
SPLIT_SAMPLES, QUICK_SPLIT_SAMPLES = 500, 20
"""A shape is run once for its figures, and then again to split its CPU, until there are so many samples."""

PROGRAM = (sys.executable, "-m", "bench.scheduler_only")


@frozen(kw_only=True)
class Shapes:
    """Sizes of the shapes: lengths, widths, the depth of a tree, the side of a grid; runs of ten tasks."""

    chain: int = 400
    fan: int = 5_000
    tree: int = 11
    grid: int = 45
    runs: int = 100

    @classmethod
    def quick(cls) -> "Shapes":
        return cls(chain=20, fan=100, tree=6, grid=8, runs=10)

    def tasks(self, shape: str) -> int:
        """Task instances of one measurement."""
        sizes: dict[str, int] = {
            "chain": self.chain,
            "fan": self.fan + 2,
            "tree": 2**self.tree - 1,
            "grid": self.grid**2,
            "runs": 10 * self.runs,
        }
        return sizes[shape]


SHAPES = ("chain", "fan", "tree", "grid", "runs")


@frozen(kw_only=True)
class Cost:
    """What a shape cost. CPU in seconds."""

    tasks: int
    seconds: float
    statements: int
    transactions: int
    rollbacks: int
    in_statements_s: float
    cpu_s: dict[str, float]
    wal_bytes: int
    steps: dict[str, int]
    """How often each routine stepped."""
    by_statement: dict[str, int]
    seconds_by_statement: dict[str, float]
    split: dict[str, Any] = field(factory=dict)
    """The scheduler's own CPU by layer and routine, of the same work done again under the eyes of `bench.split`."""

    @property
    def per_s(self) -> float:
        return self.tasks / self.seconds

    @property
    def statements_per_task(self) -> float:
        return self.statements / self.tasks

    @property
    def transactions_per_task(self) -> float:
        return self.transactions / self.tasks


@define(eq=False)
class Finished:
    """Hears the store's facts: counts the runs that end, so that nobody has to ask the database for it."""

    pass_on: bool
    succeeded: int = 0
    failed: int = 0
    changed: trio.Event = field(factory=trio.Event)

    def tell(self, facts: list[Fact]) -> None:
        if self.pass_on:
            logs.tell(facts)
        for fact in facts:
            if fact.kind is FactKind.RUN_FINISHED:
                if fact.about["state"] == "success":
                    self.succeeded += 1
                else:
                    self.failed += 1
                self.changed.set()

    async def wait_for(self, runs: int) -> None:
        """Return when so many runs have ended well in all. Raises Failed."""
        while self.succeeded < runs:
            if self.failed:
                raise Failed(f"{self.failed} runs failed")
            await self.changed.wait()
            self.changed = trio.Event()


@define(eq=False)
class Bench:
    """A daemon in this process, with an instant worker beside it."""

    daemon: Daemon
    finished: Finished
    counts: Counts
    worker_pid: int
    server_pid: int | None

    async def run(self, dag_id: str, *, runs: int, tasks: int) -> Cost:
        """Trigger so many runs of a dag, wait until all have succeeded, and say what that cost. Raises Failed."""
        store = self.daemon.store
        commands = Commands(graphs=self.daemon.graphs, dispatch=self.daemon.dispatch)
        wal, newest, steps = await store.read(_wal), await store.read(_newest_run), self._steps()
        expected = self.finished.succeeded + runs
        self.counts.reset()
        cpu = self._cpu()
        began = time.perf_counter()
        left = iter(range(runs))

        async def caller() -> None:
            for _ in left:
                await _trigger(commands, store, dag_id)

        async with trio.open_nursery() as callers:
            for _ in range(min(runs, CALLERS)):
                callers.start_soon(caller)
        await self.finished.wait_for(expected)
        seconds = time.perf_counter() - began
        used = {name: round(value - cpu.get(name, 0.0), 3) for name, value in self._cpu().items()}
        cost = Cost(
            tasks=tasks,
            seconds=seconds,
            statements=self.counts.statements,
            transactions=self.counts.commits,
            rollbacks=self.counts.rollbacks,
            in_statements_s=self.counts.in_statements_s,
            cpu_s=used,
            wal_bytes=await store.read(_wal) - wal,
            steps={name: count - steps[name] for name, count in self._steps().items() if count > steps[name]},
            by_statement=dict(self.counts.by_statement.most_common()),
            seconds_by_statement={
                text: round(spent, 4) for text, spent in self.counts.seconds_by_statement.most_common()
            },
        )
        made = await store.read(_succeeded, newest)
        if made != tasks:
            raise Failed(f"{dag_id}: {made} instances instead of {tasks} succeeded")
        return cost

    async def warm_up(self) -> None:
        """Every connection has seen every statement afterwards, as in a daemon that has run for a while."""
        await self.run("runs", runs=WARM_UP // 10, tasks=WARM_UP)

    async def measure(self, shape: str, shapes: Shapes) -> Cost:
        """Run one shape. Raises Failed."""
        return await self.run(shape, runs=shapes.runs if shape == "runs" else 1, tasks=shapes.tasks(shape))

    def _steps(self) -> dict[str, int]:
        return {one.name: one.steps for one in self.daemon.supervisor.statistics()}

    def _cpu(self) -> dict[str, float]:
        """Seconds so far, by process."""
        pids = [self.worker_pid] + ([] if self.server_pid is None else processes.tree(self.server_pid))
        sums = processes.by_name(processes.usage(pids, with_memory=False), "cpu_s")
        return {"scheduler": time.process_time()} | {
            name: sums[name] for name in ("worker", "postgres") if name in sums
        }


async def _trigger(commands: Commands, store: Store, dag_id: str) -> None:
    """Trigger one run, and again if it was in vain: nothing was committed then. Such tries are among `rollbacks`."""
    while True:
        try:
            await commands.trigger(store, dag_id=dag_id, conf=None, logical_date=None)
        except Conflict:
            continue
        return


_WAL = sa.text("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint AS bytes")
_NEWEST_RUN = sa.text("SELECT coalesce(max(id), 0) AS newest FROM dag_run")
_SUCCEEDED = sa.text("SELECT count(*) AS n FROM task_instance WHERE run_pk > :newest AND state = 'success'")
_LOADED = sa.text("SELECT dag_id FROM dag WHERE is_present")


async def _wal(tx: Reading) -> int:
    (row,) = await tx.fetch(_WAL)
    return int(row["bytes"])


async def _newest_run(tx: Reading) -> int:
    (row,) = await tx.fetch(_NEWEST_RUN)
    return int(row["newest"])


async def _succeeded(tx: Reading, newest: int) -> int:
    """Instances of the runs after that one: whatever the size of history."""
    (row,) = await tx.fetch(_SUCCEEDED, {"newest": newest})
    return int(row["n"])


async def _loaded(tx: Reading) -> set[str]:
    return {row["dag_id"] for row in await tx.fetch(_LOADED)}


@asynccontextmanager
async def open_bench(
    dsn: str,
    place: Path,
    shapes: Shapes,
    *,
    server_pid: int | None = None,
    log_facts: bool = False,
    limits: Limits | None = None,
) -> AsyncIterator[Bench]:
    """Run a daemon on the migrated database at `dsn`, its home in `place`. Raises Failed.

    `log_facts`: it logs what happens as the product does; by default it is silent.
    """
    home = Home(place / "home")
    dag_ids = dagfiles.write_shapes(
        place / "dags", chain=shapes.chain, fan=shapes.fan, tree=shapes.tree, grid=shapes.grid
    )
    config = load_config({"scheduler.parallelism": SLOTS, "scheduler.dags_dir": place / "dags"}, {}, None)
    switchboard, finished, counts = Switchboard(), Finished(log_facts), Counts()
    with home.lock():
        home.ensure({})
        async with (
            open_bridge() as bridge,
            open_store(
                bridge,
                dsn,
                connections=config.database.pool_size,
                limits=limits,
                poke=switchboard.poke,
                tell=finished.tell,
            ) as store,
            trio.open_nursery() as nursery,
        ):
            counts.watch(store)
            daemon = Daemon(
                settings=Settings(
                    config=config, home=home, dags_dir=place / "dags", with_worker=False, once=False, check=False
                ),
                notifier=Notifier(),
                store=store,
                switchboard=switchboard,
                bridge=bridge,
                dsn=dsn,
            )
            shutdown = Shutdown()
            with switchboard.subscribe(Topic.VERSIONS_CHANGED, Topic.WORKER_CHANGED) as changed:
                nursery.start_soon(daemon.run, shutdown)
                with trio.fail_after(60):
                    while not await store.read(_loaded) >= set(dag_ids):
                        await changed.wait()
                    worker = await trio.to_thread.run_sync(_start_worker, home)
                    while not daemon.executor.workers():
                        await changed.wait()
            try:
                commands = Commands(graphs=daemon.graphs)
                await commands.set_pool(store, name="default_pool", slots=-1, description=None)
                yield Bench(daemon, finished, counts, worker.pid, server_pid)
            finally:
                shutdown.request("done")
                worker.terminate()
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(worker.wait)
                gc.unfreeze()  # the daemon had it done for the rest of its process, which goes on here without it


def _start_worker(home: Home) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench.instant_worker", str(home.worker_socket), str(SLOTS)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )


async def measure_shape(
    dsn: str,
    place: Path,
    shape: str,
    shapes: Shapes,
    *,
    server_pid: int | None = None,
    log_facts: bool = False,
    split_samples: int = 0,
) -> Cost:
    """Run one shape, after a few others to warm up; again until its CPU is split by so many samples. Raises Failed."""
    async with open_bench(dsn, place, shapes, server_pid=server_pid, log_facts=log_facts) as bench:
        await bench.warm_up()
        cost = await bench.measure(shape, shapes)
        if not split_samples:
            return cost
        tasks = 0
        with splitting() as split:
            while split.samples < split_samples:
                tasks += (await bench.measure(shape, shapes)).tasks
        return evolve(cost, split=split.per_task(tasks))


def measure(server: Server, place: Path, report: Report, *, quick: bool, shapes: Sequence[str] = SHAPES) -> None:
    """Every shape, each in a process of its own and on a new database. Raises Failed."""
    for shape in shapes:
        here = place / shape
        here.mkdir(exist_ok=True)
        with server.migrated("scheduler") as dsn, (here / "log").open("wb") as log:
            before = server.written()
            done = subprocess.run(
                [*PROGRAM, dsn, str(here), shape, "quick" if quick else "full", str(server.pid)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                check=False,
            )
            written = {kind: value - before[kind] for kind, value in server.written().items()}
        if done.returncode != 0:
            raise Failed(f"{shape}: {(here / 'log').read_text()[-3000:]}")
        cost = json.loads(done.stdout)
        per_task = 1000.0 / cost["tasks"]
        per_s = cost["tasks"] / cost["seconds"]
        report.add(
            f"scheduler_{shape}",
            per_s,
            **cost,
            cpu_ms_per_task={name: round(value * per_task, 3) for name, value in cost["cpu_s"].items()},
        )
        if shape in COUNTED:
            report.add(f"statements_{shape}", cost["statements"] / cost["tasks"])
            report.add(f"transactions_{shape}", cost["transactions"] / cost["tasks"])
            report.add(f"wal_{shape}", cost["wal_bytes"] / cost["tasks"])
            everything = WARM_UP + cost["tasks"] + cost["split"]["tasks"]
            report.add(f"disk_{shape}", sum(written.values()) / everything, tasks=everything, written=written)
        for name in ("", "_short"):
            ceiling = report.measures.get(f"ceiling{name}_on_100")
            if ceiling is not None:
                report.add(f"share{name}_{shape}", 100 * per_s / ceiling.samples[-1])


COUNTED = ("chain", "fan", "runs")


if __name__ == "__main__":
    _, dsn_, place_, shape_, size_, server_ = sys.argv
    logs.configure(verbose=False)
    measured = trio.run(
        partial(
            measure_shape,
            dsn_,
            Path(place_),
            shape_,
            Shapes.quick() if size_ == "quick" else Shapes(),
            server_pid=int(server_) or None,
            log_facts=True,
            split_samples=QUICK_SPLIT_SAMPLES if size_ == "quick" else SPLIT_SAMPLES,
        )
    )
    print(json.dumps(asdict(measured)))
