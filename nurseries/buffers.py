"""Sockets of the asyncio side read into buffers that fit what arrives.

asyncio takes a new buffer of 256 kB for each read, and gives back what it did not need. What is allocated meanwhile and
stays lies in the middle of that room, so the next buffer needs new room: the heap of a program that reads all day grows
by megabytes, which nobody uses and the system does not get back.
"""

from typing import Any

RECEIVE_BYTES = 64 * 1024
"""Of one read. A server sends in pieces of 8 kB, and an answer of more than this is rare."""


def read_in_pieces(loop: Any) -> None:
    """Have the sockets of this `TrioEventLoop`, which has just been opened, read so much at once. Touches only it."""
    make = loop._make_socket_transport  # noqa: SLF001 - there is no public way: an upgrade runs test_buffers.py

    def made(*args: Any, **named: Any) -> Any:
        transport = make(*args, **named)
        transport.max_size = RECEIVE_BYTES
        return transport

    loop._make_socket_transport = made  # noqa: SLF001
