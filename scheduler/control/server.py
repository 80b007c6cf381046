"""The daemon's end of the control socket: admits, decodes, dispatches, answers. It decides nothing.

One connection is one small task. A refused or broken request is answered and the connection lives on; a
handler that fails for a reason nobody foresaw answers "internal" and is logged; a failed assertion answers,
then leaves the server as it leaves everything else: it is a bug, and the daemon stops.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import trio
from attrs import define, field

from nurseries.errors import Weather
from scheduler.commands.errors import CommandError
from scheduler.control.lines import Lines, LineTooLong
from scheduler.control.listening import accept, identity, listen
from scheduler.control.operation import Operation
from scheduler.control.peers import Peer, is_admitted, peer_of
from scheduler.control.protocol import REQUEST_LIMIT, Code, ControlError
from scheduler.store.errors import OutcomeUnknown

logger = logging.getLogger(__name__)

CONNECTIONS = 64
"""How many clients are served at once; more wait in the backlog."""

IDLE_SECONDS = 300.0
"""A connection on which no request arrives for so long is closed."""

WRITE_SECONDS = 10.0
"""A client that does not take its answer within this time is dropped."""


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """One line of a client."""

    op: str
    args: msgspec.Raw = msgspec.Raw(b"{}")


@define(kw_only=True)
class ControlServer:
    """Serves `operations` over a unix socket; every handler gets `context`."""

    path: Path
    operations: Mapping[str, Operation[Any, Any]]
    context: Any
    admits: Callable[[Peer], bool] = is_admitted
    _limiter: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(CONNECTIONS), init=False)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and answer until cancelled; started once the socket is there. Raises OSError."""
        listener = listen(self.path)
        ours = identity(self.path)
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    token = object()
                    await self._limiter.acquire_on_behalf_of(token)
                    nursery.start_soon(self._client, await accept(listener), token)
        finally:
            listener.socket.close()
            # Only our own: a successor may have bound the path again by now.
            if identity(self.path) == ours:
                with contextlib.suppress(FileNotFoundError):
                    self.path.unlink()

    async def _client(self, stream: trio.SocketStream, token: object) -> None:
        try:
            async with stream:
                await self._converse(stream)
        except (trio.BrokenResourceError, trio.TooSlowError) as error:
            logger.debug("a client of the control socket is gone: %r", error)
        finally:
            self._limiter.release_on_behalf_of(token)

    async def _converse(self, stream: trio.SocketStream) -> None:
        peer = peer_of(stream.socket)
        if not self.admits(peer):
            await _send(stream, _refusal(Code.DENIED, _NOT_ADMITTED))
            return
        lines = Lines(stream, limit=REQUEST_LIMIT)
        while True:
            line: bytes | None = None
            with trio.move_on_after(IDLE_SECONDS):
                try:
                    line = await lines.next()
                except LineTooLong:
                    await _send(stream, _refusal(Code.USAGE, f"a request is at most {REQUEST_LIMIT} bytes long"))
            if line is None:
                return
            try:
                answer = await self._answer(line, lines)
            except Exception as error:
                logger.exception("a control request failed: %.200r", line)
                await _send(stream, _refusal(Code.INTERNAL, f"a bug in the daemon, see its log: {error!r}"))
                if isinstance(error, AssertionError):
                    raise
                continue
            if answer is None:
                return
            await _send(stream, answer)

    async def _answer(self, line: bytes, lines: Lines) -> bytes | None:
        """The answer to one request, or None if the client hung up while it waited."""
        try:
            request = msgspec.json.decode(line, type=Request)
            operation = self.operations.get(request.op)
            if operation is None:
                raise ControlError(
                    Code.USAGE,
                    f"unknown operation {request.op!r}: client and daemon are of different versions",
                )
            arguments = msgspec.json.decode(request.args, type=operation.arguments)
            if operation.waits:
                return await _unless_hung_up(operation.run, self.context, arguments, lines)
            return _result(await operation.run(self.context, arguments))
        except (msgspec.DecodeError, RecursionError) as error:
            return _refusal(Code.USAGE, f"the request cannot be read: {error}")
        except ControlError as error:
            return _refusal(error.code, error.message)
        except CommandError as error:
            return _refusal(Code(error.code), error.message)
        except OutcomeUnknown as error:
            return _refusal(Code.UNREACHABLE, f"perhaps done, perhaps not: {error}. Look before you try again.")
        except Weather as error:
            return _refusal(Code.UNREACHABLE, f"the daemon cannot do this now: {error}. Try again.")


_NOT_ADMITTED = "this daemon does not admit you: run this as its user, as root, or as a member of the group asyncsched"


async def _unless_hung_up(
    run: Callable[[Any, Any], Awaitable[Any]], context: Any, arguments: Any, lines: Lines
) -> bytes | None:
    answer: bytes | None = None
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await lines.wait_end()
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        try:
            answer = _result(await run(context, arguments))
        except Exception as error:  # handed on below, so that the nursery does not wrap it in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return answer


async def _send(stream: trio.SocketStream, line: bytes) -> None:
    with trio.fail_after(WRITE_SECONDS):
        await stream.send_all(line)


def _result(result: Any) -> bytes:
    return msgspec.json.encode({"result": result}) + b"\n"


def _refusal(code: Code, message: str) -> bytes:
    return msgspec.json.encode({"error": {"code": str(code), "message": message}}) + b"\n"
