"""The worker's side of zygote and warm parents: which are alive, and processes forked from them for attempts."""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable

import trio
from attrs import define, field, frozen

from scheduler.executors.channel import Channel

log = logging.getLogger(__name__)

_MESSAGE = 4096
_TAIL_BYTES = 64 * 1024
_STATUS_SECONDS = 2.0
_SPARE_SECONDS = 60.0
_STABLE_SECONDS = 10.0
_UNCLAIMED = 64
_PAUSE_SECONDS = (0.1, 5.0)


@frozen
class SourceKey:
    """Attempts with the same key share a parent."""

    file: str
    path: str
    sha256: str


def _nobody() -> None:
    """Nobody listens yet."""


@define(eq=False, kw_only=True)
class Cradle:
    """One process forked, or about to be, for one attempt; it waits for its job."""

    parent: "Parent"
    number: int
    channel: Channel
    output: int
    """Read end of the log pipe."""
    pid: int = 0
    """0 until forked."""
    exit_code: int | None = None
    """Set when it has been reaped and its group killed."""
    import_failure: str | None = None
    """Why the DAG file could not be imported."""
    orphaned: str | None = None
    """Why nobody will report its exit: its parent is gone, or could not fork it."""
    on_news: Callable[[], None] = _nobody

    @property
    def is_over(self) -> bool:
        """No more news will come."""
        return self.exit_code is not None or self.import_failure is not None or self.orphaned is not None

    def close(self) -> None:
        """Give the descriptors back; a process that still waits for its job leaves."""
        self.channel.close()
        if self.output >= 0:
            os.close(self.output)
            self.output = -1


class Parent:
    """One warm parent, from the request for it until its end."""

    def __init__(self, key: SourceKey, control: socket.socket, output: int, on_pid: Callable[["Parent"], None]) -> None:
        self.key = key
        self._on_pid = on_pid
        self.pid = 0
        self.is_ready = False
        self.is_gone = False
        self.used_at = trio.current_time()
        self.import_failure: str | None = None
        self.exit_code: int | None = None
        self.exited = trio.Event()
        self.tail = bytearray()
        self.cradles: dict[int, Cradle] = {}
        self.spare: Cradle | None = None
        self._control = control
        self._output = output
        self._requests: deque[tuple[bytes, tuple[int, int]]] = deque()
        self._next = 0

    @property
    def is_idle(self) -> bool:
        """No attempt lives or is being prepared here."""
        return not self.cradles or (len(self.cradles) == 1 and self.spare is not None)

    # ---- cradles

    def take(self) -> Cradle:
        """A process for an attempt: the spare one, or one that is being forked."""
        self.used_at = trio.current_time()
        cradle, self.spare = self.spare, None
        return self._fork() if cradle is None else cradle

    def replenish(self) -> None:
        """Have a spare process forked, so that the next attempt need not wait for it."""
        if self.spare is None and not self.is_gone and self.is_ready:
            self.spare = self._fork()

    def drop_spare(self) -> None:
        """Its descriptors closed, the process leaves, and its exit is reported like any other."""
        if self.spare is not None:
            self.spare.close()
            self.spare = None

    def _fork(self) -> Cradle:
        self._next += 1
        ours, theirs = socket.socketpair()
        output, log_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(output, False)
        cradle = Cradle(parent=self, number=self._next, channel=Channel(ours), output=output)
        self.cradles[cradle.number] = cradle
        self._requests.append((str(cradle.number).encode(), (theirs.detach(), log_end)))
        self._flush()
        return cradle

    def _flush(self) -> bool:
        """Send what the kernel takes; True when nothing is left."""
        while self._requests:
            data, fds = self._requests[0]
            try:
                socket.send_fds(self._control, [data], fds, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            except OSError:
                pass  # it is gone, as the reader will see
            self._requests.popleft()
            for fd in fds:
                os.close(fd)
        return True

    # ---- its life

    async def attend(self, *, import_timeout: float) -> None:
        """Listen to it until it is gone, then tell everybody who waits for it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._collect_output)
            nursery.start_soon(self._limit_import, import_timeout)
            while (message := await self._receive()) is not None:
                self._hear(message)
            self.is_gone = True
            if self.pid and self.import_failure is None:
                with trio.move_on_after(_STATUS_SECONDS):
                    await self.exited.wait()
            nursery.cancel_scope.cancel()
        self._end()

    async def _receive(self) -> str | None:
        while True:
            try:
                data = self._control.recv(_MESSAGE)
            except BlockingIOError:
                if self._requests:
                    await self._readable_or_writable()
                    self._flush()
                else:
                    await trio.lowlevel.wait_readable(self._control.fileno())
                continue
            except ConnectionResetError:
                continue  # it left with requests unread; what it said before comes after this, once
            except OSError:
                return None
            return data.decode() if data else None

    async def _readable_or_writable(self) -> None:
        async with trio.open_nursery() as nursery:

            async def wait(wait_one: Callable[..., object]) -> None:
                await wait_one(self._control.fileno())  # type: ignore[misc]
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait, trio.lowlevel.wait_readable)
            nursery.start_soon(wait, trio.lowlevel.wait_writable)

    def _hear(self, message: str) -> None:
        word, _, rest = message.partition(" ")
        match word:
            case "pid":
                self.pid = int(rest)
                self._on_pid(self)
            case "ready":
                self.is_ready = True
            case "failed":
                self.import_failure = rest
            case "forked":
                number, pid = rest.split()
                cradle = self.cradles[int(number)]
                cradle.pid = int(pid)
                cradle.on_news()
            case "unforked":
                number, _, why = rest.partition(" ")
                cradle = self.cradles.pop(int(number))
                cradle.orphaned = f"its process could not be forked: {why}"
                self._tell(cradle)
            case "exit":
                number, code = rest.split()
                cradle = self.cradles.pop(int(number))
                cradle.exit_code = int(code)
                self._tell(cradle)
            case _:
                raise AssertionError(f"a warm parent said {message!r}")

    def _tell(self, cradle: Cradle) -> None:
        if cradle is self.spare:
            self.drop_spare()
        cradle.on_news()

    async def _collect_output(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._output)
            if not self._read_output():
                return

    def _read_output(self) -> bool:
        try:
            data = os.read(self._output, 65536)
        except BlockingIOError:
            return False
        self.tail += data
        del self.tail[:-_TAIL_BYTES]
        return bool(data)

    async def _limit_import(self, seconds: float) -> None:
        await trio.sleep(seconds)
        if not self.is_ready and self.import_failure is None:
            self.import_failure = f"it was not imported after {seconds:g} s"
            self.kill()

    def kill(self) -> None:
        """SIGKILL to its group."""
        if self.pid and not self.is_gone:
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)

    def hang_up(self) -> None:
        """It ends, and everything it has forked."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)

    def _end(self) -> None:
        while self._read_output():
            pass
        os.close(self._output)
        self._control.close()
        for _, fds in self._requests:
            for fd in fds:
                os.close(fd)
        self._requests.clear()
        failure = self.import_failure
        if failure is None and self.pid and not self.is_ready:
            failure = f"importing it ended the process: {_describe_end(self.exit_code)}"
        self.drop_spare()
        for cradle in list(self.cradles.values()):
            if failure is not None:
                cradle.import_failure = failure
            elif self.pid:
                cradle.orphaned = f"its parent process is gone: {_describe_end(self.exit_code)}"
            else:
                cradle.orphaned = "its parent process could not be started: the zygote has died"
            cradle.on_news()
        self.cradles.clear()


def _describe_end(code: int | None) -> str:
    if code is None:
        return "nobody saw how"
    if code >= 0:
        return f"status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


@define(eq=False, kw_only=True)
class ParentPool:
    """At most about `limit` idle warm parents, the least recently used leave first."""

    limit: int
    kill_grace: float
    import_timeout: float
    _nursery: trio.Nursery | None = None
    _parents: dict[SourceKey, Parent] = field(factory=dict)
    _all: set[Parent] = field(factory=set)
    _zygote: socket.socket | None = None
    _zygote_process: "subprocess.Popen[bytes] | None" = None
    _zygote_exited: trio.Event = field(factory=trio.Event)
    _waiting: list[tuple[bytes, tuple[int, int]]] = field(factory=list)
    _wanted: frozenset[SourceKey] = frozenset()
    _is_ending: bool = False
    _unclaimed: dict[int, int] = field(factory=dict)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a zygote until cancelled; when it dies, its warm parents live on and a new one is started."""
        pause = _PAUSE_SECONDS[0]
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._reap)
            while True:
                self._start_zygote()
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                began = trio.current_time()
                await self._attend_zygote()
                if self._is_ending:
                    return
                log.warning("the zygote is gone; another is started")
                pause = _PAUSE_SECONDS[0] if trio.current_time() - began > _STABLE_SECONDS else pause * 2
                await trio.sleep(min(pause, _PAUSE_SECONDS[1]))

    # ---- parents

    def take(self, key: SourceKey) -> Cradle:
        """A process for an attempt of this source."""
        return self._parent(key).take()

    def warm(self, keys: list[SourceKey]) -> None:
        """Have parents for the first `limit` of these, and prefer to keep them."""
        self._wanted = frozenset(keys[: self.limit])
        for key in reversed(keys[: self.limit]):
            self._parent(key)

    def tidy(self) -> None:
        """Let go of spare processes that were not used for a while."""
        longest = trio.current_time() - _SPARE_SECONDS
        for parent in self._parents.values():
            if parent.used_at < longest:
                parent.drop_spare()
        self._evict()

    def _parent(self, key: SourceKey) -> Parent:
        parent = self._parents.get(key)
        if parent is not None and not parent.is_gone and parent.import_failure is None:
            return parent
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        output, their_output = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(output, False)
        parent = Parent(key, ours, output, self._claim_exit)
        self._parents[key] = parent
        self._all.add(parent)
        request = json.dumps({"file": key.file, "path": key.path, "sha256": key.sha256}).encode()
        self._waiting.append((request, (theirs.detach(), their_output)))
        self._flush()
        assert self._nursery is not None
        self._nursery.start_soon(self._attend, parent)
        self._evict()
        return parent

    async def _attend(self, parent: Parent) -> None:
        await parent.attend(import_timeout=self.import_timeout)
        self._all.discard(parent)
        if self._parents.get(parent.key) is parent:
            del self._parents[parent.key]

    def _evict(self) -> None:
        excess = len(self._parents) - self.limit
        if excess <= 0:
            return
        idle = [one for one in self._parents.values() if one.is_idle and one.is_ready]
        idle.sort(key=lambda one: (one.key in self._wanted, one.used_at))
        for parent in idle[:excess]:
            parent.drop_spare()
            parent.hang_up()
            del self._parents[parent.key]

    # ---- the zygote

    def _start_zygote(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            argv = [sys.executable, "-m", "scheduler.executors.zygote", f"--control={theirs.fileno()}"]
            self._zygote_exited = trio.Event()
            self._zygote_process = subprocess.Popen(  # noqa: ASYNC220, RUF100 -- once, and it does not wait
                [*argv, f"--kill-grace={self.kill_grace}"],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._zygote = ours
        self._flush()

    def _flush(self) -> None:
        while self._zygote is not None and self._waiting:
            data, fds = self._waiting[0]
            try:
                socket.send_fds(self._zygote, [data], fds, socket.MSG_NOSIGNAL)
            except OSError:  # full, or gone: either way there will be another occasion
                return
            del self._waiting[0]
            for fd in fds:
                os.close(fd)

    async def _attend_zygote(self) -> None:
        assert self._zygote is not None
        with self._zygote:
            while True:
                try:
                    data = self._zygote.recv(_MESSAGE)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._zygote.fileno())
                    continue
                except OSError:
                    break
                if not data:
                    break
                self._flush()
                _, pid, code = data.decode().split()
                self._parent_exited(int(pid), int(code))
        self._zygote = None
        with trio.move_on_after(_STATUS_SECONDS) as patience:
            await self._zygote_exited.wait()
        if patience.cancelled_caught and self._zygote_process is not None:
            self._zygote_process.kill()

    def _parent_exited(self, pid: int, code: int) -> None:
        for parent in self._all:
            if parent.pid == pid:
                parent.exit_code = code
                parent.exited.set()
                return
        self._unclaimed[pid] = code
        while len(self._unclaimed) > _UNCLAIMED:
            del self._unclaimed[next(iter(self._unclaimed))]

    def _claim_exit(self, parent: Parent) -> None:
        """We may hear of its death, from the zygote, before we have heard its own first word."""
        code = self._unclaimed.pop(parent.pid, None)
        if code is not None:
            self._parent_exited(parent.pid, code)

    # ---- our own children: the zygote, and what is left behind when it dies

    async def _reap(self) -> None:
        with trio.open_signal_receiver(signal.SIGCHLD) as signals:
            self.reap_now()
            async for _ in signals:
                self.reap_now()

    def reap_now(self) -> bool:
        """Bury dead children; False when there is none left, dead or alive."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            code = os.waitstatus_to_exitcode(status)
            process = self._zygote_process
            if process is not None and pid == process.pid:
                process.returncode = code
                self._zygote_exited.set()
            else:
                self._parent_exited(pid, code)

    def hang_up(self) -> None:
        """Let everything end: for the worker's own end."""
        self._is_ending = True
        for parent in self._all:
            parent.drop_spare()
            parent.hang_up()
        if self._zygote is not None:
            with contextlib.suppress(OSError):
                self._zygote.shutdown(socket.SHUT_RDWR)
