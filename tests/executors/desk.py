"""A desk plays the daemon: the real LocalExecutor, real workers, and DAG files that say what they do over a FIFO."""

import hashlib
import os
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trio
from attrs import define, field, frozen

from scheduler.executors.local import LocalExecutor, worker_spec
from scheduler.model import Outcome, StartAnswer, StartRequest, Workload

LIMIT_S = 60.0

HEADER = """
import os, signal, subprocess, sys, time
from scheduler import DAG, FailTask, SkipTask, get_context, task

def tell(*words):
    with open({fifo!r}, "w") as fifo:
        fifo.write(" ".join(map(str, words)) + "\\n")

"""


MARK = "ASYNCSCHED_TEST_RUN"


def survivors() -> list[int]:
    """Processes started by these tests, whoever is their parent by now."""
    mark = f"{MARK}={os.getpid()}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError), open(f"/proc/{entry.name}/environ", "rb") as environ:
            if mark in environ.read().split(b"\0"):
                found.append(int(entry.name))
    return [pid for pid in found if alive(pid)]


@frozen
class Source:
    file: str
    path: str
    sha256: str


@define(eq=False)
class WorkerProcess:
    """A worker started by the test, with a lifeline the test can cut."""

    popen: "subprocess.Popen[bytes]"
    lifeline: int

    @property
    def pid(self) -> int:
        return self.popen.pid

    def cut_lifeline(self) -> None:
        """As when the daemon is SIGKILLed."""
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1

    async def ended(self) -> int:
        await gone(self.pid)
        return self.popen.wait()


async def gone(pid: int) -> None:
    """Wait until this process is dead (or a zombie)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)


def alive(pid: int) -> bool:
    """It runs, and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@define(eq=False)
class Desk:
    """What a daemon would know and do."""

    folder: Path
    options: dict[str, Any]
    auto_answer: bool = True
    auto_ack: bool = True
    inputs: dict[str, Any] = field(factory=dict)
    executor: LocalExecutor = field(init=False)
    source: Source = field(init=False)
    starts: dict[str, list[StartRequest]] = field(factory=dict)
    outcomes: dict[str, list[Outcome]] = field(factory=dict)
    processes: list[WorkerProcess] = field(factory=list)
    _news: trio.Event = field(factory=trio.Event)
    _progress: trio.Event = field(factory=trio.Event)
    _daemon: trio.CancelScope = field(factory=trio.CancelScope)
    _ended: trio.Event = field(factory=trio.Event)
    _lines: bytes = b""
    _fifo: int = -1

    # ---- files

    @property
    def fifo(self) -> Path:
        return self.folder / "fifo"

    def write(self, body: str, *, name: str = "dags.py", header: bool = True) -> Source:
        """A pinned DAG file; the last one written is what `workload` uses."""
        text = (HEADER.format(fifo=str(self.fifo)) if header else "") + body
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        path = self.folder / "sources" / sha256 / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.source = Source(str(self.folder / "dags" / name), str(path), sha256)
        return self.source

    def workload(self, task_id: str, *, source: Source | None = None, **changes: Any) -> Workload:
        source = self.source if source is None else source
        token = str(uuid.uuid4())
        known: dict[str, Any] = {
            "token": token,
            "dag_id": "d",
            "run_id": "run1",
            "task_id": task_id,
            "run_type": "manual",
            "run_after": datetime(2026, 1, 2, tzinfo=UTC),
            "file": source.file,
            "source_path": source.path,
            "source_hash": source.sha256,
            "log_path": str(self.folder / "logs" / task_id / f"{token}.log"),
        }
        return Workload(**{**known, **changes})

    def log(self, workload: Workload) -> str:
        path = Path(workload.log_path)
        return path.read_text(errors="replace") if path.exists() else ""

    async def told(self) -> list[str]:
        """The next line a task wrote into the FIFO, as words."""
        while b"\n" not in self._lines:
            with suppress(BlockingIOError):
                self._lines += os.read(self._fifo, 4096)
                continue
            await trio.lowlevel.wait_readable(self._fifo)
        line, _, self._lines = self._lines.partition(b"\n")
        return line.decode().split()

    # ---- the daemon

    async def daemon(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `kill_daemon`, doing what the routines would do."""
        self.executor = LocalExecutor(socket_path=self.folder / "worker.sock", poke=lambda _topic: self._poke())
        self._ended = trio.Event()
        with trio.CancelScope() as self._daemon:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.executor.serve)
                nursery.start_soon(self._work)
                task_status.started()
        self._ended.set()

    async def kill_daemon(self) -> None:
        self._daemon.cancel()
        await self._ended.wait()

    def _poke(self) -> None:
        self._news.set()

    async def _work(self) -> None:
        while True:
            executor = self.executor
            if self.auto_answer:
                requests = executor.starts.peek(1000)
                for request in requests:
                    self.starts.setdefault(request.token, []).append(request)
                executor.starts.remove(requests)
                executor.answer([StartAnswer(token=one.token, accepted=True, inputs=self.inputs) for one in requests])
            reports = executor.outcomes.peek(1000)
            executor.outcomes.remove(reports)
            for outcome in reports:
                self.outcomes.setdefault(outcome.token, []).append(outcome)
            if self.auto_ack:
                executor.acknowledge([one.token for one in reports])
            self._progress.set()
            self._progress = trio.Event()
            await self._news.wait()
            self._news = trio.Event()

    async def until(self, happened: Callable[[], object]) -> None:
        """Wait for what the executor pokes about."""
        while not happened():
            await self._progress.wait()

    async def run(self, *workloads: Workload) -> list[Outcome]:
        """Submit and wait for the ends."""
        self.executor.submit(workloads)
        return [await self.outcome(workload) for workload in workloads]

    async def outcome(self, workload: Workload) -> Outcome:
        await self.until(lambda: workload.token in self.outcomes)
        return self.outcomes[workload.token][-1]

    async def started(self, workload: Workload) -> StartRequest:
        """Wait for its (unanswered or answered) start request."""

        def find() -> list[StartRequest]:
            waiting = [one for one in self.executor.starts.peek(1000) if one.token == workload.token]
            return self.starts.get(workload.token, []) + waiting

        await self.until(find)
        return find()[-1]

    # ---- workers

    def start_worker(self, *, lifeline: bool = True, **options: Any) -> WorkerProcess:
        spec = worker_spec(
            socket_path=self.folder / "worker.sock",
            spool_dir=self.folder / "spool",
            **{"slots": 8, **self.options, **options},
        )
        env = {**os.environ, MARK: str(os.getpid())}
        reader, writer = os.pipe2(os.O_CLOEXEC) if lifeline else (-1, -1)
        if lifeline:
            env["NURSERIES_LIFELINE"] = str(reader)
        popen = subprocess.Popen(
            [os.fspath(word) for word in spec.argv],
            env=env,
            stdin=subprocess.DEVNULL,
            pass_fds=(reader,) if lifeline else (),
            start_new_session=True,
            cwd=Path(__file__).parents[2],
        )
        if lifeline:
            os.close(reader)
        process = WorkerProcess(popen, writer)
        self.processes.append(process)
        return process

    async def connected(self, process: WorkerProcess) -> None:
        await self.until(lambda: any(one.pid == process.pid for one in self.executor.workers()))


OpenDesk = Callable[..., Any]


@asynccontextmanager
async def open_a_desk(folder: Path, body: str = "", *, worker: bool = True, **options: Any) -> AsyncIterator[Desk]:
    desk = Desk(folder, options)
    os.mkfifo(desk.fifo)
    desk._fifo = os.open(desk.fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    if body:
        desk.write(body)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(desk.daemon)
            if worker:
                await desk.connected(desk.start_worker())
            yield desk
            nursery.cancel_scope.cancel()
    finally:
        os.close(desk._fifo)
        for process in desk.processes:
            process.cut_lifeline()
            if process.popen.poll() is None:
                process.popen.send_signal(signal.SIGKILL)
            process.popen.wait()
