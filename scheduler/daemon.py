"""The composition root: opens what the daemon needs, lists its routines, ends it all in order. Decides nothing.

    home lock
     └ database          the embedded server, or the user's own
        └ store
           └ routines, executor, control socket, watchdog
              └ worker process

Inside out is the order of the end: no new work, the worker drains and leaves, its last outcomes are recorded,
routines stop, connections close, PostgreSQL stops.
"""

import logging
import os
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import trio
from attrs import define, field, frozen

from nurseries.backoff import Budget
from nurseries.bridge import Bridge, open_bridge
from nurseries.clock import SystemClock
from nurseries.errors import BudgetExhausted, Weather
from nurseries.gate import Gate
from nurseries.notify import Notifier
from nurseries.processes import keep_running
from nurseries.routine import Pace, Routine
from nurseries.shutdown import Ending, Shutdown, run_until_stopped
from nurseries.supervisor import Supervisor
from nurseries.switchboard import Switchboard
from nurseries.watchdog import feed_watchdog
from scheduler.commands import Commands
from scheduler.commands.pools import set_parallelism
from scheduler.config import Config, ConfigError, hide_password, load_config
from scheduler.control import ControlContext, ControlServer
from scheduler.control.handlers import OPERATIONS
from scheduler.executors.local import LocalExecutor, worker_spec
from scheduler.home import Home, HomeError, HomeInUse, default_home
from scheduler.loading.sources import PinnedSources
from scheduler.observe import logs
from scheduler.postgres import PostgresError, embedded
from scheduler.procedures.dispatch import Dispatch
from scheduler.procedures.pictures import Pictures
from scheduler.procedures.placement import Place
from scheduler.routines.cancel_attempts import CancelAttempts
from scheduler.routines.create_runs import CreateRuns
from scheduler.routines.enqueue_tasks import EnqueueTasks
from scheduler.routines.heartbeat import Heartbeat
from scheduler.routines.load_dags import STORED, LoadDags
from scheduler.routines.prune import Prune
from scheduler.routines.record_outcomes import RecordOutcomes
from scheduler.routines.rescue import Rescue
from scheduler.routines.schedule_tasks import ScheduleTasks
from scheduler.routines.start_attempts import StartAttempts
from scheduler.routines.start_runs import StartRuns
from scheduler.routines.time_out_runs import TimeOutRuns
from scheduler.routines.warm_workers import WarmWorkers
from scheduler.store import backlog, migrate, seats
from scheduler.store.documents import Graphs
from scheduler.store.errors import DatabaseRefused, SchemaMismatch, StoreUnavailable
from scheduler.store.seats import Seat
from scheduler.store.transaction import Store, open_store

logger = logging.getLogger(__name__)

OK, UNAVAILABLE, INTERNAL, TEMPORARY, PERMISSION, CONFIGURATION, CANCELLED = 0, 69, 70, 75, 77, 78, 130
"""Exit codes, as in sysexits.h; the last one after a second signal."""

FIRST_LOAD_SECONDS = 5.0
ANSWER_SECONDS = 60.0
"""How long a start waits for a database that does not answer."""


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


def main(
    *,
    dags_dir: Path | None = None,
    home: Path | None = None,
    config: Path | None = None,
    database: str | None = None,
    workers: int | None = None,
    once: bool = False,
    check: bool = False,
    grace: float | None = None,
    verbose: bool = False,
) -> int:
    """Run the daemon until it is told to end; return its exit code. Every failure is one sentence on stderr."""
    logs.configure(verbose=verbose)
    flags = {
        "scheduler.dags_dir": dags_dir,
        "scheduler.shutdown_grace_s": grace,
        "database.dsn": database,
    }
    try:
        settings = _settings(flags, config, home, workers=workers, once=once, check=check)
        with settings.home.lock():
            settings.home.ensure()
            return trio.run(_main, settings, Notifier.from_environment())
    except ConfigError as error:
        return _fail(CONFIGURATION, f"configuration: {error}")
    except HomeInUse as error:
        return _fail(TEMPORARY, str(error))
    except (HomeError, PermissionError) as error:
        return _fail(PERMISSION, str(error))
    except KeyboardInterrupt:
        return 130


def _fail(code: int, message: str) -> int:
    logger.error("%s", message)
    return code


def _settings(
    flags: Mapping[str, Any],
    file: Path | None,
    home: Path | None,
    *,
    workers: int | None,
    once: bool,
    check: bool,
) -> Settings:
    """Raises ConfigError."""
    config = load_config(flags, None, file)
    dags_dir = config.scheduler.dags_dir
    if dags_dir is None:
        raise ConfigError(
            "scheduler.dags_dir", "name the directory of your DAG files: asyncsched run DIR (see: asyncsched init)"
        )
    if not dags_dir.is_dir():
        raise ConfigError("scheduler.dags_dir", f"there is no directory {dags_dir}")
    if workers is not None and workers not in (0, 1):
        raise ConfigError("--workers", "0 or 1: one worker process runs as many tasks at once as worker.slots says")
    return Settings(
        config=config,
        home=Home(home or default_home()),
        dags_dir=dags_dir.resolve(),
        with_worker=workers != 0,
        once=once,
        check=check,
    )


async def _main(settings: Settings, notifier: Notifier) -> int:
    """Serve until the end; turn what went wrong into an exit code and a sentence."""
    kill = settings.config.worker.kill_grace_s
    grace = settings.config.scheduler.shutdown_grace_s + kill + 15

    async def serve(shutdown: Shutdown) -> None:
        await _serve(settings, notifier, shutdown)

    try:
        ending = await run_until_stopped(serve, grace=grace)
    except Exception as raised:
        error = _first(raised)
        for kinds, code in FAILURES.items():
            if isinstance(error, kinds):
                return _end(notifier, code, error)
        logger.critical("a bug: the daemon stops", exc_info=raised)
        return _end(notifier, INTERNAL, error)
    logger.info("stopped")
    return CANCELLED if ending is Ending.CANCELLED else OK


FAILURES: dict[tuple[type[Exception], ...], int] = {
    (DatabaseRefused, SchemaMismatch): CONFIGURATION,
    (StoreUnavailable, PostgresError): UNAVAILABLE,
    (BudgetExhausted,): INTERNAL,
}
"""What the world may do to us, and the exit code for it; everything else is a bug."""


def _first(error: BaseException) -> BaseException:
    """The first leaf of a group of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _end(notifier: Notifier, code: int, error: BaseException) -> int:
    notifier.errno(1, exit_status=code)
    return _fail(code, str(error) or type(error).__name__)


@asynccontextmanager
async def _database(settings: Settings, notifier: Notifier) -> AsyncIterator[str]:
    """The address of a running database."""
    if settings.is_embedded:

        def tell(text: str) -> None:
            notifier.status(text)
            notifier.extend_timeout(30)  # a recovery may take longer than the service manager's patience

        async with embedded(settings.home, bindir=settings.config.database.bindir, on_status=tell) as dsn:
            yield dsn
    else:
        yield address(settings.config.database.dsn)


def address(dsn: str) -> str:
    """A DSN as the driver wants it: libpq's `sslmode` is its `ssl`."""
    rest = dsn.split("://", 1)[1]
    return "postgresql+asyncpg://" + rest.replace("sslmode=", "ssl=")


async def _prepare(settings: Settings, bridge: Bridge, dsn: str, notifier: Notifier) -> None:
    """Have the schema this version needs, or raise what says why not.

    The embedded database is migrated; on the user's own only an empty one is filled, the rest is asked for.
    """
    shown = hide_password(settings.config.database.dsn)
    status = await _patiently(lambda: migrate.check(bridge, dsn), shown, notifier)
    if status.is_current:
        return
    if not settings.is_embedded and status.current is not None:
        raise SchemaMismatch(
            f"the database's schema is {status.current}, this version needs {status.head}:"
            f" run `asyncsched db migrate --database {shown}`"
        )
    notifier.status("migrating")
    await migrate.upgrade(bridge, dsn)


async def _patiently(ask: Any, shown: str, notifier: Notifier) -> Any:
    """Wait for a database that is not there yet, for a minute; say so once. `shown`: its address, for people."""
    with trio.move_on_after(ANSWER_SECONDS):
        said = False
        while True:
            try:
                return await ask()
            except Weather as error:
                if not said:
                    logger.warning("waiting for the database %s: %s", shown, error)
                    notifier.status("waiting for the database")
                    said = True
                await trio.sleep(0.25)
    raise StoreUnavailable(
        f"the database {shown} did not answer for {ANSWER_SECONDS:.0f} s: is it running, and is its address right?"
    )


async def _serve(settings: Settings, notifier: Notifier, shutdown: Shutdown) -> None:
    """Open the database, then run the daemon on it. Asked to end before it runs: the start is given up at once."""
    config = settings.config
    switchboard = Switchboard()
    logger.info("asyncsched %s starts, home %s", version("asyncsched"), settings.home.path)
    async with trio.open_nursery() as nursery:
        starting = trio.CancelScope()

        async def give_up() -> None:
            with starting:
                await shutdown.requested.wait()
                nursery.cancel_scope.cancel()

        nursery.start_soon(give_up)
        async with open_bridge() as bridge, _database(settings, notifier) as dsn:
            await _prepare(settings, bridge, dsn, notifier)
            starting.cancel()  # from here on the daemon itself hears the request, and drains
            if settings.check:
                logger.info("configuration and database are in order")
                return
            async with open_store(
                bridge, dsn, connections=config.database.pool_size, poke=switchboard.poke, tell=logs.tell
            ) as store:
                daemon = Daemon(
                    settings=settings, notifier=notifier, store=store, switchboard=switchboard, bridge=bridge, dsn=dsn
                )
                await daemon.run(shutdown)


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

    def routines(self, parsing: trio.Nursery) -> list[Routine]:
        """The literal list. Each is a file in `routines/`."""
        config, store, graphs, executor = self.settings.config, self.store, self.graphs, self.executor
        home, dags_dir = self.settings.home, self.settings.dags_dir
        place = Place(daemon=self.seat.uuid, logs=home.logs, source_path=self.sources.path, dags_dir=dags_dir)
        pictures = Pictures()
        dispatch = Dispatch(store=store, executor=executor, place=place, sources=self.sources)
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
            CreateRuns(store=store, graphs=graphs),
            StartRuns(store=store, graphs=graphs),
            ScheduleTasks(store=store, graphs=graphs, pictures=pictures),
            EnqueueTasks(store=store, graphs=graphs, dispatch=dispatch),
            StartAttempts(store=store, graphs=graphs, executor=executor),
            RecordOutcomes(store=store, graphs=graphs, pictures=pictures, executor=executor, dispatch=dispatch),
            CancelAttempts(store=store, executor=executor),
            TimeOutRuns(store=store),
            Rescue(store=store, graphs=graphs, clock=self.clock),
            Heartbeat(store=store, executor=executor, clock=self.clock, seat=self.seat),
            WarmWorkers(
                store=store,
                executor=executor,
                sources=self.sources,
                dags_dir=dags_dir,
                at_most=config.worker.warm_parents,
            ),
            Prune(store=store, logs=home.logs, keep=timedelta(days=config.prune.keep_days)),
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
            commands=Commands(graphs=self.graphs),
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


if __name__ == "__main__":
    sys.exit(main())
