"""From a command line to a running daemon, and from its end to an exit code.

    home lock
     └ database          the embedded server, or the user's own; its schema
        └ store
           └ the daemon (`daemon.py`)

Every failure is one sentence on stderr and an exit code of sysexits.h.
"""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import trio

from nurseries.bridge import Bridge, open_bridge
from nurseries.errors import BudgetExhausted, Weather
from nurseries.notify import Notifier
from nurseries.shutdown import Ending, Shutdown, run_until_stopped
from nurseries.switchboard import Switchboard
from scheduler.config import ConfigError, hide_password, load_config
from scheduler.daemon import Daemon, Settings
from scheduler.home import Home, HomeError, HomeInUse, default_home
from scheduler.observe import logs
from scheduler.postgres import PostgresError, embedded
from scheduler.store import migrate
from scheduler.store.engine import open_store
from scheduler.store.errors import DatabaseRefused, SchemaMismatch, StoreUnavailable

logger = logging.getLogger(__name__)

OK, UNAVAILABLE, INTERNAL, TEMPORARY, PERMISSION, CONFIGURATION, CANCELLED = 0, 69, 70, 75, 77, 78, 130
"""Exit codes, as in sysexits.h; the last one after a second signal."""

ANSWER_SECONDS = 60.0
"""How long a start waits for a database that does not answer."""


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
