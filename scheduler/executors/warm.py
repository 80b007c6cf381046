"""A warm parent: a process that has imported one DAG file and forks a process for each attempt of its tasks.

Single-threaded and without an event loop: what it does is wait, fork and reap. When importing the file leaves
threads running, forking would be unsafe, so it executes itself again as a *cold* parent, whose children import the
file themselves.
"""

import _thread
import contextlib
import gc
import hashlib
import linecache
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType, ModuleType
from typing import NoReturn

from attrs import define, field, frozen

from scheduler.executors import orphans, runner
from scheduler.executors.descriptors import receive_fds

_MESSAGE_LIMIT = 2048


@frozen(kw_only=True)
class Source:
    """The DAG file of one warm parent."""

    file: str
    """As the user knows it."""
    path: str
    """The pinned copy, which is what runs."""
    sha256: str


class SourceChanged(Exception):
    """The pinned copy is not what was scheduled."""


@define(kw_only=True)
class _Child:
    number: int
    pipes: tuple[str, ...]


@define(kw_only=True)
class WarmParent:
    """The life of such a process; `control` is its line to the worker, whose end is its own end."""

    control: socket.socket
    source: Source
    kill_grace: float
    cold: bool
    _dags: runner.Dags | None = None
    _children: dict[int, _Child] = field(factory=dict)
    _wake: tuple[int, int] = (-1, -1)

    def live(self) -> NoReturn:
        """Import, then serve until the worker hangs up."""
        try:
            orphans.become_subreaper()
            before = (dict(os.environ), os.getcwd())
            if not self.cold:
                self._import()
                if _thread._count() > 0:  # noqa: SLF001 -- those the threading module does not know, too
                    self._become_cold(*before)
            gc.collect()
            gc.freeze()
            self._listen_for_children()
            self._tell("ready")
            self._serve()
            self._end()
        finally:
            os._exit(70)

    def _import(self) -> None:
        pid = os.getpid()
        try:
            module = load_module(self.source)
            if os.getpid() != pid:  # the file forked while it was imported, and this is its child
                os._exit(0)
            self._dags = runner.dags_of(module)
        except BaseException as error:
            runner.say(runner.format_exception(error))
            self._tell(f"failed {runner.one_line(error)}")
            os._exit(0)

    def _become_cold(self, environ: dict[str, str], cwd: str) -> None:
        os.chdir(cwd)
        self.control.set_inheritable(True)
        source = self.source
        argv = [sys.executable, "-m", "scheduler.executors.zygote", f"--control={self.control.fileno()}"]
        argv += [f"--kill-grace={self.kill_grace}", "--cold", source.file, source.path, source.sha256]
        os.execve(sys.executable, argv, environ)  # noqa: S606 -- ends the threads, keeps pid and messages

    def _listen_for_children(self) -> None:
        self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self._wake[0], select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._wake[0] in ready:
                self._reap()
            if self.control.fileno() in ready and not self._hear():
                return

    def _hear(self) -> bool:
        """One message: fork a process with these descriptors. False when the worker has hung up."""
        try:
            data, fds = receive_fds(self.control, 64, most=2)
        except OSError:
            return False
        if not data:
            return False
        number = int(data)
        line, log = fds
        pipes = (f"socket:[{os.fstat(line).st_ino}]", f"pipe:[{os.fstat(log).st_ino}]")  # as /proc shows them
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(f"unforked {number} {error.strerror}")
            pid = -1
        if pid == 0:
            self._become_task(line, log)
        os.close(line)
        os.close(log)
        if pid > 0:
            self._children[pid] = _Child(number=number, pipes=pipes)
            self._tell_of_fork(number, pid)
        return True

    def _become_task(self, line: int, log: int) -> NoReturn:
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
            os.close(self._wake[0])
            os.close(self._wake[1])
            self.control.close()
            os.environ[orphans.VARIABLE] = str(os.getpid())
            _offer_to_the_oom_killer()
            runner.serve(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=line), self._load)
        finally:
            os._exit(70)

    def _load(self) -> runner.Dags:
        if self._dags is None:  # cold
            self._dags = runner.dags_of(load_module(self.source))
        return self._dags

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake[0], 4096):
                pass
        while True:
            try:
                # Looked at before it is reaped: until then its group's number can be nobody else's.
                seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if seen is None:
                return
            self._bury(seen.si_pid)

    def _bury(self, pid: int) -> None:
        child = self._children.pop(pid, None)
        if child is not None:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if child is not None:
            orphans.kill_orphans(pid, child.pipes, self._children)
            self._tell(f"exit {child.number} {os.waitstatus_to_exitcode(status)}")

    def _tell_of_fork(self, number: int, pid: int) -> None:
        """With a descriptor of the process, since we alone can open it before its number may become another's."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            self._tell(f"forked {number} {pid}")
            return
        with contextlib.suppress(OSError):
            socket.send_fds(self.control, [f"forked {number} {pid}".encode()], [pidfd], socket.MSG_NOSIGNAL)
        os.close(pidfd)

    def _tell(self, message: str) -> None:
        with contextlib.suppress(OSError):  # the worker is gone: the next read says so
            self.control.send(message.encode()[:_MESSAGE_LIMIT], socket.MSG_NOSIGNAL)

    def _end(self) -> NoReturn:
        """The worker is gone: so are, after their grace, its attempts."""
        self._signal_all(signal.SIGTERM)
        deadline = time.monotonic() + self.kill_grace
        poll = select.poll()
        poll.register(self._wake[0], select.POLLIN)
        self._reap()
        while self._children and (left := deadline - time.monotonic()) > 0:
            poll.poll(left * 1000 + 1)
            self._reap()
        self._signal_all(signal.SIGKILL)
        for pid in list(self._children):
            self._bury(pid)
        orphans.kill_orphans(-1, (), ())
        os._exit(0)

    def _signal_all(self, signum: signal.Signals) -> None:
        for pid in self._children:
            try:
                os.killpg(pid, signum)
            except OSError:  # not yet in its own group
                with contextlib.suppress(OSError):
                    os.kill(pid, signum)


def _offer_to_the_oom_killer() -> None:
    """Rather one task than the worker, the daemon or the database."""
    with contextlib.suppress(OSError):
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(score, b"500")
        os.close(score)


def _nothing(_signum: int, _frame: FrameType | None) -> None:
    """The wake-up descriptor does the work."""


def load_module(source: Source) -> ModuleType:
    """Execute the pinned text as the DAG file's module. Raises what it raises, OSError, SourceChanged."""
    text = Path(source.path).read_bytes()
    if hashlib.sha256(text).hexdigest() != source.sha256:
        raise SourceChanged(f"{source.path} is not the text that was scheduled (its SHA-256 differs)")
    path = Path(source.file)
    # Tracebacks show the text that runs, not what the file has become.
    lines = text.decode("utf-8", "replace").splitlines(keepends=True)
    linecache.cache[source.file] = (len(text), None, lines, source.file)
    module = ModuleType(module_name(source))
    module.__file__ = source.file
    sys.modules[module.__name__] = module
    if (directory := str(path.parent)) not in sys.path:
        sys.path.insert(0, directory)
    sys.argv = [source.file]
    exec(compile(text, source.file, "exec", dont_inherit=True), vars(module))  # noqa: S102
    return module


def module_name(source: Source) -> str:
    """Unlike any importable name, so that it hides nothing; the same in every process of this file version."""
    stem = "".join(ch if ch.isalnum() else "_" for ch in Path(source.file).stem)
    return f"asyncsched_dag_{stem}_{source.sha256[:12]}"
