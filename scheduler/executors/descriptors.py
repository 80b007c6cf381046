"""Descriptors received over a socket."""

import array
import socket


def receive_fds(sock: socket.socket, size: int, *, most: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """The next data, at most `size` bytes, and the descriptors that came with it, closed on exec.

    Raises OSError. `socket.recv_fds` would do, if it did not ignore its flags (as in Python 3.11).
    """
    room = socket.CMSG_LEN(most * array.array("i").itemsize)
    data, ancillary, _, _ = sock.recvmsg(size, room, flags | socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)
