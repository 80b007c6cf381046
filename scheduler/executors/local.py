"""The daemon's side of the local executor: a Unix socket on which worker processes call in."""

import contextlib
import logging
import socket
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Never, TypeVar

import trio
from attrs import define, field

from nurseries.processes import ChildSpec
from scheduler.executors import protocol
from scheduler.executors.base import Berth, Topics, WorkerInfo
from scheduler.executors.channel import Channel
from scheduler.executors.inbox import Inbox
from scheduler.executors.listening import accept, listen
from scheduler.model import Outcome, OutcomeKind, StartAnswer, StartRequest, Workload

T = TypeVar("T")

log = logging.getLogger(__name__)

_ENVELOPE = 4096
_SUBMIT_BYTES = 4 * 1024 * 1024
_REMEMBERED_WORKERS = 64
"""Of how many workers, gone ones included, we know what they were sent; the lease ends what is forgotten."""


def worker_spec(
    *,
    socket_path: Path,
    spool_dir: Path,
    slots: int,
    warm_parents: int = 8,
    log_limit_mb: int = 100,
    result_limit_kb: int = 1024,
    kill_grace_s: float = 10.0,
    orphan_grace_s: float = 60.0,
    shutdown_grace_s: float = 30.0,
    reuse_attempts: int = 1000,
    reuse_growth_mb: int = 256,
    reuse_idle_s: float = 30.0,
    python: str = sys.executable,
) -> ChildSpec:
    """How the daemon starts its worker: a child that outlives a SIGKILL of the daemon by `orphan_grace_s`.

    Stopping the child takes up to kill_grace_s and a few seconds: its tasks get SIGTERM, then SIGKILL.
    Call `LocalExecutor.drain` first to let them finish.
    """
    return ChildSpec(
        name="worker",
        argv=(
            python,
            "-m",
            "scheduler.executors.worker",
            f"--socket={socket_path}",
            f"--spool={spool_dir}",
            f"--slots={slots}",
            f"--warm-parents={warm_parents}",
            f"--log-limit-mb={log_limit_mb}",
            f"--result-limit-kb={result_limit_kb}",
            f"--kill-grace={kill_grace_s}",
            f"--orphan-grace={orphan_grace_s}",
            f"--shutdown-grace={shutdown_grace_s}",
            f"--reuse-attempts={reuse_attempts}",
            f"--reuse-growth-mb={reuse_growth_mb}",
            f"--reuse-idle={reuse_idle_s}",
        ),
        lifeline="held",
        stop_grace=kill_grace_s + 8.0,
    )


@define(eq=False, kw_only=True)
class _Worker:
    """One connection. Its identity is unknown until its hello."""

    channel: Channel
    worker_id: str = ""
    pid: int = 0
    hostname: str = ""
    slots: int = 0
    draining: bool = True
    running: set[str] = field(factory=set)
    last_heard: float = field(factory=time.monotonic)

    @property
    def free(self) -> int:
        return 0 if self.draining else max(0, self.slots - len(self.running))


class LocalExecutor:
    """Gives attempts to connected workers and collects what they say (the contract is `base.Executor`).

    Usually one worker is connected; after a restart of the daemon an old one may finish its tasks beside it.
    """

    def __init__(self, *, socket_path: Path, poke: Callable[[Hashable], None], topics: Topics | None = None) -> None:
        self.starts: Inbox[StartRequest] = Inbox()
        self.outcomes: Inbox[Outcome] = Inbox()
        self._socket_path = socket_path
        self._poke = poke
        self._topics = Topics() if topics is None else topics
        self._workers: list[_Worker] = []
        self._holder: dict[str, _Worker] = {}  # token -> who was given it, or last spoke of it
        self._started: dict[str, set[str]] = {}  # worker_id -> started attempts it was sent and has not reported
        self._warm: list[tuple[str, str, str]] = []
        self._drain: float | None = None

    def __repr__(self) -> str:
        return f"<LocalExecutor on {self._socket_path}: {len(self._workers)} workers>"

    # ---- for the routines

    def free_slots(self) -> int:
        """Over connected workers that accept work: their slots less the attempts handed over. 0 while draining."""
        return 0 if self._drain is not None else sum(worker.free for worker in self._workers)

    def berths(self) -> list[Berth]:
        """Connected workers that take work now, the one with most room first; none while draining."""
        if self._drain is not None:
            return []
        newest = {worker.worker_id: worker for worker in self._workers}
        berths = [
            Berth(worker_id=one.worker_id, hostname=one.hostname, free=one.free) for one in newest.values() if one.free
        ]
        return sorted(berths, key=lambda berth: berth.free, reverse=True)

    def holds(self, token: str) -> bool:
        """Whether a connected worker has this attempt, or its outcome waits to be committed."""
        return token in self._holder or token in self.outcomes

    def submit(self, workloads: Sequence[Workload]) -> None:
        """Hand over attempts after the commit of their claims, or of their starts.

        More than `free_slots()` are accepted and run. Without a worker they are dropped: rescue finds them. A
        started one is for its own worker; what cannot reach it is reported lost.
        """
        shares: dict[int, tuple[_Worker, list[Workload]]] = {}
        for workload in workloads:
            worker = self._choose(workload)
            if worker is None:
                continue
            worker.running.add(workload.token)
            self._holder[workload.token] = worker
            if workload.worker is not None:
                self._started.setdefault(workload.worker, set()).add(workload.token)
            shares.setdefault(id(worker), (worker, []))[1].append(workload)
        for worker, share in shares.values():
            for part in _parts(share):
                try:
                    self._send(worker, protocol.Submit(workloads=part))
                except ValueError:
                    self._too_large(worker, part[0])

    def _choose(self, workload: Workload) -> _Worker | None:
        """Who gets it; None when nobody can have it, which is said where somebody must hear it."""
        if workload.worker is not None:
            worker = self._connected(workload.worker)
            if worker is None:
                self._lose(workload.token, "its worker was no longer connected")
            return worker
        able = [worker for worker in self._workers if not worker.draining]
        if not able:
            log.warning("no worker is connected: attempt %s is left to rescue", workload.token)
            return None
        return max(able, key=lambda one: one.slots - len(one.running))

    def _connected(self, worker_id: str) -> _Worker | None:
        """Its newest connection: an older one that still stands has nobody at its other end."""
        return next((worker for worker in reversed(self._workers) if worker.worker_id == worker_id), None)

    def _lose(self, token: str, why: str) -> None:
        """Report in the place of a worker that cannot know of it."""
        self.outcomes.put(Outcome(token=token, kind=OutcomeKind.LOST, reason="worker", message=why))
        self._poke(self._topics.outcome_reported)

    def _too_large(self, worker: _Worker, workload: Workload) -> None:
        """One attempt alone exceeds a frame. Not started, it stays queued and is rescued; started, it has failed."""
        log.error("the params or inputs of attempt %s do not fit into one frame", workload.token)
        worker.running.discard(workload.token)
        self._release(workload.token, worker)
        if workload.worker is None:
            return
        self._started.get(workload.worker, set()).discard(workload.token)
        message = "cancelled: its inputs are too large"
        self.outcomes.put(Outcome(token=workload.token, kind=OutcomeKind.FAILED, reason="cancelled", message=message))
        self._poke(self._topics.outcome_reported)

    def answer(self, answers: Sequence[StartAnswer]) -> None:
        """Tell the workers which of their attempts may start, after the commit."""
        for worker, share in self._by_holder((answer.token, answer) for answer in answers):
            try:
                self._send(worker, protocol.Answers(answers=share))
            except ValueError:  # too much in one frame
                for one in share:
                    self._answer_one(worker, one)

    def _answer_one(self, worker: _Worker, answer: StartAnswer) -> None:
        try:
            self._send(worker, protocol.Answers(answers=[answer]))
        except ValueError:
            # The start is committed: the attempt must end, and be told why.
            log.exception("the inputs of attempt %s do not fit into one frame", answer.token)
            self._send(worker, protocol.Cancel(token=answer.token, reason="its inputs are too large"))

    def acknowledge(self, tokens: Iterable[str]) -> None:
        """These outcomes are settled; their worker forgets them."""
        for worker, share in self._by_holder((token, token) for token in tokens):
            self._send(worker, protocol.Ack(tokens=share))
            for token in share:
                self._holder.pop(token, None)

    def cancel(self, token: str, reason: str) -> None:
        """SIGTERM to the attempt's process group, SIGKILL after the kill grace.

        Then an Outcome of kind failed with reason "cancelled", unless the task had succeeded before.
        Nothing happens when no connected worker has the attempt: cancel again when one that has it connects.
        """
        worker = self._holder.get(token)
        if worker is not None:
            self._send(worker, protocol.Cancel(token=token, reason=reason))

    def warm(self, files: Iterable[tuple[str, str, str]]) -> None:
        """Hint: keep a parent process with each of these (file, source_path, source_hash) imported.

        The most important first; remembered for workers that connect later.
        """
        self._warm = list(files)
        for worker in self._workers:
            if not worker.draining:
                self._send(worker, protocol.Warm(files=self._warm))

    def workers(self) -> list[WorkerInfo]:
        """Connected workers that have said hello."""
        return [
            WorkerInfo(
                worker_id=worker.worker_id,
                pid=worker.pid,
                hostname=worker.hostname,
                slots=worker.slots,
                running=tuple(sorted(worker.running)),
                last_heard=worker.last_heard,
                draining=worker.draining,
            )
            for worker in self._workers
        ]

    def drain(self, grace_seconds: float) -> None:
        """For the daemon's own end: its workers take nothing new and leave when their attempts have ended.

        What still runs after `grace_seconds` is stopped and reported lost. Go on serving meanwhile: outcomes
        arrive, and a worker leaves only when they are acknowledged or, after a few seconds, spooled. A worker
        that is not the daemon's child keeps its attempts and waits for the next daemon.
        """
        self._drain = grace_seconds
        for worker in self._workers:
            self._send(worker, protocol.Drain(grace_seconds=grace_seconds))

    # ---- the socket

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Never:
        """Listen until cancelled; started once the socket is there.

        Raises OSError when the socket cannot be made.
        """
        listener = listen(self._socket_path)
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    connection = await accept(listener)
                    nursery.start_soon(self._serve_worker, connection)
        finally:
            listener.close()
            with contextlib.suppress(OSError):
                self._socket_path.unlink()
        raise AssertionError("unreachable")

    async def _serve_worker(self, sock: socket.socket) -> None:
        worker = _Worker(channel=Channel(sock))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.channel.run_writer)
                await self._listen_to(worker)
                nursery.cancel_scope.cancel()
        except* protocol.PeerError as broken:
            log.error("worker %s is dropped: %s", worker.worker_id or "?", broken.exceptions[0])  # noqa: TRY400
        finally:
            self._forget(worker)
            worker.channel.close()

    async def _listen_to(self, worker: _Worker) -> None:
        while (payloads := await worker.channel.receive()) is not None:
            worker.last_heard = time.monotonic()
            for payload in payloads:
                self._hear(worker, protocol.decode_from_worker(payload))

    def _hear(self, worker: _Worker, message: protocol.FromWorker) -> None:
        match message:
            case protocol.Hello():
                self._welcome(worker, message)
            case protocol.Starts():
                for request in message.requests:
                    self._holder[request.token] = worker
                    worker.running.add(request.token)
                    self.starts.put(request)
                self._poke(self._topics.start_requested)
            case protocol.Report():
                started = self._started.get(worker.worker_id, set())
                for outcome in message.outcomes:
                    self._holder[outcome.token] = worker
                    worker.running.discard(outcome.token)
                    started.discard(outcome.token)
                    self.outcomes.put(outcome)
                self._poke(self._topics.outcome_reported)
            case protocol.Gone():
                for token in message.tokens:
                    worker.running.discard(token)
                    self._release(token, worker)
                self._poke(self._topics.slot_freed)
            case protocol.Beat():
                pass

    def _welcome(self, worker: _Worker, hello: protocol.Hello) -> None:
        again = worker in self._workers
        worker.worker_id = hello.worker_id
        worker.pid = hello.pid
        worker.hostname = hello.hostname
        worker.slots = hello.slots
        worker.draining = hello.draining
        worker.running.update(hello.running)
        self._holder.update(dict.fromkeys([*hello.running, *hello.ended], worker))
        if not again:
            self._miss(worker.worker_id, {*hello.running, *hello.ended})
            self._workers.append(worker)
            if self._drain is not None:
                self._send(worker, protocol.Drain(grace_seconds=self._drain))
            elif self._warm and not worker.draining:
                self._send(worker, protocol.Warm(files=self._warm))
        self._poke(self._topics.worker_changed)
        self._poke(self._topics.slot_freed)

    def _miss(self, worker_id: str, has: set[str]) -> None:
        """A worker calls again: what it was sent as started and does not know was lost with the old connection."""
        started = self._started.pop(worker_id, set())
        for token in started - has:
            self._lose(token, "the connection to its worker broke before it arrived")
        self._started[worker_id] = started & has
        while len(self._started) > _REMEMBERED_WORKERS:
            self._started.pop(next(iter(self._started)))

    def _forget(self, worker: _Worker) -> None:
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        for token in [token for token, holder in self._holder.items() if holder is worker]:
            del self._holder[token]
            # Nobody could be told the answer. A worker that lives calls again and asks again.
            self.starts.discard(token)
        self._poke(self._topics.worker_changed)

    def _release(self, token: str, worker: _Worker) -> None:
        if self._holder.get(token) is worker:
            del self._holder[token]

    def _by_holder(self, items: Iterable[tuple[str, T]]) -> list[tuple[_Worker, list[T]]]:
        shares: dict[int, tuple[_Worker, list[T]]] = {}
        for token, item in items:
            worker = self._holder.get(token)
            if worker is not None:
                shares.setdefault(id(worker), (worker, []))[1].append(item)
        return list(shares.values())

    def _send(self, worker: _Worker, message: protocol.FromDaemon) -> None:
        """Raises ValueError when it is too long, also for the frame in which the worker passes it on."""
        data = protocol.encode(message)
        if len(data) > protocol.FRAME_LIMIT - _ENVELOPE:
            raise ValueError(f"a message of {len(data)} bytes does not fit into a frame")
        worker.channel.send(data)


def _parts(workloads: list[Workload]) -> Iterable[list[Workload]]:
    """Cut into submissions that fit into a frame, judged by their only unbounded parts."""
    part: list[Workload] = []
    size = 0
    for workload in workloads:
        weight = 1024 + sum(len(repr(part)) for part in (workload.params, workload.conf, workload.inputs) if part)
        if part and size + weight > _SUBMIT_BYTES:
            yield part
            part, size = [], 0
        part.append(workload)
        size += weight
    if part:
        yield part
