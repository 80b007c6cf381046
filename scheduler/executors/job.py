"""What a worker and one task process say to each other, in frames on the socket between them."""

import contextlib
import os
import socket
import struct
from typing import Any

import msgspec

from scheduler.executors.descriptors import receive_fds
from scheduler.executors.protocol import encode
from scheduler.model import OutcomeKind, Workload

_LENGTH = struct.Struct(">I")
_WALL = 0x40000000  # children that were made by clone without a signal, too


class Job(msgspec.Struct, frozen=True, kw_only=True, tag="job"):
    """First frame: what to run. Sent before the start is granted, so that go need only wake the process.

    With `workload.inputs` the start has been granted, and no second frame follows.
    """

    workload: Workload
    result_limit: int


class Service(msgspec.Struct, frozen=True, kw_only=True, tag="service"):
    """First frame in the place of a job: become a runner of many attempts. The socket its jobs come on follows.

    See `reuse` for what such a process is.
    """

    attempts: int
    """It leaves after so many."""
    growth_bytes: int
    """It leaves when its peak memory has grown by more."""


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
    alone: bool = False
    """The process had no child left when it said this: with it, everything it started is gone."""


_first: msgspec.json.Decoder[Job | Service] = msgspec.json.Decoder(Job | Service)
_go: msgspec.json.Decoder[Go] = msgspec.json.Decoder(Go)
_ended: msgspec.json.Decoder[Ended] = msgspec.json.Decoder(Ended)


def decode_ended(payload: bytes) -> Ended:
    """Raises msgspec.MsgspecError."""
    return _ended.decode(payload)


def _has_no_child() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
    except ChildProcessError:
        return True
    return False


class Line:
    """The task process's end: blocking."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def wait_for_job(self) -> Job | Service | None:
        """None when the worker hung up: the process is not needed."""
        payload = self._receive()
        return None if payload is None else _first.decode(payload)

    def receive_socket(self) -> socket.socket:
        """The one that the worker has sent. Raises OSError when it hung up."""
        _, fds = receive_fds(self._sock, 1, most=1)
        if not fds:
            raise ConnectionResetError("the worker hung up")
        return socket.socket(fileno=fds[0])

    def wait_for_go(self) -> Go | None:
        """None when the attempt must not run."""
        payload = self._receive()
        return None if payload is None else _go.decode(payload)

    def report(self, ended: Ended) -> None:
        """Say how it ended; nobody may be listening any more."""
        self.say(msgspec.structs.replace(ended, alone=_has_no_child()))

    def say(self, message: msgspec.Struct) -> None:
        """Send a frame, unless the worker is gone."""
        with contextlib.suppress(OSError):
            self._sock.sendall(encode(message))

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
