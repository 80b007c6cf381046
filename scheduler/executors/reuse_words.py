"""What a worker and a runner of many attempts say to each other.

Two sockets. On the *line*, a stream with frames like every task process has, the runner speaks. Its *jobs* come as
packets on a socket of their own, of which the worker keeps both ends: a packet is received once, by whoever is first,
so what the worker can take back the runner has not begun and never will, and what it cannot was begun.

What attempts write goes through one pipe to the worker, which writes the logs; a mark ends the output of each.
"""

import contextlib
import os
import socket
from collections.abc import Iterator

import msgspec

from scheduler.executors.descriptors import receive_fds
from scheduler.executors.job import Ended, Job

_INLINE_BYTES = 32 * 1024
"""A larger job is passed as a file in memory, so that packets always fit into the socket's buffer."""
_ELSEWHERE = b"\0"


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The runner begins with its jobs."""

    pid: int


class _Token(msgspec.Struct, frozen=True):
    token: str


class _Label(msgspec.Struct, frozen=True, tag_field="type", tag="job"):
    """What tells one job from another."""

    workload: _Token


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished"):
    """An attempt has ended, and everything it has started."""

    token: str
    ended: Ended
    seconds: float
    """It has taken."""
    leaves: bool
    """The runner takes no further job."""


_encoder = msgspec.json.Encoder()
_said: msgspec.json.Decoder[Ready | Finished] = msgspec.json.Decoder(Ready | Finished)
_label: msgspec.json.Decoder[_Label] = msgspec.json.Decoder(_Label)
_job: msgspec.json.Decoder[Job] = msgspec.json.Decoder(Job)


def decode_said(payload: bytes) -> Ready | Finished:
    """Raises msgspec.MsgspecError."""
    return _said.decode(payload)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """(the end that jobs go in, the end they come out): the first never blocks."""
    into, out = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    into.setblocking(False)
    return into, out


def mark(token: str) -> bytes:
    """What a runner writes into its output behind that of an attempt: nothing that the attempt could know."""
    return b"\0%s\0" % token.encode()


def send_job(into: socket.socket, job: Job) -> bool:
    """False when it could not be sent now. Raises OSError without descriptors or memory for a large one."""
    data = _encoder.encode(job)
    with contextlib.suppress(BlockingIOError):
        if len(data) <= _INLINE_BYTES:
            return into.send(data, socket.MSG_NOSIGNAL) > 0
        with _file_in_memory(data) as fd:
            return socket.send_fds(into, [_ELSEWHERE], [fd], socket.MSG_NOSIGNAL) > 0
    return False


@contextlib.contextmanager
def _file_in_memory(data: bytes) -> Iterator[int]:
    fd = os.memfd_create("job", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        yield fd
    finally:
        os.close(fd)


def receive_job(out: socket.socket) -> Job | None:
    """Wait for the next one; None when no more will come."""
    try:
        data = _receive(out)
    except OSError:
        return None
    return _job.decode(data) if data else None


def take_back(out: socket.socket) -> set[str]:
    """The tokens of the jobs that nobody had received; now nobody will.

    Not always the last ones that were sent: the runner may take one between two of ours.
    """
    tokens = set()
    with contextlib.suppress(OSError):
        while data := _receive(out, socket.MSG_DONTWAIT):
            tokens.add(_label.decode(data).workload.token)
    return tokens


def _receive(out: socket.socket, flags: int = 0) -> bytes:
    data, fds = receive_fds(out, _INLINE_BYTES, most=1, flags=flags)
    if fds:
        with open(fds[0], "rb") as file:
            file.seek(0)
            return file.read()
    return data
