"""One PostgreSQL server for as long as a block lasts, restarted when it dies."""

import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import trio
from attrs import define, field

from nurseries.errors import BudgetExhausted, ChildFailed
from nurseries.processes import Budget, Child, ChildSpec, keep_running
from scheduler.home import Home, hold_lock
from scheduler.postgres import settings
from scheduler.postgres.account import Account, own_account, server_account
from scheduler.postgres.cluster import Base, data_owner, ensure_cluster, open_base
from scheduler.postgres.errors import PostgresError, PostgresInUse
from scheduler.postgres.programs import Programs, find_programs, server_environment
from scheduler.postgres.strays import forget_dead, read_pid_file, stop_strays

# A crash of one backend restarts the server from within; here it is the postmaster itself that died.
_BUDGET = Budget(restarts=5, seconds=60.0, backoff_min_s=0.1, backoff_max_s=5.0)
# A fast stop ends with a checkpoint, which may take a while on a slow disk.
_STOP_GRACE_S = 60.0
_READY_POLL_S = 0.005
_STATUS_EVERY_S = 5.0
_LOG_LIMIT_BYTES = 10 * 1024 * 1024
_LOG_CHECK_S = 60.0
# As log_line_prefix has it: time, [process], severity, text.
_LOG_LINE = re.compile(r"[^\[]*\[(\d+)\][^:]*:\s*(.*)")


def _silent(_status: str) -> None:
    pass


@asynccontextmanager
async def embedded(
    home: Home,
    *,
    bindir: Path | None = None,
    on_status: Callable[[str], None] = _silent,
    budget: Budget = _BUDGET,
) -> AsyncIterator[str]:
    """Run the embedded server while the block lasts; yield the address of its database.

    The server listens on a Unix socket only and knows its clients by their uid (peer). It is started again
    when it dies, within `budget`. At the end it is stopped (fast), whatever ended the block. `on_status` hears
    about phases, and every five seconds while one lasts.

    `bindir` names other programs than the wheel's. Raises PostgresInUse when another daemon or server has the
    data directory, PostgresError with a sentence for everything else that keeps the server from running; also
    in the middle of the block (it is cancelled then) when the budget is spent.
    """
    if not home.postgres.is_dir():
        home.ensure()
    us = own_account()
    with (
        hold_lock(home.postgres / "lock", lambda pid: PostgresInUse(home.postgres, pid, "stop that daemon first")),
        open_base(home.postgres) as base,
    ):
        on_status("starting PostgreSQL")
        account = server_account(data_owner(base.path))
        programs = await find_programs(bindir, account)
        name = await ensure_cluster(base, programs, account, on_status)
        marker = f"asyncsched.home={_printable(home.path)}"
        await stop_strays(base.path / name, marker=marker)
        _write_configuration(base, programs, us)
        address = _prepare_socket(home, base, account)
        server = _Server(base=base, data=base.path / name, on_status=on_status)
        with server.open_log() as log:
            spec = _spec(base, name, programs, account, marker, log)
            async with _unwrapped(), trio.open_nursery() as nursery:
                nursery.start_soon(server.keep, spec, budget)
                nursery.start_soon(server.announce)
                nursery.start_soon(server.trim_log)
                await server.wait_ready()
                yield address
                nursery.cancel_scope.cancel()


def _printable(path: Path) -> str:
    """The path as it can stand in a setting: shown by ps, so that people see whose server it is."""
    return ascii(str(path))[1:-1]


def _write_configuration(base: Base, programs: Programs, us: Account) -> None:
    libraries = [name for name in ("pg_stat_statements", "auto_explain") if programs.has_library(name)]
    for name, text in (
        ("postgresql.conf", settings.server_configuration(programs.major, libraries)),
        ("pg_hba.conf", settings.access_rules()),
        ("pg_ident.conf", settings.access_names(us.name)),
    ):
        # Beside the data directory, which belongs to the server's user: nothing is written there by root.
        scratch = base.path / f".{name}"
        scratch.write_text(text, encoding="utf-8")
        scratch.chmod(0o644)
        scratch.replace(base.path / name)

    # Made once, so that people find it; what they write into it stays.
    local = base.path / settings.LOCAL_FILE
    with contextlib.suppress(FileExistsError), local.open("x", encoding="utf-8") as stream:
        stream.write(settings.LOCAL_TEXT)
        local.chmod(0o644)


def _prepare_socket(home: Home, base: Base, account: Account) -> str:
    """Make the socket's directory, and the short way to it for clients; return the database's address."""
    directory = base.path / "socket"
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    if not account.is_us:
        os.chown(directory, account.uid, account.gid)
    link = home.run / "postgres"
    scratch = home.run / f".postgres.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        scratch.unlink()
    scratch.symlink_to(directory)
    scratch.replace(link)
    return f"postgresql+asyncpg://{settings.ROLE}@/{settings.DATABASE}?host={quote(str(link), safe='/')}"


def _spec(base: Base, data: str, programs: Programs, account: Account, marker: str, log: int) -> ChildSpec:
    argv = [str(programs.postgres), "-D", base.seen_by_server(data)]
    for option in (
        *settings.FIXED,
        f"config_file={base.seen_by_server('postgresql.conf')}",
        f"hba_file={base.seen_by_server('pg_hba.conf')}",
        f"ident_file={base.seen_by_server('pg_ident.conf')}",
        f"unix_socket_directories={base.seen_by_server('socket')}",
        marker,
    ):
        argv += ["-c", option]
    return ChildSpec(
        name="postgres",
        argv=argv,
        env=server_environment(),
        cwd="/",
        user=None if account.is_us else account.uid,
        umask=0o077,
        pass_fds=(base.descriptor,),
        stdout=log,
        stderr=log,
        stop_signal=signal.SIGINT,
        stop_grace=_STOP_GRACE_S,
    )


@define
class _Server:
    """What is known of the running server."""

    base: Base
    data: Path
    on_status: Callable[[str], None]
    _child: Child | None = None
    _ended: trio.Event = field(factory=trio.Event)

    async def keep(self, spec: ChildSpec, budget: Budget) -> None:
        """Keep the server running. Raises PostgresError when it does not start or dies too often."""

        def next_start() -> ChildSpec:
            forget_dead(self.data, self.base.path / "socket")
            return spec

        try:
            await keep_running(next_start, budget=budget, on_start=self._note_start, on_exit=self._note_exit)
        except BudgetExhausted as error:
            raise PostgresError(f"PostgreSQL does not stay up: {self.last_words()}") from error
        except (ChildFailed, OSError) as error:
            raise PostgresError(f"cannot start {spec.argv[0]}: {error}") from error

    def _note_start(self, child: Child) -> None:
        self._child = child

    def _note_exit(self, _child: Child, _code: int) -> None:
        self._child = None
        self._ended.set()

    def is_ready(self) -> bool:
        noted = read_pid_file(self.data)
        return noted is not None and self._child is not None and noted == (self._child.pid, True)

    async def wait_ready(self) -> None:
        """Wait until connections are accepted. However long recovery takes: a server that fails, ends."""
        next_status = trio.current_time() + _STATUS_EVERY_S
        while not self.is_ready():
            await trio.sleep(_READY_POLL_S)
            if trio.current_time() >= next_status:
                self.on_status("PostgreSQL is recovering")
                next_status += _STATUS_EVERY_S

    async def announce(self) -> None:
        """Say when the server has died, and when it is back."""
        while True:
            await self._ended.wait()
            self._ended = trio.Event()
            self.on_status("PostgreSQL died, starting it again")
            await self.wait_ready()
            self.on_status("PostgreSQL is back")

    @property
    def log_path(self) -> Path:
        return self.base.path / "server.log"

    @contextlib.contextmanager
    def open_log(self) -> Iterator[int]:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.log_path, flags, 0o640)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    async def trim_log(self) -> None:
        """Keep the log bounded: when it is too long, it becomes server.log.1 and starts anew."""
        while True:
            with contextlib.suppress(OSError):
                if self.log_path.stat().st_size > _LOG_LIMIT_BYTES:
                    await trio.to_thread.run_sync(self._rotate_log)
            await trio.sleep(_LOG_CHECK_S)

    def _rotate_log(self) -> None:
        # The server holds the file open, so its text is copied and the file emptied.
        self.log_path.with_suffix(".log.1").write_bytes(self.log_path.read_bytes())
        os.truncate(self.log_path, 0)

    def last_words(self) -> str:
        """Return what the last server that was started said at the end, with paths as people know them."""
        try:
            with self.log_path.open("rb") as stream:
                stream.seek(max(0, self.log_path.stat().st_size - 4096))
                lines = stream.read().decode(errors="replace").splitlines()
        except OSError:
            return f"see {self.log_path}"
        said = [match.groups() for line in lines if (match := _LOG_LINE.match(line))]
        words = [text for pid, text in said if pid == said[-1][0]][-3:]
        shown = " / ".join(words).replace(self.base.seen_by_server(""), f"{self.base.path}/")
        return shown or f"see {self.log_path}"


@asynccontextmanager
async def _unwrapped() -> AsyncIterator[None]:
    """Let the one thing that went wrong out of the nursery's group, as if there were no nursery."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        only = group.exceptions[0]
        raise only from only.__cause__
