"""The Unix socket workers call on."""

import contextlib
import logging
import os
import socket
import stat
import struct
from pathlib import Path

import trio

log = logging.getLogger(__name__)

_BACKLOG = 16
_ACCEPT_PAUSE = 0.5
_PEER = struct.Struct("3i")


def listen(path: Path) -> socket.socket:
    """A socket that root, this user and its group may call on. Raises OSError, also when a file is in the way."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()  # of a daemon that was killed; the home's lock says it is gone
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        umask = os.umask(0o117)
        try:
            listener.bind(str(path))
        finally:
            os.umask(umask)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


async def accept(listener: socket.socket) -> socket.socket:
    """The next connection of somebody who may be a worker; others are refused."""
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            await trio.lowlevel.wait_readable(listener.fileno())
        except ConnectionError:
            await trio.lowlevel.checkpoint()
        except OSError as error:  # no descriptors left: pause, do not spin
            log.warning("cannot accept a worker: %s", error)
            await trio.sleep(_ACCEPT_PAUSE)
        else:
            if _is_trusted(connection):
                return connection
            connection.close()


def _is_trusted(connection: socket.socket) -> bool:
    """Workers run as this user, or as root."""
    _, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if uid in (0, os.geteuid()):
        return True
    log.warning("a process of uid %d called on the worker socket and was refused", uid)
    return False
