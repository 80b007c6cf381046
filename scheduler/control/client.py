"""The client's end of the control socket: blocking, standard library only, quick to import."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from scheduler.control.protocol import Code, ControlError

ANSWER_SECONDS = 30.0
"""How long an ordinary request may take before the daemon counts as unreachable."""


class ControlClient:
    """One connection to the daemon's control socket; usable as a context manager.

    `connect` opens and returns a connected stream socket: where the daemon is, is not this module's business.
    """

    def __init__(self, connect: Callable[[], socket.socket], *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._socket = connect()
        self._answer_seconds = answer_seconds
        self._buffer = bytearray()

    def call(self, op: str, *, wait_seconds: float = 0.0, **args: Any) -> Any:
        """Send one request and return its result; arguments that are None are left out.

        `wait_seconds`: how much longer than usual the answer may take, for requests that wait.
        Raises ControlError: the daemon's refusal, or UNREACHABLE when it went away or does not answer.
        """
        given = {name: value for name, value in args.items() if value is not None}
        request = json.dumps({"op": op, "args": given}, allow_nan=False).encode() + b"\n"
        self._socket.settimeout(self._answer_seconds + wait_seconds)
        try:
            self._socket.sendall(request)
            line = self._read_line()
        except TimeoutError:
            raise ControlError(
                Code.UNREACHABLE,
                f"the daemon did not answer within {self._answer_seconds + wait_seconds:.0f} s",
            ) from None
        except OSError as error:
            raise ControlError(Code.UNREACHABLE, f"the connection to the daemon broke: {error}") from error
        return _result(line)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            chunk = self._socket.recv(256 * 1024)
            if not chunk:
                raise ControlError(Code.UNREACHABLE, "the daemon closed the connection: it is stopping")
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line


def _result(line: bytes) -> Any:
    answer = json.loads(line)
    refusal = answer.get("error")
    if refusal is None:
        return answer["result"]
    try:
        code = Code(refusal["code"])
    except ValueError:
        code = Code.INTERNAL  # a newer daemon's code: the message still says what happened
    raise ControlError(code, refusal["message"])


def connect_unix(path: Path, *, home: Path, seconds: float = 5.0) -> socket.socket:
    """Connect to the daemon's socket at `path`, or raise ControlError naming the home that was looked at."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(seconds)
        connection.connect(str(path))
    except PermissionError as error:
        connection.close()
        raise ControlError(
            Code.DENIED,
            f"the daemon of {home} does not admit you: run this as its user, as root, or as a member of the"
            " group asyncsched",
        ) from error
    except OSError as error:
        connection.close()
        raise ControlError(
            Code.UNREACHABLE,
            f"no daemon answers for {home}. Is `asyncsched run` running? If it uses another home directory,"
            " name it with --home or ASYNCSCHED_HOME.",
        ) from error
    return connection
