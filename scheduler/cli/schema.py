"""Which database `db` means, and how it is reached: by its address, through the daemon, or by starting it."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from nurseries.bridge import Bridge

T = TypeVar("T")


def look(home: Path | None, *, database: str | None, config: Path | None) -> dict[str, Any]:
    """The schema's state: {"current", "head", "is_current"}. Raises ControlError, ConfigError, store errors."""
    dsn, bindir = _configured(database, config)
    if dsn is not None:
        return _at(dsn, _check)
    seen = _from_daemon(home)
    return seen if seen is not None else _with_embedded(home, bindir, _check)


def upgrade(home: Path | None, *, database: str | None, config: Path | None) -> list[str]:
    """Migrate and return the revisions that were applied, oldest first. Raises what `look` does, and Failed."""
    from scheduler.cli.failures import CONFLICT, Failed

    dsn, bindir = _configured(database, config)
    if dsn is not None:
        return _at(dsn, _upgrade)
    seen = _from_daemon(home)
    if seen is None:
        return _with_embedded(home, bindir, _upgrade)
    if not seen["is_current"]:
        raise Failed(CONFLICT, "the daemon of this home is running: stop it, then migrate")
    return []


def _configured(database: str | None, config: Path | None) -> tuple[str | None, Path | None]:
    """The address of the user's own server, None for the embedded one; and whose programs that one uses."""
    from scheduler.config import load_config

    settings = load_config({"database.dsn": database}, file=config).database
    return (None if settings.dsn == "embedded" else settings.dsn), settings.bindir


def _from_daemon(home: Path | None) -> dict[str, Any] | None:
    """What the running daemon says of its database; None if there is no daemon."""
    from scheduler.cli.connection import connect
    from scheduler.control.protocol import Code, ControlError

    try:
        client = connect(home)
    except ControlError as error:
        if error.code is Code.UNREACHABLE:
            return None
        raise
    with client:
        return dict(client.call("db.check"))


async def _check(bridge: "Bridge", dsn: str) -> dict[str, Any]:
    from scheduler.store import migrate

    seen = await migrate.check(bridge, dsn)
    return {"current": seen.current, "head": seen.head, "is_current": seen.is_current}


async def _upgrade(bridge: "Bridge", dsn: str) -> list[str]:
    from scheduler.store import migrate

    return await migrate.upgrade(bridge, dsn)


def _at(dsn: str, work: Callable[["Bridge", str], Awaitable[T]]) -> T:
    """Do `work` with the database at `dsn`."""
    import trio

    from nurseries.bridge import open_bridge
    from scheduler.start import address

    async def main() -> T:
        async with open_bridge() as bridge:
            return await work(bridge, address(dsn))

    return trio.run(main)


def _with_embedded(home: Path | None, bindir: Path | None, work: Callable[["Bridge", str], Awaitable[T]]) -> T:
    """Start the home's embedded server, do `work` with its address, stop the server."""
    import trio

    from nurseries.bridge import open_bridge
    from scheduler.cli.connection import home_of
    from scheduler.cli.failures import UNREACHABLE, Failed, sole
    from scheduler.postgres import PostgresError, embedded

    place = home_of(home)

    async def main() -> T:
        async with embedded(place, bindir=bindir) as dsn, open_bridge() as bridge:
            return await work(bridge, dsn)

    with place.lock():
        place.ensure()
        try:
            return trio.run(main)
        except Exception as error:
            if isinstance(reason := sole(error), PostgresError):
                raise Failed(UNREACHABLE, str(reason)) from error
            raise
