"""One attempt in the worker, from its submission to its outcome."""

import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
import trio
from attrs import define, evolve, field, frozen

from scheduler.executors import job
from scheduler.executors.cradle import Cradle
from scheduler.executors.logfile import LogFile
from scheduler.executors.protocol import PeerError, encode
from scheduler.model import Outcome, OutcomeKind, StartAnswer, Workload

log = logging.getLogger(__name__)

_CHUNK = 65536
TIMEOUT_MARGIN = 2.0
"""The task process times itself out; so much later the worker does it from outside."""
AFTER_SIGKILL = 5.0
"""Seconds until a process that has not gone is given up."""
_LAST_READS = 64


@frozen(kw_only=True)
class Limits:
    """What bounds every attempt of a worker."""

    log_bytes: int
    result_bytes: int
    kill_grace: float


@frozen(kw_only=True)
class Intent:
    """Why the worker ends an attempt."""

    kind: OutcomeKind
    reason: str
    message: str


class Desk(Protocol):
    """Where an attempt turns to."""

    def ask_start(self, token: str, pid: int) -> None: ...
    def withdraw(self, token: str) -> None: ...


@define(eq=False, kw_only=True)
class Attempt:
    """A trio task waits for news of it; what must be quick is done where the news comes in, by `_hear`."""

    workload: Workload
    limits: Limits
    desk: Desk
    take: Callable[[], Cradle]
    end: Callable[[Outcome | None], None]
    """Called once: with what became of it, or None when its start was refused and user code has not run."""
    spawn: Callable[[Callable[[], Awaitable[None]]], None]
    """Starts a trio task beside it."""
    intent: Intent | None = None
    _granted: bool = False
    _answer: StartAnswer | None = None
    _cradle: Cradle | None = None
    _unprepared: str = ""
    _logfile: LogFile = field(init=False)
    _ended: job.Ended | None = None
    _has_concluded: bool = False
    _writes: bool = False
    _news: trio.Event = field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self._logfile = LogFile(self.workload.log_path, limit=self.limits.log_bytes)
        self._granted = self._was_started

    # ---- from outside

    def set_off(self) -> None:
        """Give it its process, and that process its job, at once; `run` sees to the rest."""
        try:
            cradle = self.take()
        except OSError as error:  # no descriptors left
            self._unprepared = f"no process could be prepared: {error}"
            return
        self._cradle = cradle
        cradle.on_news = self._hear
        cradle.parent.occupy()
        self._send(cradle, job.Job(workload=self.workload, result_limit=self.limits.result_bytes))
        cradle.readiness.watch(cradle.channel.fileno(), self._on_line)
        cradle.readiness.later(self._after_a_while)

    def answer(self, answer: StartAnswer) -> None:
        """The daemon's word about the start."""
        if self._answer is None:
            self._answer = answer
            self._poke()

    def stop(self, intent: Intent) -> None:
        """End it; the first reason stays."""
        if self.intent is None:
            self.intent = intent
            self._poke()

    def _poke(self) -> None:
        self._news.set()

    def _hear(self) -> None:
        self._conclude_at_once()
        self._poke()

    # ---- its life

    async def run(self) -> None:
        """See it through: `end` has been called when this returns."""
        cradle = self._cradle
        if cradle is None:
            self._conclude(self._outcome(OutcomeKind.LOST, "worker", self._unprepared))
            return
        if self._was_started:
            self._logfile.open()  # while the task process works
        try:
            wanted = await self._live(cradle)
            if self._has_concluded:
                return
            if wanted:
                self._read_rest(cradle)
                self._conclude(evolve(self._judge(cradle), pid=cradle.pid or None))
            else:
                self._conclude(None)
        finally:
            cradle.on_news = _nothing
            cradle.close()
            self._logfile.close()
            cradle.parent.give_back()

    async def _live(self, cradle: Cradle) -> bool:
        """False when the start was refused."""
        if self._was_started:
            await self._until_user_code_ends(cradle)
        elif not await self._start(cradle):
            return False
        if self._has_concluded:
            return True
        if cradle.orphaned is not None:
            self._read_channel(cradle)
            if self._ended is None:
                self.stop(Intent(kind=OutcomeKind.LOST, reason="worker", message=cradle.orphaned))
        if not cradle.is_over or cradle.orphaned is not None:
            await self._kill(cradle, grace=self.limits.kill_grace)
        return True

    @property
    def _was_started(self) -> bool:
        """The start was committed before the worker heard of the attempt: nothing is asked."""
        return self.workload.inputs is not None

    async def _start(self, cradle: Cradle) -> bool:
        """Ask for the start, and run user code if it is granted. False when it was refused."""
        await self._until(lambda: cradle.pid != 0 or cradle.is_over)
        if self.intent is None and not self._is_lost(cradle):
            self.desk.ask_start(self.workload.token, cradle.pid)
            await self._until(lambda: self._answer is not None or self._is_lost(cradle))
            self.desk.withdraw(self.workload.token)
        if self._answer is None or self.intent is not None:
            return True
        if not self._answer.accepted:
            cradle.readiness.unwatch(cradle.channel.fileno())
            cradle.channel.close()
            await self._kill(cradle, grace=0)
            return False
        self._granted = True
        if not cradle.is_over:
            self._send(cradle, job.Go(inputs=self._answer.inputs))
            self._logfile.open()
            await self._until_user_code_ends(cradle)
        return True

    async def _until_user_code_ends(self, cradle: Cradle) -> None:
        """Or somebody wants it to end, or its time has passed."""
        timeout = self.workload.execution_timeout
        if timeout is None:
            await self._until(lambda: cradle.is_over)
            return
        with trio.move_on_after(timeout + TIMEOUT_MARGIN) as limit:
            await self._until(lambda: cradle.is_over)
        if limit.cancelled_caught:
            message = f"timed out after {timeout:g} s"
            self.stop(Intent(kind=OutcomeKind.FAILED, reason="timeout", message=message))

    def _is_lost(self, cradle: Cradle) -> bool:
        """Over before it began, and not by the task's own fault, which the daemon would have to let start first."""
        if not cradle.is_over or cradle.import_failure is not None:
            return False
        self._read_channel(cradle)
        return self._ended is None

    async def _until(self, happened: Callable[[], bool]) -> None:
        """Wait until it has happened, or somebody wants the attempt to end, or it has."""
        while not happened() and self.intent is None and not self._has_concluded:
            await self._news.wait()
            self._news = trio.Event()

    async def _until_over(self, cradle: Cradle, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            while cradle.exit_code is None and cradle.orphaned is None and not self._has_concluded:
                await self._news.wait()
                self._news = trio.Event()
        return cradle.exit_code is not None or self._has_concluded

    def _after_a_while(self) -> None:
        """What a short attempt does not need: a look at its output before its end, a spare in its place."""
        cradle = self._cradle
        if cradle is None or self._has_concluded or cradle.output < 0:
            return
        cradle.readiness.watch(cradle.output, self._pump)
        cradle.parent.replenish()

    # ---- its end

    def _conclude_at_once(self) -> None:
        """Report when it has said how it ended, if with its process everything is gone that it has started.

        The process is killed, which takes no time, and not waited for, since tearing it down takes milliseconds. It
        must have no child left, nor may its parent have one that nobody knows: that may be what it has left behind,
        and is found when the process has been reaped.
        """
        ended, cradle = self._ended, self._cradle
        if ended is None or cradle is None or self._has_concluded or not self._granted:
            return
        if not ended.alone or cradle.is_over or cradle.pidfd < 0 or cradle.parent.has_stray():
            return
        if cradle.kill_alone():
            self._read_rest(cradle)
            self._conclude(evolve(self._judge(cradle), pid=cradle.pid or None))

    def _conclude(self, outcome: Outcome | None) -> None:
        self._has_concluded = True
        if outcome is not None:
            self._explain(outcome)
        self.end(outcome)

    # ---- ending it

    async def _kill(self, cradle: Cradle, *, grace: float) -> None:
        """SIGTERM to the group, SIGKILL after `grace` seconds; returns when the process is gone."""
        if cradle.pid == 0:
            return
        if grace > 0:
            signal_group(cradle.pid, signal.SIGTERM)
            if await self._wait_gone(cradle, grace):
                return
        signal_group(cradle.pid, signal.SIGKILL)
        if not await self._wait_gone(cradle, AFTER_SIGKILL):
            log.error("process %d of attempt %s survives SIGKILL", cradle.pid, self.workload.token)

    async def _wait_gone(self, cradle: Cradle, seconds: float) -> bool:
        if cradle.orphaned is None and await self._until_over(cradle, seconds):
            return True
        if cradle.orphaned is None:
            return False
        try:  # its parent cannot tell us any more
            fd = os.pidfd_open(cradle.pid)
        except OSError:
            return True
        try:
            with trio.move_on_after(seconds):
                await trio.lowlevel.wait_readable(fd)
                # The leader is gone; what else was in its group goes with it.
                signal_group(cradle.pid, signal.SIGKILL)
                return True
        finally:
            os.close(fd)
        return False

    # ---- what it hears and says

    def _send(self, cradle: Cradle, words: Any) -> None:
        cradle.channel.send(encode(words))
        if cradle.channel.has_backlog and not self._writes:
            self._writes = True
            self.spawn(cradle.channel.run_writer)

    def _on_line(self) -> None:
        cradle = self._cradle
        assert cradle is not None, "its line is watched"
        try:
            payloads = cradle.channel.receive_nowait()
        except PeerError:
            payloads = None  # user code wrote to our socket
        if payloads is None:  # how it ended is said by its parent
            cradle.readiness.unwatch(cradle.channel.fileno())
        elif payloads:
            self._take_in(payloads)
            self._hear()

    def _read_channel(self, cradle: Cradle) -> None:
        with contextlib.suppress(PeerError):
            while payloads := cradle.channel.receive_nowait():
                self._take_in(payloads)

    def _take_in(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            with contextlib.suppress(msgspec.MsgspecError):
                self._ended = job.decode_ended(payload)

    def _pump(self) -> None:
        cradle = self._cradle
        assert cradle is not None, "its output is watched"
        if not _copy(cradle.output, self._logfile):
            cradle.readiness.unwatch(cradle.output)

    def _read_rest(self, cradle: Cradle) -> None:
        """What it said and wrote before its end; bounded, since somebody may have inherited the pipe."""
        self._read_channel(cradle)
        for _ in range(_LAST_READS):
            if not _copy(cradle.output, self._logfile):
                return

    # ---- what became of it

    def _judge(self, cradle: Cradle) -> Outcome:
        ended, intent, code = self._ended, self.intent, cradle.exit_code
        if ended is not None and code is None and self._granted:
            code = 0  # nothing but leaving was left to do
        if ended is not None and ended.kind is not OutcomeKind.FAILED:
            return self._of(ended, code)  # it was done before we could stop it
        if intent is not None:
            return self._outcome(intent.kind, intent.reason, intent.message, exit_code=code)
        if cradle.import_failure is not None:
            message = f"the DAG file does not import: {cradle.import_failure}"
            return self._outcome(OutcomeKind.FAILED, "import", message)
        if ended is not None:
            return self._of(ended, code)
        if self._answer is None and not self._was_started:
            why = cradle.orphaned or f"its process ended before the start (status {code})"
            return self._outcome(OutcomeKind.LOST, "worker", why, exit_code=code)
        if code is None:
            return self._outcome(OutcomeKind.LOST, "worker", cradle.orphaned or "nobody saw its end")
        if code < 0:
            return self._outcome(OutcomeKind.FAILED, "signal", killed_by(-code), exit_code=code)
        message = f"the process ended with status {code} before the task returned (os._exit?)"
        return self._outcome(OutcomeKind.FAILED, "exit", message, exit_code=code)

    def _of(self, ended: job.Ended, code: int | None) -> Outcome:
        return Outcome(
            token=self.workload.token,
            kind=ended.kind,
            result=ended.result,
            decision=ended.decision,
            retryable=ended.retryable,
            message=ended.message,
            exit_code=code,
            reason=ended.reason,
        )

    def _outcome(self, kind: OutcomeKind, reason: str, message: str, *, exit_code: int | None = None) -> Outcome:
        return Outcome(token=self.workload.token, kind=kind, reason=reason, message=message, exit_code=exit_code)

    def _explain(self, outcome: Outcome) -> None:
        """Into the log what the task process could not say itself."""
        if self._ended is not None and outcome.message == self._ended.message:
            return
        if self._cradle is not None and self._cradle.import_failure is not None:
            self._logfile.write(bytes(self._cradle.parent.tail))
        self._logfile.write(f"asyncsched: {outcome.kind}: {outcome.message}\n".encode("utf-8", "backslashreplace"))


def _nothing() -> None:
    """Nobody listens any more."""


def _copy(output: int, logfile: LogFile) -> bool:
    """False when there is nothing to read now."""
    try:
        data = os.read(output, _CHUNK)
    except BlockingIOError:
        return False
    logfile.write(data)
    return bool(data)


def signal_group(pid: int, signum: signal.Signals) -> None:
    """To a task process and everything in its group, if it still exists."""
    try:
        os.killpg(pid, signum)
    except ProcessLookupError:  # forked just now, and not yet the leader of its group
        with contextlib.suppress(OSError):
            os.kill(pid, signum)
    except OSError as error:
        log.warning("process group %d could not be signalled: %s", pid, error)


def killed_by(number: int) -> str:
    """For people."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    hint = " (out of memory?)" if number == signal.SIGKILL else ""
    return f"killed by {name}{hint}"
