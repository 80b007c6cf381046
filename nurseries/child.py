"""One child process: started, signalled, awaited, and never left behind.

Every child leads a session and process group of its own. A *kept* child runs under a keeper (`keeper.py`)
that ends it, with everything it started, if this process dies. A *held* child gets the read end of a pipe and
promises to watch it (`lifeline.py`); it may live on for a while to finish what it has.
"""

import grp
import logging
import marshal
import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import trio
from attrs import field, frozen
from attrs.validators import and_, ge, in_, lt

from nurseries import keeper
from nurseries.errors import ChildFailed
from nurseries.lifeline import VARIABLE as LIFELINE_VARIABLE

DEVNULL = subprocess.DEVNULL

_log = logging.getLogger("nurseries.processes")

_KEEPER = Path(__file__).with_name("keeper.py")
_START_LIMIT_S = 30.0
_KILL_LIMIT_S = 10.0
_GROUP_LIMIT_S = 2.0

_Identity: TypeAlias = tuple[int | None, int | None, list[int] | None]  # uid, gid, supplementary groups


@frozen(kw_only=True)
class ChildSpec:
    """How to start and end a child process.

    `stdin`, `stdout`, `stderr`: None inherits, an int is a file descriptor (or `DEVNULL`), which the caller
    may close once the child has started. `env=None` inherits the environment. `user` and `group` are names or
    ids. `stop_signal` goes to the child itself; after `stop_grace` seconds its whole group gets SIGKILL.
    `memory_limit` (bytes of address space) is for kept children only.
    """

    name: str
    argv: Sequence[str | os.PathLike[str]]
    env: Mapping[str, str] | None = field(default=None, repr=False)
    cwd: str | os.PathLike[str] | None = None
    user: str | int | None = None
    group: str | int | None = None
    umask: int | None = None
    pass_fds: Sequence[int] = ()
    stdin: int | None = DEVNULL
    stdout: int | None = None
    stderr: int | None = None
    stop_signal: int = signal.SIGTERM
    stop_grace: float = field(default=10.0, validator=and_(ge(0), lt(86400)))
    lifeline: Literal["held", "kept"] = field(default="kept", validator=in_(("held", "kept")))
    nice: int = 0
    memory_limit: int | None = None

    def __attrs_post_init__(self) -> None:
        if self.memory_limit is not None and self.lifeline != "kept":
            raise ValueError("only a kept child can have a memory limit")


class Child(Protocol):
    """A running child process, or what is known of it after its end."""

    @property
    def name(self) -> str:
        """The name from its spec."""
        ...

    @property
    def pid(self) -> int:
        """The process id of the program itself, also under a keeper.

        Signal it through here, not by number.
        """
        ...

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None until `wait` or `stop` has seen the end."""
        ...

    async def wait(self) -> int:
        """Return the exit code once the child has ended and its process group with it."""
        ...

    def send_signal(self, number: int) -> None:
        """Send a signal to the child itself. Nothing happens if it has ended."""
        ...

    def kill(self) -> None:
        """SIGKILL for the child and its group. Does not wait."""
        ...

    async def stop(self, *, grace: float | None = None) -> None:
        """End the child: its stop signal, SIGKILL to the group after `grace` seconds (default: the spec's).

        Shielded from cancellation, bounded by the grace and some seconds; does nothing if the child has
        ended.
        """
        ...


@asynccontextmanager
async def open_child(spec: ChildSpec) -> AsyncIterator[Child]:
    """A child process for as long as the block lasts; at the end it is stopped and nothing stays behind.

    That the child ends earlier does not end the block: wait for it. Raises `OSError` if the program cannot be
    started (not found, not allowed, no such directory), `ChildFailed` if its keeper cannot, `LookupError` for
    a user or group that does not exist.
    """
    start = _Kept.start if spec.lifeline == "kept" else _Held.start
    await trio.lowlevel.checkpoint_if_cancelled()
    with trio.CancelScope(shield=True):  # a half-started child could not be stopped
        child = await start(spec)
    _log.debug("%s: started as process %d", child.name, child.pid)
    try:
        yield child
    finally:
        await child.stop()


class _Process:
    """What kept and held children share: a process of ours, its pidfd, and the patience for its end."""

    def __init__(self, spec: ChildSpec, popen: "subprocess.Popen[bytes]") -> None:
        self._spec = spec
        self._popen = popen
        self._pidfd = _pidfd_of(popen)
        self._ending = trio.Lock()
        self.returncode: int | None = None

    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def pid(self) -> int:
        return self._popen.pid

    async def wait(self) -> int:
        if self.returncode is None:
            async with self._ending:
                if self.returncode is None:
                    await trio.lowlevel.wait_readable(self._pidfd)
                    with trio.CancelScope(shield=True):
                        await self._finish()
        assert self.returncode is not None
        return self.returncode

    async def stop(self, *, grace: float | None = None) -> None:
        if self.returncode is not None:
            return
        patience = self._spec.stop_grace if grace is None else grace
        with trio.CancelScope(shield=True):
            self._ask_to_stop(by_ourselves=grace is not None)
            with trio.move_on_after(patience):
                await self.wait()
            if self.returncode is None:
                _log.info("%s: still there after %g s, killing its process group", self.name, patience)
                self.kill()
                with trio.move_on_after(_KILL_LIMIT_S):
                    await self.wait()
            if self.returncode is None:
                await self._give_up()

    async def _finish(self) -> None:
        raise NotImplementedError

    def _ask_to_stop(self, *, by_ourselves: bool) -> None:
        """The polite part. `by_ourselves`: nobody but us shall lose patience."""
        raise NotImplementedError

    def kill(self) -> None:
        """SIGKILL for the child and its group."""
        raise NotImplementedError

    async def _give_up(self) -> None:
        _log.error("%s: process %d does not die, not even of SIGKILL; leaving it", self.name, self.pid)

    def __repr__(self) -> str:
        ended = "running" if self.returncode is None else f"ended with {self.returncode}"
        return f"<child {self.name}, process {self.pid}, {ended}>"


class _Held(_Process):
    """A direct child that watches the read end of a pipe."""

    def __init__(self, spec: ChildSpec, popen: "subprocess.Popen[bytes]", lifeline: int) -> None:
        super().__init__(spec, popen)
        self._lifeline = lifeline

    @classmethod
    async def start(cls, spec: ChildSpec) -> "_Held":
        """Start the program itself, with the lifeline's number in its environment."""
        identity = _identity(spec)
        theirs, ours = os.pipe()
        try:
            popen = await _popen(
                spec,
                [os.fspath(part) for part in spec.argv],
                pass_fds=(*spec.pass_fds, theirs),
                env={**(os.environ if spec.env is None else spec.env), LIFELINE_VARIABLE: str(theirs)},
                cwd=spec.cwd,
                identity=identity,
                umask=-1 if spec.umask is None else spec.umask,
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        if spec.nice:
            os.setpriority(os.PRIO_PROCESS, popen.pid, os.getpriority(os.PRIO_PROCESS, 0) + spec.nice)
        return cls(spec, popen, ours)

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        if self.returncode is None:  # not reaped, so the group is still ours
            _kill_group(self.pid)

    def _ask_to_stop(self, *, by_ourselves: bool) -> None:  # noqa: ARG002 - there is nobody else
        self.send_signal(self._spec.stop_signal)

    async def _finish(self) -> None:
        # The dead leader holds the group's number until it is reaped.
        _kill_group(self.pid)
        self.returncode = self._popen.wait()
        os.close(self._pidfd)
        os.close(self._lifeline)
        if not await _group_is_gone(self.pid):
            _log.error("%s: its process group %d does not die", self.name, self.pid)


class _Kept(_Process):
    """A child of a keeper. `_popen` is the keeper; what concerns the program goes over the lifeline."""

    def __init__(self, spec: ChildSpec, popen: "subprocess.Popen[bytes]", lifeline: socket.socket) -> None:
        super().__init__(spec, popen)
        self._lifeline = lifeline
        self._pid = 0

    @classmethod
    async def start(cls, spec: ChildSpec) -> "_Kept":
        """Start the keeper, give it the spec, and learn the program's process id or why there is none."""
        order = _order(spec, _identity(spec))
        ours, theirs = socket.socketpair()
        try:
            popen = await _popen(
                spec,
                [sys.executable, "-I", "-S", str(_KEEPER), str(theirs.fileno()), spec.name],
                pass_fds=(*spec.pass_fds, theirs.fileno()),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self = cls(spec, popen, ours)
        answer = b""
        with trio.move_on_after(_START_LIMIT_S):
            answer = await _ask(ours, order)
        what, number = answer[:1], int.from_bytes(answer[1:], "big", signed=True)
        if what == keeper.STARTED:
            self._pid = number
            return self
        # Closing the lifeline before there is a child, or after its end, ends the keeper.
        ours.close()
        if not answer:
            popen.kill()
        await trio.lowlevel.wait_readable(self._pidfd)
        popen.wait()
        os.close(self._pidfd)
        if what == keeper.FAILED:
            raise OSError(number, os.strerror(number), os.fspath(spec.argv[0]))
        raise ChildFailed(f"{spec.name}: its keeper ended with {popen.returncode} before it had started anything")

    @property
    def pid(self) -> int:
        return self._pid

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            self._say(number)

    def kill(self) -> None:
        # The keeper kills the rest of the group, and all that escaped from it, as soon as the leader is dead.
        self.send_signal(signal.SIGKILL)

    def _ask_to_stop(self, *, by_ourselves: bool) -> None:
        self._say(self._spec.stop_signal if by_ourselves else keeper.STOP)

    def _say(self, number: int) -> None:
        # Not a full buffer (it takes thousands of signals) but a keeper that is gone: `wait` will find out.
        with suppress(OSError):
            self._lifeline.send(bytes([number]))

    async def _finish(self) -> None:
        answer = b""
        with suppress(OSError):
            answer = self._lifeline.recv(5)
        self._popen.wait()
        if answer[:1] == keeper.EXITED:
            code = int.from_bytes(answer[1:], "big", signed=True)
        else:
            _log.error("%s: its keeper was killed, so its process group %d is, too", self.name, self._pid)
            _kill_group(self._pid)
            await _group_is_gone(self._pid)
            code = -signal.SIGKILL
        self.returncode = code
        self._lifeline.close()
        os.close(self._pidfd)

    async def _give_up(self) -> None:
        _kill_group(self._pid)
        self._popen.kill()
        with trio.move_on_after(_GROUP_LIMIT_S):
            await self.wait()
        if self.returncode is None:
            await super()._give_up()


def _pidfd_of(popen: "subprocess.Popen[bytes]") -> int:
    """A handle that can never mean another process:

    ours is not reaped yet, so its number is still its own.
    """
    try:
        return os.pidfd_open(popen.pid)
    except OSError:  # out of file descriptors: a child nobody can wait for must not be
        popen.kill()
        popen.wait()
        raise


async def _popen(
    spec: ChildSpec,
    argv: Sequence[str],
    *,
    pass_fds: Sequence[int],
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    identity: _Identity | None = None,
    umask: int = -1,
) -> "subprocess.Popen[bytes]":
    """Start a process in a session of its own. In a thread, since exec may wait for a disk."""
    uid, gid, groups = identity if identity is not None else (None, None, None)

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            argv,
            stdin=spec.stdin,
            stdout=spec.stdout,
            stderr=spec.stderr,
            pass_fds=pass_fds,
            env=env,
            cwd=cwd,
            user=uid,
            group=gid,
            extra_groups=groups,
            umask=umask,
            start_new_session=True,
        )

    return await trio.to_thread.run_sync(start)


async def _ask(lifeline: socket.socket, order: bytes) -> bytes:
    """Send the keeper its order; its five bytes of answer, or nothing if it is gone."""
    try:
        while order:
            await trio.lowlevel.wait_writable(lifeline)
            order = order[lifeline.send(order) :]
        await trio.lowlevel.wait_readable(lifeline)
        return lifeline.recv(5)
    except OSError:
        return b""


def _order(spec: ChildSpec, identity: _Identity | None) -> bytes:
    env = os.environ if spec.env is None else spec.env
    data = marshal.dumps(
        {
            "argv": [os.fspath(part) for part in spec.argv],
            "env": dict(env),
            "cwd": None if spec.cwd is None else os.fspath(spec.cwd),
            "identity": identity,
            "umask": spec.umask,
            "nice": spec.nice,
            "memory_limit": spec.memory_limit,
            "stop_signal": int(spec.stop_signal),
            "stop_grace": float(spec.stop_grace),
        }
    )
    return len(data).to_bytes(4, "big") + data


def _identity(spec: ChildSpec) -> _Identity | None:
    """Who the child shall be: uid, gid, supplementary groups; None to stay who we are."""
    uid = gid = groups = None
    if spec.user is not None:
        entry = pwd.getpwnam(spec.user) if isinstance(spec.user, str) else _user_of(spec.user)
        uid = entry.pw_uid if entry is not None else int(spec.user)
        gid = entry.pw_gid if entry is not None else None
        groups = os.getgrouplist(entry.pw_name, entry.pw_gid) if entry is not None else []
    if spec.group is not None:
        gid = grp.getgrnam(spec.group).gr_gid if isinstance(spec.group, str) else spec.group
    if uid in (None, os.geteuid()) and gid in (None, os.getegid()):
        return None
    if os.geteuid() != 0:
        groups = None  # only root may choose them; the change itself is refused by the kernel, with its own words
    return uid, gid, groups


def _user_of(uid: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


async def _group_is_gone(group: int) -> bool:
    """Wait, for a bounded time, until a killed process group has no living member."""
    pause = 0.0005
    with trio.move_on_after(_GROUP_LIMIT_S):
        while _has_living_member(group):
            await trio.sleep(pause)
            pause = min(pause * 2, 0.05)
        return True
    return False


def _has_living_member(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # Somebody is there, perhaps only zombies that their new parent has not reaped yet.
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:
                state, _, of_group, *_ = stat.read().rpartition(b")")[2].split()
                if int(of_group) == group and state not in (b"Z", b"X"):
                    return True
    return False
