"""A channel's reader: whole payloads, however many reads they take."""

import socket

from scheduler.executors import channel
from scheduler.executors.channel import Channel
from scheduler.executors.protocol import frame


async def test_a_payload_longer_than_a_read_is_not_mistaken_for_nothing() -> None:
    """An attempt's last words are read with all that is there, and it is buried then."""
    ours, theirs = socket.socketpair()
    with theirs:
        reader = Channel(ours)
        long, short = b"x" * (2 * channel._CHUNK + 1), b"y"
        assert reader.receive_nowait() == []
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * channel._CHUNK)
        theirs.setblocking(False)
        data = frame(long) + frame(short)
        assert theirs.send(data) == len(data), "the kernel takes it all at once"
        got = []
        while payloads := reader.receive_nowait():
            got += payloads
        assert got == [long, short]
        theirs.send(frame(b"last")[:-1])
        assert reader.receive_nowait() == []
        theirs.close()
        assert reader.receive_nowait() is None
        reader.close()
