"""A worker that does everything a worker does but run tasks: `python -m bench.instant_worker SOCKET SLOTS`.

A process of its own that speaks the protocol of `scheduler.executors.protocol` over the daemon's socket: it asks for
the start of what it is given, unless that was started already, waits for the answer, reports success, and has that
acknowledged. No state is skipped.
"""

import os
import select
import socket
import sys
import uuid
from pathlib import Path

from scheduler.executors import protocol
from scheduler.executors.protocol import FrameBuffer
from scheduler.model import Outcome, OutcomeKind, StartRequest


class InstantWorker:
    """Blocking, on one socket."""

    def __init__(self, path: Path, slots: int) -> None:
        self.worker_id = str(uuid.uuid4())
        self._hostname = socket.gethostname()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._say(
            protocol.Hello(
                worker_id=self.worker_id,
                pid=os.getpid(),
                hostname=self._hostname,
                slots=slots,
                running=[],
                draining=False,
            )
        )

    def _say(self, message: protocol.FromWorker) -> None:
        self._socket.sendall(protocol.encode(message))

    def run(self) -> None:
        """Answer until the daemon closes the connection or asks for the end."""
        frames = FrameBuffer()
        while True:
            readable, _, _ = select.select([self._socket], [], [], protocol.HEARTBEAT_SECONDS)
            if not readable:
                self._say(protocol.Beat())
                continue
            try:
                data = self._socket.recv(1024 * 1024)
            except ConnectionResetError:
                return
            if not data:
                return
            for payload in frames.feed(data):
                message = protocol.decode_from_daemon(payload)
                if isinstance(message, protocol.Drain):
                    return
                self._hear(message)

    def _hear(self, message: protocol.FromDaemon) -> None:
        if isinstance(message, protocol.Submit):
            requests = [
                StartRequest(token=one.token, worker_id=self.worker_id, pid=os.getpid(), hostname=self._hostname)
                for one in message.workloads
                if one.inputs is None
            ]
            if requests:
                self._say(protocol.Starts(requests=requests))
            self._end([one.token for one in message.workloads if one.inputs is not None])
        elif isinstance(message, protocol.Answers):
            self._end([one.token for one in message.answers if one.accepted])
            refused = [one.token for one in message.answers if not one.accepted]
            if refused:
                self._say(protocol.Gone(tokens=refused))

    def _end(self, tokens: list[str]) -> None:
        """Report that these have started and succeeded."""
        if tokens:
            outcomes = [Outcome(token=token, kind=OutcomeKind.SUCCESS, exit_code=0) for token in tokens]
            self._say(protocol.Report(outcomes=outcomes))


if __name__ == "__main__":
    InstantWorker(Path(sys.argv[1]), int(sys.argv[2])).run()
