"""The control socket as a file: made with its final mode, accepted from without dying of full tables."""

import contextlib
import errno
import grp
import logging
import os
import socket
import stat
from pathlib import Path

import trio

from scheduler.control.peers import GROUP

logger = logging.getLogger(__name__)

MODE = 0o660
BACKLOG = 128
FULL_TABLE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
FULL_TABLE_PAUSE = 0.1
"""Seconds before the next accept when the process has no descriptor left: the listener stays readable."""


def listen(path: Path) -> trio.SocketListener:
    """Bind `path` and listen; a socket that a dead daemon left there is replaced.

    Only for whoever holds the home's lock: a living daemon's socket would be replaced as well.
    Raises OSError, also if `path` is something other than a socket.
    """
    found = identity(path)
    if found is not None:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "it is in the way of the control socket", str(path))
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The mode must be right from the first moment, so the mask and not a later chmod.
        before = os.umask(0o777 & ~MODE)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        # Members of the group may connect; who they are is checked again on each connection.
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
        sock.listen(BACKLOG)
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    except BaseException:
        sock.close()
        raise


async def accept(listener: trio.SocketListener) -> trio.SocketStream:
    """The next client; waits and tries again while the process has no descriptor to spare."""
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            if error.errno not in FULL_TABLE:
                raise
            logger.warning("cannot accept a control client: %s", error)
            await trio.sleep(FULL_TABLE_PAUSE)


def identity(path: Path) -> tuple[int, int] | None:
    """Which file lies at `path`, or None."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
