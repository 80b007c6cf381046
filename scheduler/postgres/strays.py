"""Servers that a killed daemon left behind on our data directory.

Usually the keeper is already stopping them; then this only waits. What the server's own file `postmaster.pid`
says is a hint: the number may have been given to another process since. The fact is which processes have the
data directory as their working directory, as all of PostgreSQL's do.
"""

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import trio
from attrs import frozen

from scheduler.postgres.errors import PostgresError, PostgresInUse

_log = logging.getLogger(__name__)

# How long each signal to the postmaster may take: fast, immediate, by force.
_ESCALATION = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
# Backends notice within moments that their postmaster is gone.
_ORPHAN_GRACE_S = 5.0


@frozen(kw_only=True)
class _Process:
    pid: int
    argv: tuple[str, ...]


def read_pid_file(data: Path) -> tuple[int, bool] | None:
    """Return (pid, whether it accepts connections) from postmaster.pid, None if there is no usable file."""
    try:
        # The directory may belong to another user: what is no plain file is not followed and not waited for.
        descriptor = os.open(data / "postmaster.pid", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            lines = os.read(descriptor, 4096).decode(errors="replace").splitlines()
        finally:
            os.close(descriptor)
    except OSError:
        return None
    if not lines or not lines[0].strip().isdigit():
        return None
    return int(lines[0]), len(lines) >= 8 and lines[7].strip() == "ready"


async def stop_strays(data: Path, *, marker: str) -> None:
    """Stop what is left of our own earlier server on `data`.

    A postmaster is ours when `marker` is one of its arguments. Raises PostgresInUse when somebody else's runs
    on the directory, PostgresError when a process does not die.
    """
    noted = read_pid_file(data)
    here = {process.pid: process for process in _servers(data)}
    postmaster = here.get(noted[0]) if noted else None
    if postmaster is not None:
        if marker not in postmaster.argv:
            raise PostgresInUse(
                data, postmaster.pid, f"stop that server (pg_ctl stop -D {data}), or choose another home"
            )
        _log.warning("stopping PostgreSQL (process %d), left behind by a daemon that was killed", postmaster.pid)
        await _stop(postmaster.pid)
    for orphan in _servers(data):
        await _await_end(orphan.pid)


def forget_dead(data: Path, socket: Path) -> None:
    """Remove lock files of servers that are gone: postmaster.pid and the socket's.

    PostgreSQL would refuse to start when the number in them means something else now, or a zombie that nobody
    reaps: for it a number that exists is a server. In a container both are common. Nothing happens while any
    server process works in `data`; and postmaster.pid stays when PostgreSQL itself can tell.
    """
    noted = read_pid_file(data)
    if any(_servers(data)):
        return
    dead = [socket / ".s.PGSQL.5432", socket / ".s.PGSQL.5432.lock"]
    if noted and os.path.exists(f"/proc/{noted[0]}"):
        dead.append(data / "postmaster.pid")
    for path in dead:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _servers(data: Path) -> Iterator[_Process]:
    """Yield the PostgreSQL processes that work in `data`, of its owner only."""
    wanted = data.stat()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if entry.stat().st_uid != wanted.st_uid:
                continue
            there = os.stat(f"/proc/{entry.name}/cwd")
            if (there.st_dev, there.st_ino) != (wanted.st_dev, wanted.st_ino):
                continue
            # A shell that stands in the directory is not a server.
            if Path(os.readlink(f"/proc/{entry.name}/exe").removesuffix(" (deleted)")).name != "postgres":
                continue
            argv = Path(f"/proc/{entry.name}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            yield _Process(pid=int(entry.name), argv=tuple(os.fsdecode(part) for part in argv))


async def _stop(pid: int) -> None:
    with _pidfd(pid) as handle:
        if handle is None:
            return
        for number, patience in _ESCALATION:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
            with trio.move_on_after(patience):
                await trio.lowlevel.wait_readable(handle)
                return
    raise PostgresError(f"PostgreSQL (process {pid}), left behind by an earlier daemon, does not die")


async def _await_end(pid: int) -> None:
    """Wait for a backend that lost its postmaster; a server that started meanwhile would damage the data."""
    with _pidfd(pid) as handle:
        if handle is None:
            return
        with trio.move_on_after(_ORPHAN_GRACE_S):
            await trio.lowlevel.wait_readable(handle)
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        with trio.move_on_after(_ORPHAN_GRACE_S):
            await trio.lowlevel.wait_readable(handle)
            return
    raise PostgresError(f"a process of an earlier PostgreSQL ({pid}) does not die")


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int | None]:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)
