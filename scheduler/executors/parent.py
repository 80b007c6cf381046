"""The worker's side of one warm parent: what it is asked for, what it says, its end."""

import contextlib
import os
import signal
import socket
from collections import deque
from collections.abc import Callable

import trio
from attrs import frozen

from scheduler.executors import orphans
from scheduler.executors.channel import Channel
from scheduler.executors.cradle import Cradle
from scheduler.executors.descriptors import receive_fds
from scheduler.executors.readiness import Readiness

_MESSAGE = 4096
_TAIL_BYTES = 64 * 1024
_STATUS_SECONDS = 2.0
_MOST_SPARES = 16


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
