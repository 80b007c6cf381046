"""The words between daemon and worker: frames of a 4-byte big-endian length and one JSON document.

The same framing carries what a task process and its worker say to each other.
"""

import struct
from typing import Any

import msgspec

from scheduler.model import Outcome, StartAnswer, StartRequest, Workload

FRAME_LIMIT = 16 * 1024 * 1024
"""Bytes of one frame; a longer one is a broken peer, and the connection is dropped."""

HEARTBEAT_SECONDS = 5.0

_LENGTH = struct.Struct(">I")


class PeerError(Exception):
    """The other side sent what no version of it should send."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of everything said on the socket."""


# ---- worker to daemon


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """First frame of every connection, and sent again when the worker begins to drain."""

    worker_id: str
    pid: int
    hostname: str
    slots: int
    running: list[str]
    draining: bool
    ended: list[str] = []
    """Attempts whose outcomes are reported next on this connection."""


class Starts(Message, frozen=True, kw_only=True, tag="starts"):
    """These attempts have a process and want to start."""

    requests: list[StartRequest]


class Report(Message, frozen=True, kw_only=True, tag="report"):
    """These attempts have ended; repeated on every connection until acknowledged."""

    outcomes: list[Outcome]


class Gone(Message, frozen=True, kw_only=True, tag="gone"):
    """These attempts have left the worker without an outcome: their start was refused."""

    tokens: list[str]


class Beat(Message, frozen=True, kw_only=True, tag="beat"):
    """The worker lives."""


# ---- daemon to worker


class Submit(Message, frozen=True, kw_only=True, tag="submit"):
    """Run these."""

    workloads: list[Workload]


class Answers(Message, frozen=True, kw_only=True, tag="answers"):
    """What became of start requests."""

    answers: list[StartAnswer]


class Ack(Message, frozen=True, kw_only=True, tag="ack"):
    """These outcomes are safe in the database."""

    tokens: list[str]


class Cancel(Message, frozen=True, kw_only=True, tag="cancel"):
    """End this attempt."""

    token: str
    reason: str


class Warm(Message, frozen=True, kw_only=True, tag="warm"):
    """Keep warm parents for these (file, source_path, source_hash)."""

    files: list[tuple[str, str, str]]


class Drain(Message, frozen=True, kw_only=True, tag="drain"):
    """Take no new work; after so many seconds stop what still runs; then leave.

    For the daemon's own worker; one of its own standing takes no notice.
    """

    grace_seconds: float


FromWorker = Hello | Starts | Report | Gone | Beat
FromDaemon = Submit | Answers | Ack | Cancel | Warm | Drain

_encoder = msgspec.json.Encoder()
_from_worker: msgspec.json.Decoder[FromWorker] = msgspec.json.Decoder(FromWorker)
_from_daemon: msgspec.json.Decoder[FromDaemon] = msgspec.json.Decoder(FromDaemon)


def frame(payload: bytes) -> bytes:
    """`payload` with its length in front. Raises ValueError when it is longer than FRAME_LIMIT."""
    if len(payload) > FRAME_LIMIT:
        raise ValueError(f"a frame of {len(payload)} bytes exceeds the limit of {FRAME_LIMIT}")
    return _LENGTH.pack(len(payload)) + payload


def encode(message: Any) -> bytes:
    """One framed JSON document. Raises ValueError when it is longer than FRAME_LIMIT."""
    return frame(_encoder.encode(message))


def decode_from_worker(payload: bytes) -> FromWorker:
    """Raises PeerError."""
    try:
        return _from_worker.decode(payload)
    except msgspec.MsgspecError as error:
        raise PeerError(f"unreadable frame from a worker: {error}") from error


def decode_from_daemon(payload: bytes) -> FromDaemon:
    """Raises PeerError."""
    try:
        return _from_daemon.decode(payload)
    except msgspec.MsgspecError as error:
        raise PeerError(f"unreadable frame from the daemon: {error}") from error


class FrameBuffer:
    """Cuts a stream of bytes into the payloads of frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads completed by `data`. Raises PeerError when a length exceeds FRAME_LIMIT."""
        buffer = self._buffer
        buffer += data
        complete: list[bytes] = []
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            if length > FRAME_LIMIT:
                raise PeerError(f"a frame of {length} bytes exceeds the limit of {FRAME_LIMIT}")
            end = at + _LENGTH.size + length
            if len(buffer) < end:
                break
            complete.append(bytes(buffer[at + _LENGTH.size : end]))
            at = end
        del buffer[:at]
        return complete
