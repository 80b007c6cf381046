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

from scheduler.executors import orphans
from scheduler.executors.channel import Channel
from scheduler.executors.cradle import Cradle
from scheduler.executors.descriptors import receive_fds
from scheduler.executors.readiness import Readiness

log = logging.getLogger(__name__)

_MESSAGE = 4096
_TAIL_BYTES = 64 * 1024
_STATUS_SECONDS = 2.0
_SPARE_SECONDS = 60.0
_STABLE_SECONDS = 10.0
_UNCLAIMED = 64
_MOST_SPARES = 16
_PAUSE_SECONDS = (0.1, 5.0)


@frozen
class SourceKey:
    """Attempts with the same key share a parent."""

    file: str
    path: str
    sha256: str


class Parent:
    """One warm parent, from the request for it until its end."""

    def __init__(
        self,
        key: SourceKey,
        control: socket.socket,
        output: int,
        *,
        readiness: Readiness,
        on_pid: Callable[["Parent"], None],
    ) -> None:
        self.key = key
        self._on_pid = on_pid
        self.readiness = readiness
        self.pid = 0
        self.is_ready = False
        self.is_gone = False
        self.used_at = trio.current_time()
        self.import_failure: str | None = None
        self.exit_code: int | None = None
        self.exited = trio.Event()
        self.tail = bytearray()
        self.cradles: dict[int, Cradle] = {}
        self.spares: deque[Cradle] = deque()
        self._busy = 0
        self._busiest = 1
        self._settled = trio.Event()
        self._hung_up = trio.Event()
        self._control = control
        self._output = output
        self._requests: deque[tuple[bytes, tuple[int, int]]] = deque()
        self._next = 0

    @property
    def is_idle(self) -> bool:
        """No attempt lives or is being prepared here."""
        return len(self.cradles) == len(self.spares)

    # ---- cradles

    def take(self) -> Cradle:
        """A process for an attempt: a spare one, or one that is being forked."""
        self.used_at = trio.current_time()
        return self.spares.popleft() if self.spares else self._fork()

    def occupy(self) -> None:
        """An attempt has begun in a process that was taken, and `give_back` will be called."""
        self._busy += 1
        self._busiest = max(self._busiest, self._busy)

    def give_back(self) -> None:
        """An attempt has ended: the next one shall not wait for a fork."""
        self._busy -= 1
        self.replenish()

    def replenish(self) -> None:
        """Have spare processes forked: as many as have run side by side lately less those that run, and one more."""
        wanted = max(0, min(self._busiest, _MOST_SPARES) - self._busy) + 1
        while len(self.spares) < wanted and not self.is_gone and self.is_ready:
            self.spares.append(self._fork())

    def settle_down(self) -> None:
        """Let go of spares that the last seconds had no use for."""
        self._busiest = max(1, self._busy)
        while len(self.spares) > 1:
            self.spares.pop().close()

    def drop_spares(self) -> None:
        """Their descriptors closed, the processes leave, and their exits are reported like any other."""
        while self.spares:
            self.spares.pop().close()

    def has_stray(self) -> bool:
        """Whether it has a child that is no task process: something an attempt left behind. True if nobody can tell."""
        if not self._has_unknown_child():
            return False
        self._on_control()  # it may have told of a fork meanwhile
        return self._has_unknown_child()

    def _has_unknown_child(self) -> bool:
        listed = orphans.children(self.pid)
        return not listed or not {one.pid for one in self.cradles.values()}.issuperset(listed)

    def _fork(self) -> Cradle:
        self._next += 1
        ours, theirs = socket.socketpair()
        output, log_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(output, False)
        cradle = Cradle(parent=self, number=self._next, channel=Channel(ours), output=output, readiness=self.readiness)
        self.cradles[cradle.number] = cradle
        self._requests.append((str(cradle.number).encode(), (theirs.detach(), log_end)))
        if not self._flush():
            self.readiness.want_to_write(self._control.fileno(), True)
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

    def listen(self) -> None:
        """From now on hear what it says."""
        self.readiness.watch(self._control.fileno(), self._on_control)
        self.readiness.watch(self._output, self._read_output)

    async def attend(self, *, import_timeout: float) -> None:
        """Wait until it is gone, then tell everybody who waits for it."""
        with trio.move_on_after(import_timeout) as limit:
            await self._settled.wait()
        if limit.cancelled_caught:
            self.import_failure = f"it was not imported after {import_timeout:g} s"
            self.kill()
        await self._hung_up.wait()
        self.is_gone = True
        if self.pid and self.import_failure is None:
            with trio.move_on_after(_STATUS_SECONDS):
                await self.exited.wait()
        self._end()

    def _on_control(self) -> None:
        if self._requests and self._flush():
            self.readiness.want_to_write(self._control.fileno(), False)
        while True:
            try:
                data, fds = receive_fds(self._control, _MESSAGE, most=1)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # it left with requests unread; what it said before comes after this, once
            except OSError:
                data, fds = b"", []
            if not data:
                break
            self._hear(data.decode(), fds[0] if fds else -1)
        self.readiness.unwatch(self._control.fileno())
        self._settled.set()
        self._hung_up.set()

    def _hear(self, message: str, fd: int) -> None:
        word, _, rest = message.partition(" ")
        match word:
            case "pid":
                self.pid = int(rest)
                self._on_pid(self)
            case "ready":
                self.is_ready = True
                self._settled.set()
                self.readiness.later(self.replenish)
            case "failed":
                self.import_failure = rest
                self._settled.set()
            case "forked":
                number, pid = rest.split()
                self.cradles[int(number)].forked(int(pid), fd)
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
        if cradle in self.spares:
            self.spares.remove(cradle)
            cradle.close()
        cradle.on_news()

    def _read_output(self) -> bool:
        try:
            data = os.read(self._output, 65536)
        except BlockingIOError:
            return False
        if not data:
            self.readiness.unwatch(self._output)
        self.tail += data
        del self.tail[:-_TAIL_BYTES]
        return bool(data)

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
        self.readiness.unwatch(self._output)
        os.close(self._output)
        self._control.close()
        for _, fds in self._requests:
            for fd in fds:
                os.close(fd)
        self._requests.clear()
        failure = self.import_failure
        if failure is None and self.pid and not self.is_ready:
            failure = f"importing it ended the process: {_describe_end(self.exit_code)}"
        self.drop_spares()
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
    readiness: Readiness
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
        """Let go of spare processes that were not used for a while. Called every few seconds."""
        longest = trio.current_time() - _SPARE_SECONDS
        for parent in self._parents.values():
            if parent.used_at < longest:
                parent.drop_spares()
            else:
                parent.settle_down()
        self._evict()

    def _parent(self, key: SourceKey) -> Parent:
        parent = self._parents.get(key)
        if parent is not None and not parent.is_gone and parent.import_failure is None:
            return parent
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        output, their_output = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(output, False)
        parent = Parent(key, ours, output, readiness=self.readiness, on_pid=self._claim_exit)
        parent.listen()
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
            parent.drop_spares()
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
            parent.drop_spares()
            parent.hang_up()
        if self._zygote is not None:
            with contextlib.suppress(OSError):
                self._zygote.shutdown(socket.SHUT_RDWR)
