"""The log file of one attempt, bounded."""

import logging
import os

log = logging.getLogger(__name__)


class LogFile:
    """Appends to `path` until it holds `limit` bytes, then writes one marker line and drops the rest.

    Opened with the first byte, or before. A disk that is full or read-only costs the log, never the attempt.
    """

    def __init__(self, path: str, *, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._fd = -1
        self._left = 0
        self._given_up = False

    def write(self, data: bytes) -> None:
        """Append; never raises OSError."""
        if self._given_up or not data:
            return
        try:
            if self._fd < 0:
                self._open()
            if len(data) <= self._left:
                self._write(data)
                return
            self._write(data[: self._left])
            self._write(self._marker())
        except OSError as error:
            log.warning("the log %s is incomplete: %s", self._path, error.strerror)
        self._given_up = True

    def open(self) -> None:
        """Now and not with the first byte; never raises OSError."""
        if self._fd >= 0 or self._given_up:
            return
        try:
            self._open()
        except OSError as error:
            log.warning("the log %s is incomplete: %s", self._path, error.strerror)
            self._given_up = True

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._given_up = True

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(self._path, flags, 0o640)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._path), mode=0o750, exist_ok=True)
            self._fd = os.open(self._path, flags, 0o640)
        # A try that was lost and runs again goes on in the same file.
        self._left = max(0, self._limit - os.fstat(self._fd).st_size)

    def _write(self, data: bytes) -> None:
        self._left -= len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def _marker(self) -> bytes:
        return f"\n[asyncsched: the log has reached its limit of {self._limit} bytes; the rest is dropped]\n".encode()
