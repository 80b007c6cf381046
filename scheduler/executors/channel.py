"""One non-blocking stream socket that carries frames: writes at once when it can, reads under trio."""

import contextlib
import socket

import trio

from scheduler.executors.protocol import FrameBuffer

_CHUNK = 64 * 1024
"""Bytes of one read. A new buffer of that size is taken for each: large ones tear the heap apart."""
_OUTBOX_LIMIT = 256 * 1024 * 1024


class Channel:
    """Sends synchronously (what the kernel does not take waits for `run_writer`), receives asynchronously.

    Sending never blocks and never raises: a peer that is gone shows itself to the reader as the end of the
    stream.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._frames = FrameBuffer()
        self._outbox = bytearray()
        self._more = trio.Event()
        self.closed = False

    def fileno(self) -> int:
        """Of the socket; -1 when it is closed."""
        return self._sock.fileno()

    @property
    def has_backlog(self) -> bool:
        """Something waits for `run_writer`."""
        return bool(self._outbox)

    def send(self, data: bytes) -> None:
        """Queue framed bytes, and pass on at once what the kernel takes."""
        if self.closed:
            return
        if self._outbox:
            self._outbox += data
            if len(self._outbox) > _OUTBOX_LIMIT:  # a peer that stopped reading long ago
                self.shut_down()
            return
        sent = self._try_send(data)
        if sent < len(data):
            self._outbox += memoryview(data)[sent:]
            self._more.set()

    def pass_on(self, fd: int) -> None:
        """Give the peer a copy of this descriptor, after what was sent before: one byte that carries it.

        For a channel that has just been made, so that the kernel surely takes it.
        """
        assert not self._outbox
        with contextlib.suppress(OSError):  # it is gone, as the reader will see
            socket.send_fds(self._sock, [b"\0"], [fd], socket.MSG_NOSIGNAL)

    def _try_send(self, data: bytes | bytearray) -> int:
        try:
            return self._sock.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError:
            self.shut_down()
            return len(data)

    async def run_writer(self) -> None:
        """Write what `send` could not, until the channel is closed."""
        while not self.closed:
            await self._more.wait()
            self._more = trio.Event()
            while self._outbox and not self.closed:
                try:
                    await trio.lowlevel.wait_writable(self._sock.fileno())
                except trio.ClosedResourceError:
                    return
                sent = self._try_send(self._outbox)
                del self._outbox[:sent]

    async def receive(self) -> list[bytes] | None:
        """The next payloads (perhaps none yet); None at the end of the stream. Raises PeerError."""
        while True:
            got = self.receive_nowait()
            if got is None or got:
                return got
            if self.closed:
                return None
            try:
                await trio.lowlevel.wait_readable(self._sock.fileno())
            except trio.ClosedResourceError:
                return None

    def receive_nowait(self) -> list[bytes] | None:
        """What has arrived, without waiting; None at the end of the stream. Raises PeerError.

        Empty only if nothing more is there: a long payload may need several reads.
        """
        while not self.closed:
            try:
                try:
                    data = self._sock.recv(_CHUNK)
                except ConnectionResetError:
                    # The peer left without reading everything; what it had said before can still be read.
                    data = self._sock.recv(_CHUNK)
            except BlockingIOError:
                return []
            except OSError:
                return None
            if not data:
                return None
            if payloads := self._frames.feed(data):
                return payloads
        return None

    def shut_down(self) -> None:
        """Let both sides see the end of the stream; the reader then closes."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the descriptor back; waiting readers and writers wake up."""
        if self.closed:
            return
        self.closed = True
        self._more.set()
        trio.lowlevel.notify_closing(self._sock.fileno())
        self._sock.close()
