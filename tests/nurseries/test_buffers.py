"""What arrives on the asyncio side is read in small pieces, all of it and in order."""

import asyncio
import socket

from nurseries.bridge import open_bridge
from nurseries.buffers import RECEIVE_BYTES

SENT = bytes(range(256)) * 8192


class Listening(asyncio.Protocol):
    """Keeps what it is given."""

    def __init__(self, done: "asyncio.Future[None]") -> None:
        self.pieces: list[bytes] = []
        self._done = done

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._done.set_result(None)


async def test_a_long_message_arrives_whole_in_pieces() -> None:
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * RECEIVE_BYTES)  # more than one piece waits

    async def crossing() -> list[bytes]:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        _, listening = await loop.create_connection(lambda: Listening(done), sock=ours)
        _, writer = await asyncio.open_connection(sock=theirs)
        writer.write(SENT)
        await writer.drain()
        writer.close()
        await done
        return listening.pieces

    async with open_bridge() as bridge:
        pieces = await bridge.shielded(crossing)
    assert b"".join(pieces) == SENT
    assert max(map(len, pieces)) == RECEIVE_BYTES, "as much as there is room for, and not more"
