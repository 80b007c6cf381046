"""The worker's side of one runner: what it was given, what it says, how it is ended."""

import contextlib
import logging
import os
import signal
import socket
import time
from collections import deque
from typing import Protocol

import msgspec
import trio
from attrs import define, field

from scheduler.executors import job, reuse_words
from scheduler.executors.attempts import AFTER_SIGKILL, signal_group
from scheduler.executors.cradle import Cradle
from scheduler.executors.protocol import PeerError, encode
from scheduler.executors.reuse_attempt import Phase, SharedAttempt
from scheduler.executors.reuse_output import Output

log = logging.getLogger(__name__)

_MUCH = 16384
"""Bytes of output after which more is to be expected at once."""
_OUTPUT_PAUSE = 0.02


class Keeper(Protocol):
    """Who hears about it: the lane it belongs to."""

    def settled(self, runner: "Runner", ends: list[tuple[SharedAttempt, reuse_words.Finished]]) -> None:
        """Something has ended here, or it has become ready."""

    def confused(self, runner: "Runner") -> None:
        """It says what no runner says: user code has written to its line."""

    def orphaned(self, runner: "Runner") -> None:
        """Its parent is dead, so it will be ended."""

    def gone(self, runner: "Runner") -> None:
        """Its process is no more, and everything it said was heard."""


@define(eq=False, kw_only=True)
class Runner:
    """One process that runs many attempts. What is in `sent` is in it: at most the first has begun."""

    cradle: Cradle
    keeper: Keeper
    result_bytes: int
    kill_grace: float
    sent: deque[SharedAttempt] = field(factory=deque)
    since: float = field(factory=trio.current_time)
    """When the first of `sent` began, as far as we know, or when the last one ended."""
    output: Output = field(init=False)
    pid: int = 0
    is_ready: bool = False
    is_leaving: bool = False
    """It is given nothing more."""
    _into: socket.socket = field(init=False)
    _out: socket.socket = field(init=False)
    _news: trio.Event = field(factory=trio.Event)
    _over: trio.Event = field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self._into, self._out = reuse_words.socket_pair()
        self.output = Output(self.cradle.output)
        self.cradle.on_news = self._poke

    def _poke(self) -> None:
        self._news.set()

    # ---- its work

    def set_up(self, service: job.Service) -> None:
        """Tell the process what it is to be. Attempts may be sent at once, even before it is forked."""
        self.cradle.channel.send(encode(service))
        self.cradle.channel.pass_on(self._out.fileno())

    def send(self, attempt: SharedAttempt) -> bool:
        """False when it takes no more now. Raises OSError without descriptors or memory for a large one."""
        if not reuse_words.send_job(self._into, job.Job(workload=attempt.workload, result_limit=self.result_bytes)):
            return False
        if not self.sent:
            self.since = trio.current_time()
        self.sent.append(attempt)
        self.output.writers.append(attempt)
        attempt.phase, attempt.pid, attempt.sent_at = Phase.SENT, self.pid, time.time()
        return True

    def take_back(self) -> list[SharedAttempt]:
        """What had not begun, and here never will, in the order of sending."""
        tokens = reuse_words.take_back(self._out)
        back = [attempt for attempt in self.sent if attempt.workload.token in tokens]
        for attempt in back:
            self.sent.remove(attempt)
            self.output.forget(attempt)
            attempt.phase = Phase.WAITING
        return back

    def hang_up(self) -> None:
        """It leaves when it has ended what it runs."""
        self.is_leaving = True
        self._into.close()

    # ---- its life

    async def attend(self) -> None:
        """Listen until its process is gone."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen)
                nursery.start_soon(self._read_output)
                while not self.cradle.is_over:
                    await self._news.wait()
                    self._news = trio.Event()
                if self.cradle.orphaned is not None:
                    self.keeper.orphaned(self)
                    await self._end_without_parent()
                nursery.cancel_scope.cancel()
            self.read_now()
            self.output.read()
            self._over.set()
            if self.output.overheard:
                text = bytes(self.output.overheard).decode("utf-8", "replace")
                log.info("runner %d, between attempts: %s", self.pid, text)
            self.keeper.gone(self)
        finally:
            self.cradle.on_news = _nothing
            self.cradle.close()
            self._into.close()
            self._out.close()

    async def _listen(self) -> None:
        try:
            while (payloads := await self.cradle.channel.receive()) is not None:
                self._take_in(payloads)
        except PeerError as error:
            self._confused(error)

    def read_now(self) -> None:
        """Hear what it has said already."""
        try:
            while payloads := self.cradle.channel.receive_nowait():
                self._take_in(payloads)
        except PeerError as error:
            self._confused(error)

    def _confused(self, error: PeerError) -> None:
        log.warning("runner %d is ended: %s", self.pid, error)
        self.keeper.confused(self)

    def _take_in(self, payloads: list[bytes]) -> None:
        """Raises PeerError."""
        ends = []
        for payload in payloads:
            try:
                said = reuse_words.decode_said(payload)
            except msgspec.MsgspecError as error:
                raise PeerError(f"unreadable frame from a runner: {error}") from error
            if isinstance(said, reuse_words.Ready):
                self.is_ready, self.pid = True, said.pid
                for attempt in self.sent:
                    attempt.pid = said.pid
                continue
            if not self.sent or self.sent[0].workload.token != said.token:
                raise PeerError(f"a runner speaks of {said.token}, which it was not given")
            attempt = self.sent.popleft()
            self.output.read()  # all of its output came before this
            self.output.end_of(attempt)
            ends.append((attempt, said))
            self.is_leaving |= said.leaves
        self.since = trio.current_time()
        self.keeper.settled(self, ends)

    async def _read_output(self) -> None:
        """For attempts that run for a while; what short ones wrote is read when their end is heard."""
        while True:
            await trio.lowlevel.wait_readable(self.cradle.output)
            taken = self.output.read()
            if taken is None:
                return
            if taken < _MUCH:
                await trio.sleep(_OUTPUT_PAUSE)

    # ---- its end

    async def end(self) -> None:
        """SIGTERM to its group, SIGKILL after the grace; returns when it is gone."""
        if self.kill_grace > 0 and await self._signalled(signal.SIGTERM, self.kill_grace):
            return
        if not await self._signalled(signal.SIGKILL, AFTER_SIGKILL):
            log.error("runner %d survives SIGKILL", self.pid)

    async def _signalled(self, signum: signal.Signals, seconds: float) -> bool:
        if not self._over.is_set() and self.pid:
            signal_group(self.pid, signum)
        with trio.move_on_after(seconds):
            await self._over.wait()
        return self._over.is_set()

    async def _end_without_parent(self) -> None:
        """Its parent is dead and cannot tell us any more."""
        pid = self.pid or self.cradle.pid
        if not pid:
            return
        self.pid = pid
        try:
            process = os.pidfd_open(pid)
        except OSError:
            return
        try:
            for signum, seconds in ((signal.SIGTERM, self.kill_grace), (signal.SIGKILL, AFTER_SIGKILL)):
                signal_group(pid, signum)
                with trio.move_on_after(seconds):
                    await trio.lowlevel.wait_readable(process)
                    break
            # The leader is gone; what else was in its group goes with it.
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
        finally:
            os.close(process)


def _nothing() -> None:
    """Nobody listens any more."""
