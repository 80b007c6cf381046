"""What a worker and one task process say to each other, in frames on the socket between them."""

import contextlib
import socket
import struct
from typing import Any

import msgspec

from scheduler.executors.protocol import encode
from scheduler.model import OutcomeKind, Workload

_LENGTH = struct.Struct(">I")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """First frame: what to run. Sent before the start is granted, so that go need only wake the process.

    With `workload.inputs` the start has been granted, and no second frame follows.
    """

    workload: Workload
    result_limit: int


class Go(msgspec.Struct, frozen=True, kw_only=True):
    """Second frame: the start is committed. The end of the stream instead means: leave without running."""

    inputs: dict[str, Any]


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """The process's last word."""

    kind: OutcomeKind
    result: str | None = None
    decision: dict[str, list[str]] | None = None
    retryable: bool = True
    message: str = ""
    reason: str = ""


_job: msgspec.json.Decoder[Job] = msgspec.json.Decoder(Job)
_go: msgspec.json.Decoder[Go] = msgspec.json.Decoder(Go)
_ended: msgspec.json.Decoder[Ended] = msgspec.json.Decoder(Ended)


def decode_ended(payload: bytes) -> Ended:
    """Raises msgspec.MsgspecError."""
    return _ended.decode(payload)


class Line:
    """The task process's end: blocking."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def wait_for_job(self) -> Job | None:
        """None when the worker hung up: the process is not needed."""
        payload = self._receive()
        return None if payload is None else _job.decode(payload)

    def wait_for_go(self) -> Go | None:
        """None when the attempt must not run."""
        payload = self._receive()
        return None if payload is None else _go.decode(payload)

    def report(self, ended: Ended) -> None:
        """Say how it ended; nobody may be listening any more."""
        with contextlib.suppress(OSError):
            self._sock.sendall(encode(ended))

    def close(self) -> None:
        self._sock.close()

    def _receive(self) -> bytes | None:
        head = self._exactly(_LENGTH.size)
        return None if head is None else self._exactly(_LENGTH.unpack(head)[0])

    def _exactly(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            try:
                more = self._sock.recv(size - len(data), socket.MSG_WAITALL)
            except OSError:
                return None
            if not more:
                return None
            data += more
        return data
