"""The composition root: builds what stands on the store, and ends it all in order. Decides nothing.

    store
     └ routines, executor, control socket, watchdog
        └ worker process

Inside out is the order of the end: no new work, the worker drains and leaves, its last outcomes are recorded,
routines stop. What lies below the store is in `start.py`.
"""

import gc
import logging
import os
import socket
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import trio
from attrs import define, field, frozen

from nurseries.backoff import Budget
from nurseries.bridge import Bridge
from nurseries.clock import SystemClock
from nurseries.gate import Gate
from nurseries.notify import Notifier
from nurseries.processes import keep_running
from nurseries.routine import Pace, Routine
from nurseries.shutdown import Shutdown
from nurseries.supervisor import Supervisor
from nurseries.switchboard import Switchboard
from nurseries.watchdog import feed_watchdog
from scheduler import assembly
from scheduler.commands import Commands
from scheduler.commands.pools import set_parallelism
from scheduler.config import Config, hide_password
from scheduler.control import ControlContext, ControlServer
from scheduler.control.handlers import OPERATIONS
from scheduler.executors.local import LocalExecutor, worker_spec
from scheduler.home import Home
from scheduler.loading.sources import PinnedSources
from scheduler.procedures.dispatch import Dispatch
from scheduler.procedures.pictures import Pictures
from scheduler.procedures.placement import Place
from scheduler.routines.load_dags import STORED, LoadDags
from scheduler.routines.prune import Prune
from scheduler.routines.warm_workers import WarmWorkers
from scheduler.store import backlog, migrate, seats
from scheduler.store.documents import Graphs
from scheduler.store.seats import Seat
from scheduler.store.transaction import Store

logger = logging.getLogger(__name__)

FIRST_LOAD_SECONDS = 5.0
"""How long a start waits for the DAG files before it says that it is ready."""


@frozen(kw_only=True)
class Settings:
    """What this run of the daemon is to do."""

    config: Config
    home: Home
    dags_dir: Path
    with_worker: bool
    once: bool
    check: bool

    @property
    def is_embedded(self) -> bool:
        return self.config.database.dsn == "embedded"

    @property
    def slots(self) -> int:
        return self.config.worker.slots or self.config.scheduler.parallelism


YOUNG_OBJECTS = 20_000


def _settle_memory() -> None:
    """What is there now stays: the collector need not look at it again, nor so often at what comes and goes.

    A batch of outcomes makes tens of thousands of short-lived objects, and hardly any cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)


@define(kw_only=True, eq=False)
class Daemon:
    """Everything above the store, composed."""

    settings: Settings
    notifier: Notifier
    store: Store
    switchboard: Switchboard
    bridge: Bridge
    dsn: str
    graphs: Graphs = field(factory=Graphs)
    clock: SystemClock = field(factory=SystemClock)
    started_at: datetime = field(factory=lambda: datetime.now(UTC))
    is_ready: bool = False
    executor: LocalExecutor = field(init=False)
    sources: PinnedSources = field(init=False)
    seat: Seat = field(init=False)
    dispatch: Dispatch = field(init=False)
    supervisor: Supervisor = field(init=False)
    loader: LoadDags = field(init=False)

    def __attrs_post_init__(self) -> None:
        home = self.settings.home
        self.executor = LocalExecutor(socket_path=home.worker_socket, poke=self.switchboard.poke)
        self.sources = PinnedSources(home.sources)
        self.seat = Seat(
            uuid=str(uuid.uuid4()),
            kind="daemon",
            hostname=socket.gethostname(),
            pid=os.getpid(),
            home=str(home.path),
        )
        self.dispatch = Dispatch(
            store=self.store,
            executor=self.executor,
            place=Place(
                daemon=self.seat.uuid,
                logs=home.logs,
                source_path=self.sources.path,
                dags_dir=self.settings.dags_dir,
            ),
            pictures=Pictures(),
            sources=self.sources,
        )

    def routines(self, parsing: trio.Nursery) -> list[Routine]:
        """Those of every daemon (`assembly.py`), and those that read files and warm processes."""
        config, store, dags_dir = self.settings.config, self.store, self.settings.dags_dir
        self.loader = LoadDags(
            store=store,
            dags_dir=dags_dir,
            sources=self.sources,
            nursery=parsing,
            poke=self.switchboard.poke,
            pace=Pace(seconds=config.scheduler.scan_interval_s),
            timeout=config.loading.timeout_s,
            memory_limit=config.loading.memory_mb * 1024 * 1024,
            parallel=config.loading.parallel,
        )
        return [
            self.loader,
            *assembly.routines(
                store=store,
                graphs=self.graphs,
                executor=self.executor,
                dispatch=self.dispatch,
                switchboard=self.switchboard,
                seat=self.seat,
                clock=self.clock,
            ),
            WarmWorkers(
                store=store,
                executor=self.executor,
                sources=self.sources,
                dags_dir=dags_dir,
                at_most=config.worker.warm_parents,
            ),
            Prune(store=store, logs=self.settings.home.logs, keep=timedelta(days=config.prune.keep_days)),
        ]

    async def run(self, shutdown: Shutdown) -> None:
        """Serve until asked to end; then end in order."""
        await set_parallelism(self.store, slots=self.settings.config.scheduler.parallelism)
        await self.store.transact(seats.take_seat, self.seat)
        async with trio.open_nursery() as nursery:
            gate = Gate(self.store.probe)
            self.supervisor = Supervisor(self.routines(nursery), switchboard=self.switchboard, gate=gate)
            await nursery.start(self.executor.serve)
            await nursery.start(self._control().serve)
            nursery.start_soon(self.supervisor.run)
            nursery.start_soon(feed_watchdog, self.notifier, self.supervisor.is_live)
            nursery.start_soon(self._say_status, gate)
            if self.settings.once:
                nursery.start_soon(self._end_when_idle, shutdown)
            await self._serve_until(shutdown)
            with trio.move_on_after(2):
                await seats.leave(self.store, self.seat.uuid)
            nursery.cancel_scope.cancel()

    async def _serve_until(self, shutdown: Shutdown) -> None:
        """Keep the worker running until the end is asked for, drain it, and take in its last outcomes."""
        async with trio.open_nursery() as children:
            if self.settings.with_worker:

                def left(*_: object) -> None:
                    if shutdown.requested.is_set():
                        children.cancel_scope.cancel()

                async def keep() -> None:
                    await keep_running(self._worker(), budget=Budget(restarts=10), on_exit=left)

                children.start_soon(keep)
            children.start_soon(self._become_ready)
            await shutdown.requested.wait()
            self.is_ready = False
            self.notifier.stopping(f"{shutdown.reason}: waiting for running tasks")
            if self.settings.with_worker:
                self.executor.drain(self.settings.config.scheduler.shutdown_grace_s)
            else:
                children.cancel_scope.cancel()  # a worker of its own unit goes on, and reports to the next daemon
        with trio.move_on_after(5):
            while self.executor.outcomes or self.executor.starts:  # noqa: ASYNC110 - what is left is milliseconds
                await trio.sleep(0.01)

    def _worker(self) -> Any:
        config, home = self.settings.config.worker, self.settings.home
        return worker_spec(
            socket_path=home.worker_socket,
            spool_dir=home.worker,
            slots=self.settings.slots,
            warm_parents=config.warm_parents,
            log_limit_mb=config.log_limit_mb,
            result_limit_kb=config.result_limit_kb,
            kill_grace_s=config.kill_grace_s,
            orphan_grace_s=config.orphan_grace_s,
            shutdown_grace_s=self.settings.config.scheduler.shutdown_grace_s,
            reuse_attempts=config.reuse_attempts,
            reuse_growth_mb=config.reuse_growth_mb,
            reuse_idle_s=config.reuse_idle_s,
        )

    async def _become_ready(self) -> None:
        """READY=1: every routine has had its first step, a worker is there, and the DAG files have been looked at.

        The last is waited for only so long: one file that hangs must not keep the rest from being ready.
        """
        await self.supervisor.first_pass.wait()
        with trio.move_on_after(FIRST_LOAD_SECONDS), self.switchboard.subscribe(STORED) as stored:
            while self.loader.is_busy:
                await stored.wait()
        if self.settings.with_worker:
            with self.switchboard.subscribe("worker_changed") as changed:
                while not self.executor.workers():
                    await changed.wait()
        _settle_memory()
        self.is_ready = True
        self.notifier.ready(self._summary())
        logger.info("ready: dags in %s, home %s", self.settings.dags_dir, self.settings.home.path)

    async def _say_status(self, gate: Gate) -> None:
        """Keep the service manager's STATUS line true."""
        said = ""
        while True:
            if self.is_ready:
                away = gate.closed_for()
                text = f"database away for {away:.0f} s" if away else self._summary()
                if text != said:
                    self.notifier.status(text)
                    said = text
            await trio.sleep(5)

    def _summary(self) -> str:
        running = sum(len(worker.running) for worker in self.executor.workers())
        return f"ready: {running} attempts running"

    def _control(self) -> ControlServer:
        async def check_database() -> Mapping[str, Any]:
            status = await migrate.check(self.bridge, self.dsn)
            return {"current": status.current, "head": status.head, "is_current": status.is_current}

        context = ControlContext(
            store=self.store,
            commands=Commands(graphs=self.graphs, dispatch=self.dispatch),
            switchboard=self.switchboard,
            facts=self._facts,
            check_database=check_database,
        )
        return ControlServer(path=self.settings.home.control_socket, operations=OPERATIONS, context=context)

    def _facts(self) -> Mapping[str, Any]:
        return {
            "version": version("asyncsched"),
            "pid": os.getpid(),
            "home": str(self.settings.home.path),
            "dags_dir": str(self.settings.dags_dir),
            "database": "embedded" if self.settings.is_embedded else hide_password(self.settings.config.database.dsn),
            "started_at": self.started_at,
            "ready": self.is_ready,
            "workers": [
                {
                    "worker_id": worker.worker_id,
                    "pid": worker.pid,
                    "hostname": worker.hostname,
                    "slots": worker.slots,
                    "running": len(worker.running),
                    "draining": worker.draining,
                }
                for worker in self.executor.workers()
            ],
            "routines": {
                one.name: {
                    "phase": str(one.phase),
                    "steps": one.steps,
                    "failures": one.failures,
                    "weathers": one.weathers,
                    "last_error": one.last_error,
                }
                for one in self.supervisor.statistics()
            },
            "store": self.store.statistics(),
        }

    async def _end_when_idle(self, shutdown: Shutdown) -> None:
        """--once: ask for the end when every file is loaded, nothing is due and no run is unfinished."""
        await self.supervisor.first_pass.wait()
        quiet = 0
        while quiet < 2:  # twice, since a finished parse shows in the store only a step later
            await trio.sleep(0.3)
            busy = self.loader.is_busy or await self.store.read(backlog.is_there_work)
            quiet = 0 if busy else quiet + 1
        shutdown.request("nothing is left to do")
