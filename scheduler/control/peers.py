"""Who is on the other end of a unix socket, and whether the control socket admits them.

root, the daemon's own user, and members of the group `asyncsched`. The kernel answers, so nobody can pretend.
"""

import grp
import os
import socket
import struct
from collections.abc import Set
from typing import Protocol

from attrs import frozen

GROUP = "asyncsched"

NOBODY = 65534
"""Inside a user namespace every foreign user appears as this one: it proves nothing about who is asking."""

_SO_PEERGROUPS = 59  # Linux; not in the socket module
_CREDENTIALS = struct.Struct("iII")


@frozen(kw_only=True)
class Peer:
    """A connected process, as the kernel saw it when it connected."""

    pid: int
    uid: int
    groups: Set[int]


class HasOptions(Protocol):
    """A socket of the standard library, or trio's."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def peer_of(connection: HasOptions) -> Peer:
    """Return who is on the other end of a connected unix socket. Raises OSError."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return Peer(pid=pid, uid=uid, groups=_groups(connection) | {gid})


def _groups(connection: HasOptions) -> frozenset[int]:
    width = struct.calcsize("I")
    try:
        # 65536 is the kernel's limit of supplementary groups; the buffer lives for this line only.
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 65536 * width)
    except OSError:
        return frozenset()  # a kernel before 4.13: users still pass by uid
    return frozenset(struct.unpack(f"{len(raw) // width}I", raw))


def is_admitted(peer: Peer, *, own_uid: int | None = None, group: str = GROUP) -> bool:
    """Whether this peer may use the control socket of a daemon that runs as `own_uid` (default: ours)."""
    own = os.geteuid() if own_uid is None else own_uid
    if peer.uid == 0 or (peer.uid == own and own != NOBODY):
        return True
    try:
        return grp.getgrnam(group).gr_gid in peer.groups
    except KeyError:
        return False
