"""The home directory: where one daemon keeps its state, and how clients find its sockets.

    home/            0700; 0711 for root, since PostgreSQL and task users must be able to enter it
      lock           held by the living daemon, with its pid inside
      postgres/      the embedded server, one directory for each major version
      run/           sockets; a symbolic link when they live elsewhere (see `Home.run`)
      logs/          one file for each attempt
      sources/       pinned copies of DAG files: <sha256>/<basename>
      worker/        outcomes that no daemon has acknowledged yet

Light on purpose: the command line imports it before anything else.
"""

import contextlib
import errno
import fcntl
import grp
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from attrs import field, frozen

SYSTEM_HOME = Path("/var/lib/asyncsched")
SYSTEM_RUN = Path("/run/asyncsched")

# sun_path holds 108 bytes, the last one a NUL.
_SOCKET_PATH_LIMIT = 107
# What must fit behind the run directory; asyncpg and libpq put the last one together themselves.
_LONGEST_SOCKET = "/postgres/.s.PGSQL.5432"


class HomeError(Exception):
    """The home directory cannot be used; the message is a sentence for people."""


class HomeInUse(HomeError):
    """Another living daemon has this home; `pid` is None when it could not be read."""

    def __init__(self, path: Path, pid: int | None) -> None:
        self.path = path
        self.pid = pid
        who = f"process {pid}" if pid is not None else "another process"
        super().__init__(
            f"the home directory {path} is in use by {who}: stop that daemon, or choose another directory with --home"
        )


def default_home(environ: Mapping[str, str] | None = None) -> Path:
    """Return the home directory to use when none was named.

    In this order: $ASYNCSCHED_HOME, $STATE_DIRECTORY (set by systemd), /var/lib/asyncsched for root,
    $XDG_STATE_HOME/asyncsched, ~/.local/state/asyncsched. Nothing is created. Raises HomeError when not
    even the user's own directory is known.
    """
    environ = os.environ if environ is None else environ
    if named := environ.get("ASYNCSCHED_HOME"):
        return Path(named).absolute()
    if state := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        return Path(state)
    if os.geteuid() == 0:
        return SYSTEM_HOME
    xdg = environ.get("XDG_STATE_HOME", "")
    # The XDG specification says that a relative path is to be ignored.
    if xdg.startswith("/"):
        return Path(xdg) / "asyncsched"
    own = environ.get("HOME") or os.path.expanduser("~")
    if not own.startswith("/"):
        raise HomeError("this user has no home directory: name a directory for the daemon with --home")
    return Path(own) / ".local" / "state" / "asyncsched"


def _absolute(path: Path | str) -> Path:
    return Path(path).expanduser().absolute()


@frozen
class Home:
    """The paths inside one home directory. Making a `Home` touches nothing; `ensure` creates."""

    path: Path = field(converter=_absolute)

    @property
    def postgres(self) -> Path:
        """Root of the embedded server's files."""
        return self.path / "postgres"

    @property
    def run(self) -> Path:
        """The directory of the sockets.

        Usually home/run. Elsewhere when a socket's path would exceed what the kernel takes (107 bytes) or
        systemd provides a runtime directory; home/run is then a symbolic link to it. Clients must use the
        target, since a path through the link would be too long again, so this property resolves it.
        """
        own = self.path / "run"
        try:
            return Path(os.readlink(own))
        except PermissionError:
            # A member of the service's group may use its sockets without entering its home.
            return SYSTEM_RUN if self.path == SYSTEM_HOME else own
        except OSError:
            return own

    @property
    def control_socket(self) -> Path:
        """Where the daemon answers the command line."""
        return self.run / "control.sock"

    @property
    def worker_socket(self) -> Path:
        """Where the daemon takes workers."""
        return self.run / "worker.sock"

    @property
    def logs(self) -> Path:
        """Log files of attempts."""
        return self.path / "logs"

    @property
    def sources(self) -> Path:
        """Pinned copies of DAG files, sources/<sha256>/<basename>."""
        return self.path / "sources"

    @property
    def worker(self) -> Path:
        """The worker's spool of unacknowledged outcomes."""
        return self.path / "worker"

    @property
    def lock_file(self) -> Path:
        """The file whose lock the living daemon holds."""
        return self.path / "lock"

    def ensure(self, environ: Mapping[str, str] | None = None) -> None:
        """Create what is missing, with the right modes. Modes of what exists are left alone.

        Call it while holding `lock`: it may move the directory of the sockets.
        Raises HomeError when a directory cannot be made or belongs to somebody else.
        """
        environ = os.environ if environ is None else environ
        self._ensure_root()
        for directory in (self.postgres, self.logs, self.sources, self.worker):
            _make(directory, 0o711 if os.geteuid() == 0 else 0o700)
        self._ensure_run(environ)

    def _ensure_root(self) -> None:
        _make(self.path, 0o711 if os.geteuid() == 0 else 0o700, parents=True)
        owner = self.path.stat().st_uid
        if owner != os.geteuid():
            raise HomeError(
                f"the home directory {self.path} belongs to uid {owner}, and this is uid {os.geteuid()}: "
                "run the daemon as its owner, or choose another directory with --home"
            )

    def _ensure_run(self, environ: Mapping[str, str]) -> None:
        own = self.path / "run"
        wanted = self._wanted_run(environ)
        if wanted == own:
            if own.is_symlink():  # a former start needed another place
                own.unlink()
            _make(own, 0o750)
            _share(own)
            return
        _make(wanted, 0o750, parents=True)
        _check_private(wanted)
        _share(wanted)
        if own.is_symlink() and Path(os.readlink(own)) == wanted:
            return
        if own.is_dir() and not own.is_symlink():
            # Left by a start that had room; it can hold only sockets of a daemon that is gone.
            shutil.rmtree(own)
        # By rename, so that a client that looks meanwhile finds the old answer or the new one.
        link = self.path / f"run.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            link.unlink()
        link.symlink_to(wanted)
        link.replace(own)

    def _wanted_run(self, environ: Mapping[str, str]) -> Path:
        runtime = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
        if runtime and environ.get("STATE_DIRECTORY", "").split(":")[0] == str(self.path):
            return Path(runtime)
        own = self.path / "run"
        if len(os.fsencode(own)) + len(_LONGEST_SOCKET) <= _SOCKET_PATH_LIMIT:
            return own
        short = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]
        if os.geteuid() == 0:
            return Path(f"/run/asyncsched-{short}")
        xdg = environ.get("XDG_RUNTIME_DIR", "")
        if xdg.startswith("/") and len(xdg) < 50 and os.access(xdg, os.W_OK):
            return Path(xdg) / f"asyncsched-{short}"
        return Path(f"/tmp/asyncsched-{os.geteuid()}-{short}")  # noqa: S108 - its owner is checked

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the home for as long as the context lasts; the kernel gives it up when the process dies.

        Makes the directory itself when it is missing. Raises HomeInUse when another process holds it,
        HomeError when it cannot be used at all.
        """
        self._ensure_root()
        with hold_lock(self.lock_file, lambda pid: HomeInUse(self.path, pid)):
            yield


@contextlib.contextmanager
def hold_lock(path: Path, in_use: Callable[[int | None], HomeError]) -> Iterator[None]:
    """Hold the lock of the file `path`, made if missing, for as long as the context lasts.

    Raises what `in_use` makes of the holder's pid when somebody else has it, HomeError when the file cannot
    be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise HomeError(f"cannot open {path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise in_use(_read_pid(descriptor)) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            # Emptied and not removed: a second file under the same name would be a second lock.
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _read_pid(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _share(directory: Path) -> None:
    """Let the members of the group asyncsched, where there is one, reach the sockets in `directory`."""
    with contextlib.suppress(KeyError, PermissionError):
        os.chown(directory, -1, grp.getgrnam("asyncsched").gr_gid)


def _make(path: Path, mode: int, *, parents: bool = False) -> None:
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode)
    except FileExistsError:
        if not path.is_dir():
            raise HomeError(f"{path} exists and is not a directory") from None
        return
    except OSError as error:
        hint = ": choose another directory with --home" if error.errno in (errno.EACCES, errno.EROFS) else ""
        raise HomeError(f"cannot create the directory {path} ({error.strerror}){hint}") from error
    path.chmod(mode)  # whatever the umask took away


def _check_private(path: Path) -> None:
    """A directory at a predictable place may have been laid there by somebody else."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise HomeError(
            f"the directory {path} for the sockets is not this user's own: remove it, or choose a shorter --home"
        )
