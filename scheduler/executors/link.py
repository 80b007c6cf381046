"""The worker's line to the daemon: what must reach it is repeated on every connection until it has."""

import logging
import os
import random
import socket
from collections.abc import Callable, Collection
from pathlib import Path

import trio
from attrs import define, field

from scheduler.executors import protocol
from scheduler.executors.channel import Channel
from scheduler.executors.spool import Spool
from scheduler.model import Outcome, StartRequest

log = logging.getLogger(__name__)

_ENVELOPE = 4096
"""Bytes of an outcome beside its result, at most."""
_REPORT_BYTES = 1024 * 1024
_PAUSE_SECONDS = (0.05, 1.0)


@define(eq=False, kw_only=True)
class Link:
    """Reconnects for ever; without a connection everything waits here."""

    socket_path: Path
    spool: Spool
    worker_id: str
    slots: int
    running: Callable[[], Collection[str]]
    """Tokens of the attempts that have not ended."""
    hear: Callable[[protocol.FromDaemon], None]
    """Called with everything the daemon says but acknowledgements."""
    on_change: Callable[[], None]
    """Called when the connection has changed; while draining, also when what is unacknowledged has."""
    hostname: str = field(factory=socket.gethostname)
    draining: bool = False
    lost_at: float | None = field(factory=trio.current_time)
    """Since when nobody is connected."""
    _channel: Channel | None = None
    _starts: dict[str, StartRequest] = field(factory=dict)
    _outcomes: dict[str, Outcome] = field(factory=dict)
    _spooled: set[str] = field(factory=set)

    @property
    def unacknowledged(self) -> int:
        """Outcomes no daemon has confirmed."""
        return len(self._outcomes)

    # ---- what the attempts say

    def ask_start(self, token: str, pid: int) -> None:
        """Ask until it is answered or withdrawn."""
        request = StartRequest(token=token, worker_id=self.worker_id, pid=pid, hostname=self.hostname)
        self._starts[token] = request
        self._say(protocol.Starts(requests=[request]))

    def withdraw(self, token: str) -> None:
        """The attempt no longer waits for an answer."""
        self._starts.pop(token, None)

    def report(self, outcomes: Collection[Outcome]) -> None:
        """Report each until it is acknowledged."""
        for outcome in outcomes:
            self._starts.pop(outcome.token, None)
            self._outcomes[outcome.token] = outcome
        self._report(outcomes)
        self._changed()

    def _report(self, outcomes: Collection[Outcome]) -> None:
        """In few frames, but not in too large ones, since results may be large."""
        share: list[Outcome] = []
        size = 0
        for outcome in outcomes:
            weight = _ENVELOPE + 2 * len(outcome.result or "")
            if share and size + weight > _REPORT_BYTES:
                self._say(protocol.Report(outcomes=share))
                share, size = [], 0
            share.append(outcome)
            size += weight
        if share:
            self._say(protocol.Report(outcomes=share))

    def gone(self, token: str) -> None:
        """A refused attempt has left."""
        self._starts.pop(token, None)
        self._say(protocol.Gone(tokens=[token]))
        self._changed()

    def _changed(self) -> None:
        if self.draining:  # else the worker stays, whatever is acknowledged
            self.on_change()

    def drain(self) -> None:
        """Tell the daemon that no new work is taken."""
        self.draining = True
        self._say(self._hello())

    def beat(self) -> None:
        """Tell the daemon that we live."""
        self._say(protocol.Beat())

    # ---- the spool

    def collect_spool(self) -> None:
        """Take over what other workers could not report."""
        for token in self.spool.tokens():
            if token in self._outcomes or token in self.running():
                continue
            outcome = self.spool.read(token)
            if outcome is not None:
                self._spooled.add(token)
                self.report([outcome])

    def write_spool(self) -> None:
        """Keep what is unacknowledged for the next worker. Logs what could not be written."""
        for token, outcome in self._outcomes.items():
            if token in self._spooled:
                continue
            try:
                self.spool.keep(outcome)
            except OSError as error:
                log.error("the outcome of attempt %s is lost: %s", token, error)  # noqa: TRY400
            else:
                log.info("the outcome of attempt %s is kept for the next worker", token)

    # ---- the connection

    async def run(self) -> None:
        """Connect, listen, connect again, with jittered pauses that grow while nobody answers."""
        pause, longest = _PAUSE_SECONDS
        while True:
            sock = self._connect()
            if sock is None:
                await trio.sleep(random.uniform(pause / 2, pause))
                pause = min(pause * 2, longest)
                continue
            pause = _PAUSE_SECONDS[0]
            try:
                await self._converse(Channel(sock))
            except* protocol.PeerError as broken:
                log.error("the connection to the daemon is dropped: %s", broken.exceptions[0])  # noqa: TRY400
            await trio.sleep(random.uniform(0, pause))

    def _connect(self) -> socket.socket | None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(self.socket_path))  # local: it is accepted or refused at once
        except OSError:
            sock.close()
            return None
        return sock

    async def _converse(self, channel: Channel) -> None:
        self._channel = channel
        self.lost_at = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.run_writer)
                self._introduce()
                self.on_change()
                while (payloads := await channel.receive()) is not None:
                    for payload in payloads:
                        self._hear(protocol.decode_from_daemon(payload))
                nursery.cancel_scope.cancel()
        finally:
            self._channel = None
            self.lost_at = trio.current_time()
            channel.close()
            self.on_change()

    def _introduce(self) -> None:
        self._say(self._hello())
        if self._starts:
            self._say(protocol.Starts(requests=list(self._starts.values())))
        self._report(self._outcomes.values())

    def _hello(self) -> protocol.Hello:
        return protocol.Hello(
            worker_id=self.worker_id,
            pid=os.getpid(),
            hostname=self.hostname,
            slots=self.slots,
            running=sorted(self.running()),
            draining=self.draining,
            ended=list(self._outcomes),
        )

    def _hear(self, message: protocol.FromDaemon) -> None:
        if isinstance(message, protocol.Ack):
            for token in message.tokens:
                self._outcomes.pop(token, None)
                if token in self._spooled:
                    self.spool.drop(token)
                    self._spooled.discard(token)
            self._changed()
            return
        if isinstance(message, protocol.Answers):
            for answer in message.answers:
                self._starts.pop(answer.token, None)
        self.hear(message)

    def _say(self, message: protocol.FromWorker) -> None:
        if self._channel is not None:
            self._channel.send(protocol.encode(message))
