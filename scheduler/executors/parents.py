"""The worker's side of the zygote, and which warm parents there are."""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys

import trio
from attrs import define, field

from scheduler.executors.cradle import Cradle
from scheduler.executors.parent import Parent, SourceKey
from scheduler.executors.readiness import Readiness

log = logging.getLogger(__name__)

_MESSAGE = 4096
_STATUS_SECONDS = 2.0
_SPARE_SECONDS = 60.0
_STABLE_SECONDS = 10.0
_UNCLAIMED = 64
_PAUSE_SECONDS = (0.1, 5.0)


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
