"""Telling the service manager how things stand: the datagrams of sd_notify(3). Nothing here ever raises."""

import logging
import math
import os
import socket
import time
from collections.abc import MutableMapping

_log = logging.getLogger(__name__)

_STREAM_LIMIT_S = 1.0


class Notifier:
    """Sends messages to the service manager, or nowhere if there is none.

    The messages are hints. A socket that has vanished, a full queue, an address nobody understands: all
    ignored, since a daemon must not die of its own reports.
    """

    def __init__(self, address: str = "", *, watchdog_usec: int | None = None) -> None:
        self._address = address
        # A third: two may be lost or late before the manager loses patience.
        self.watchdog_interval: float | None = watchdog_usec / 3e6 if watchdog_usec else None

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> "Notifier":
        """The notifier that `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` describe.

        They are taken out of the environment: they are meant for this process, not for its children.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        usec = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        for_us = not pid or pid == str(os.getpid())
        return cls(address, watchdog_usec=int(usec) if for_us and usec.isdecimal() else None)

    @property
    def is_connected(self) -> bool:
        """Whether there is an address to send to; nobody says that somebody listens."""
        return bool(self._address)

    def ready(self, status: str = "") -> None:
        """The daemon is up (or up again, after `reloading`)."""
        self._send("READY=1", *_status(status))

    def status(self, text: str) -> None:
        """One line for people."""
        self._send(*_status(text))

    def watchdog(self) -> None:
        """There is progress."""
        self._send("WATCHDOG=1")

    def stopping(self, status: str = "") -> None:
        """The daemon is on its way out."""
        self._send("STOPPING=1", *_status(status))

    def reloading(self) -> None:
        """The daemon reads its configuration again; `ready` follows."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def extend_timeout(self, seconds: float) -> None:
        """Starting, reloading or stopping goes on and needs at most so many seconds more, from now."""
        if math.isfinite(seconds):
            self._send(f"EXTEND_TIMEOUT_USEC={max(0, int(seconds * 1e6))}")

    def errno(self, number: int, *, exit_status: int | None = None) -> None:
        """Starting failed because of this error number, and the daemon will exit with that status."""
        self._send(f"ERRNO={number}", *([] if exit_status is None else [f"EXIT_STATUS={exit_status}"]))

    def _send(self, *lines: str) -> None:
        if not self._address or not lines:
            return
        try:
            _deliver(self._address, "\n".join(lines).encode())
        except (OSError, ValueError, OverflowError) as error:
            _log.debug("the service manager was not told %r: %s", lines[0], error)

    def __repr__(self) -> str:
        return f"<Notifier {self._address or 'without a service manager'}>"


def _status(text: str) -> list[str]:
    return [f"STATUS={' '.join(text.split())}"] if text else []


def _deliver(address: str, message: bytes) -> None:
    if address.startswith("vsock"):
        _deliver_vsock(address, message)
        return
    if address[0] not in "/@":
        raise ValueError(f"not an address of a service manager: {address}")
    # A leading @ stands for the null byte of the abstract namespace.
    target = "\0" + address[1:] if address[0] == "@" else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setblocking(False)
        sender.sendto(message, target)


def _deliver_vsock(address: str, message: bytes) -> None:
    kind, cid, port = address.split(":")
    kinds = {"vsock-dgram": socket.SOCK_DGRAM, "vsock-seqpacket": socket.SOCK_SEQPACKET}
    with socket.socket(socket.AF_VSOCK, kinds.get(kind, socket.SOCK_STREAM) | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(_STREAM_LIMIT_S)
        sender.connect((int(cid), int(port)))
        sender.send(message)
