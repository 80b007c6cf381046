"""Lines from a trio stream, each bounded."""

import trio


class LineTooLong(Exception):
    """More bytes than the limit arrived without an end of line."""


class Lines:
    """Reads one line after the other; what arrives early is kept for the next one."""

    def __init__(self, stream: trio.abc.ReceiveStream, *, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._buffer = bytearray()
        self._ended = False

    async def next(self) -> bytes | None:
        """Return the next line without its end, or None at the end of the stream. Raises LineTooLong."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > self._limit:
                raise LineTooLong
            if self._ended or not await self._receive():
                return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        if len(line) > self._limit:
            raise LineTooLong
        return line

    async def wait_end(self) -> None:
        """Return when the other side has hung up; what it sends meanwhile is kept, up to the limit."""
        while not self._ended and len(self._buffer) <= self._limit:
            await self._receive()
        if not self._ended:
            await trio.sleep_forever()

    async def _receive(self) -> bool:
        chunk = await self._stream.receive_some()
        self._buffer += chunk
        self._ended = not chunk
        return not self._ended
