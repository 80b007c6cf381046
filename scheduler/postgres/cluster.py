"""The data directory, made so that a crash at any moment leaves none or a whole one."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import frozen

from nurseries.processes import Completed, run_to_end
from scheduler.postgres import settings
from scheduler.postgres.account import Account
from scheduler.postgres.errors import PostgresError
from scheduler.postgres.programs import Programs, server_environment

_SCRATCH = ".init-"
_INITDB_LIMIT_S = 300.0


@frozen(kw_only=True)
class Base:
    """The directory of the server's files, and the descriptor by which the server reaches it.

    The server may be another user, who need not be able to enter the directories above (root's home, a private
    temporary directory). So it is given the open directory and names its files /proc/self/fd/N/...; nobody's
    modes need to be changed for that.
    """

    path: Path
    descriptor: int

    def seen_by_server(self, name: str) -> str:
        """Return the path of a file as the server's processes name it."""
        return f"/proc/self/fd/{self.descriptor}/{name}"


@contextlib.contextmanager
def open_base(path: Path) -> Iterator[Base]:
    """Hold the directory open for the children that get its descriptor."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Base(path=path, descriptor=descriptor)
    finally:
        os.close(descriptor)


def data_owner(path: Path) -> int | None:
    """Return the uid that owns the files of an existing cluster below `path`, None if there is none yet."""
    for directory in _clusters(path).values():
        return directory.stat().st_uid
    return None


def _clusters(path: Path) -> dict[int, Path]:
    return {int(entry.name): entry for entry in path.iterdir() if entry.name.isdigit() and entry.is_dir()}


def _remove_leftovers(path: Path) -> None:
    """Remove what starts left that were killed. An initdb may still be dying; the next start does the rest."""
    for leftover in path.glob(f"{_SCRATCH}*"):
        shutil.rmtree(leftover, ignore_errors=True)


async def ensure_cluster(base: Base, programs: Programs, account: Account, on_status: Callable[[str], None]) -> str:
    """Return the name, below the base, of the data directory, making it if there is none.

    Call it while holding the lock of `base`. Raises PostgresError.
    """
    _remove_leftovers(base.path)
    found = _clusters(base.path)
    if programs.major in found:
        return str(programs.major)
    if found:
        raise PostgresError(
            f"the files in {base.path} were made by PostgreSQL {max(found)}, and these programs are version "
            f"{programs.major}: use programs of version {max(found)} (database.bindir) to read them"
        )
    on_status("making the PostgreSQL data directory")
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=base.path))
    try:
        if not account.is_us:
            os.chown(scratch, account.uid, account.gid)
        await _fill(base, scratch.name, programs, account)
        os.rename(scratch, base.path / str(programs.major))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    os.fsync(base.descriptor)
    return str(programs.major)


async def _fill(base: Base, name: str, programs: Programs, account: Account) -> None:
    async def run(*argv: str | Path, stdin: str = "") -> Completed:
        try:
            done = await run_to_end(
                argv,
                stdin=stdin.encode(),
                timeout=_INITDB_LIMIT_S,
                env=server_environment(),
                cwd="/",
                user=None if account.is_us else account.uid,
                pass_fds=(base.descriptor,),
            )
        except OSError as error:
            raise PostgresError(f"cannot run {argv[0]}: {error.strerror}") from error
        if done.returncode != 0:
            raise PostgresError(f"{argv[0]} failed while making {base.path}: {_last_words(done)}")
        return done

    data = base.seen_by_server(name)
    await run(programs.initdb, "-D", data, *settings.initdb_options(programs.major))
    # One statement a line; exit_on_error makes a failed one fail all.
    single: list[str | Path] = [
        programs.postgres,
        "--single",
        "-D",
        data,
        "-c",
        "exit_on_error=on",
        "-c",
        "log_checkpoints=off",
    ]
    await run(*single, settings.SUPERUSER, stdin=settings.first_statements(programs.major))
    await run(programs.initdb, "-D", data, "--sync-only")


def _last_words(done: Completed) -> str:
    if done.timed_out:
        return "it took too long"
    lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    return " / ".join(line.strip() for line in lines[-3:]) or f"exit code {done.returncode}"
