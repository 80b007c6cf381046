"""The control socket keeps its manners whatever a client or a handler does."""

import json
import logging
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from nurseries.errors import Unavailable
from scheduler.commands.errors import CommandError
from scheduler.control import listening, server
from scheduler.control.client import ControlClient, connect_unix
from scheduler.control.operation import Arguments, Operation
from scheduler.control.peers import NOBODY, Peer, is_admitted, peer_of
from scheduler.control.protocol import REQUEST_LIMIT, Code, ControlError
from scheduler.control.server import ControlServer
from scheduler.store.errors import OutcomeUnknown

LIMIT_S = 30


class Word(Arguments):
    word: str
    times: int = 1


class Bench:
    """What the handlers of these tests share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting = trio.Event()
        self.ended = trio.Event()
        self.clients: list[trio.SocketStream] = []
        self.server: ControlServer | None = None

    async def connect(self) -> trio.SocketStream:
        self.clients.append(await trio.open_unix_socket(self.path))
        return self.clients[-1]


async def echo(_: Bench, arguments: Word) -> Any:
    return {"said": arguments.word * arguments.times}


async def wait_forever(bench: Bench, _: Arguments) -> Any:
    bench.waiting.set()
    try:
        await trio.sleep_forever()
    finally:
        bench.ended.set()


def failing(error: Exception) -> Callable[[Bench, Arguments], Awaitable[Any]]:
    async def handler(_: Bench, __: Arguments) -> Any:
        raise error

    return handler


OPERATIONS: dict[str, Operation[Bench, Any]] = {
    "echo": Operation(Word, echo),
    "wait": Operation(Arguments, wait_forever, waits=True),
    "refuse": Operation(Arguments, failing(ControlError(Code.CONFLICT, "it is busy"))),
    "no_such": Operation(Arguments, failing(CommandError("not_found", "there is none"))),
    "away": Operation(Arguments, failing(Unavailable("the database is away"))),
    "unknown": Operation(Arguments, failing(OutcomeUnknown("812", status=None))),
    "bug": Operation(Arguments, failing(KeyError("nobody foresaw this"))),
    "broken_promise": Operation(Arguments, failing(AssertionError("two ends"))),
}


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="control-") as directory:
        yield Path(directory) / "control.sock"


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(LIMIT_S):
            await body()

    trio.run(main)


@asynccontextmanager
async def serving(path: Path, *, admits: Callable[[Peer], bool] = is_admitted) -> AsyncIterator[Bench]:
    bench = Bench(path)
    ours = ControlServer(path=path, operations=OPERATIONS, context=bench, admits=admits)
    bench.server = ours
    async with trio.open_nursery() as nursery:
        await nursery.start(ours.serve)
        try:
            yield bench
        finally:
            for stream in bench.clients:
                await trio.aclose_forcefully(stream)
        nursery.cancel_scope.cancel()


async def exchange(stream: trio.abc.Stream, line: bytes) -> Any:
    """Send raw bytes and return the decoded answer line."""
    await stream.send_all(line)
    return json.loads(await read_line(stream))


async def read_line(stream: trio.abc.ReceiveStream) -> bytes:
    received = b""
    while not received.endswith(b"\n"):
        chunk = await stream.receive_some()
        if not chunk:
            break
        received += chunk
    return received


def request(op: str, **args: Any) -> bytes:
    return json.dumps({"op": op, "args": args}).encode() + b"\n"


def test_requests_on_one_connection_are_answered_in_order(place: Path) -> None:
    async def body() -> None:
        async with serving(place) as bench:
            stream = await bench.connect()
            assert await exchange(stream, request("echo", word="a")) == {"result": {"said": "a"}}
            await stream.send_all(request("echo", word="b") + request("echo", word="c", times=2))
            answers = await read_line(stream)
            while answers.count(b"\n") < 2:
                answers += await read_line(stream)
            assert [json.loads(line)["result"]["said"] for line in answers.splitlines()] == ["b", "cc"]

    run(body)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"hello\n", "cannot be read"),
        (b"\n", "cannot be read"),
        (b"\xff\xfe\n", "cannot be read"),
        (b"[1, 2]\n", "cannot be read"),
        (b'{"op": 3}\n', "cannot be read"),
        (b'{"args": {}}\n', "op"),
        (b'{"op": "echo", "token": "x"}\n', "token"),
        (b'{"op": "nothing"}\n', "nothing"),
        (b'{"op": "echo"}\n', "word"),
        (b'{"op": "echo", "args": {"word": 5}}\n', "$.word"),
        (b'{"op": "echo", "args": {"word": "x", "words": 1}}\n', "words"),
        (b'{"op": "echo", "args": []}\n', "cannot be read"),
        (b'{"op": "echo", "args": {"word": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}\n", "cannot be read"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_and_the_connection_lives_on(
    place: Path, line: bytes, says: str
) -> None:
    async def body() -> None:
        async with serving(place) as bench:
            stream = await bench.connect()
            error = (await exchange(stream, line))["error"]
            assert error["code"] == "usage"
            assert says in error["message"]
            assert await exchange(stream, request("echo", word="still here")) == {"result": {"said": "still here"}}

    run(body)


def test_a_line_without_end_is_cut_off_at_the_limit(place: Path) -> None:
    async def body() -> None:
        async with serving(place) as bench:
            stream = await bench.connect()
            async with trio.open_nursery() as nursery:

                async def flood() -> None:
                    with suppress(trio.BrokenResourceError):  # the server need not read what it has refused
                        await stream.send_all(b"x" * (REQUEST_LIMIT * 2))

                nursery.start_soon(flood)
                answer = json.loads(await read_line(stream))
                nursery.cancel_scope.cancel()
            assert answer["error"]["code"] == "usage"
            other = await bench.connect()
            assert "result" in await exchange(other, request("echo", word="x"))

    run(body)


@pytest.mark.parametrize(
    ("op", "code", "says"),
    [
        ("refuse", "conflict", "it is busy"),
        ("no_such", "not_found", "there is none"),
        ("away", "unreachable", "the database is away. Try again."),
        ("unknown", "unreachable", "no answer to COMMIT of transaction 812 (afterwards: unknown). Look before"),
    ],
)
def test_refusals_keep_their_code_and_sentence(place: Path, op: str, code: str, says: str) -> None:
    async def body() -> None:
        async with serving(place) as bench:
            stream = await bench.connect()
            error = (await exchange(stream, request(op)))["error"]
            assert error["code"] == code
            assert says in error["message"]

    run(body)


def test_an_unforeseen_failure_is_answered_and_logged_and_hurts_nobody_else(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        async with serving(place) as bench:
            stream = await bench.connect()
            error = (await exchange(stream, request("bug")))["error"]
            assert error["code"] == "internal"
            assert "result" in await exchange(stream, request("echo", word="x"))

    with caplog.at_level(logging.ERROR):
        run(body)
    assert "nobody foresaw this" in caplog.text


def test_a_failed_assertion_is_answered_and_then_stops_the_server(place: Path) -> None:
    answers: list[Any] = []

    async def body() -> None:
        async with serving(place) as bench:
            stream = await bench.connect()
            answers.append(await exchange(stream, request("broken_promise")))
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as caught:
        run(body)
    assert caught.value.split(AssertionError)[0] is not None
    assert answers[0]["error"]["code"] == "internal"


def test_more_clients_than_are_served_at_once_wait_their_turn(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 2)

    async def body() -> None:
        async with serving(place) as bench:
            first, second = await bench.connect(), await bench.connect()
            for stream in (first, second):
                assert "result" in await exchange(stream, request("echo", word="x"))
            third = await bench.connect()
            await third.send_all(request("echo", word="late"))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert bench.server is not None
            assert bench.server._limiter.statistics().tasks_waiting == 1
            await first.aclose()
            assert json.loads(await read_line(third)) == {"result": {"said": "late"}}

    run(body)


def test_who_is_not_admitted_is_told_so_and_served_nothing(place: Path) -> None:
    async def body() -> None:
        async with serving(place, admits=lambda _peer: False) as bench:
            stream = await bench.connect()
            assert json.loads(await read_line(stream))["error"]["code"] == "denied"
            assert await stream.receive_some() == b""

    run(body)


@pytest.mark.parametrize(
    ("uid", "own_uid", "admitted"),
    [
        (0, 1000, True),
        (1000, 1000, True),
        (1001, 1000, False),
        (NOBODY, 1000, False),
        (NOBODY, NOBODY, False),
    ],
)
def test_only_root_and_the_own_user_are_admitted_by_uid(uid: int, own_uid: int, admitted: bool) -> None:
    peer = Peer(pid=1, uid=uid, groups={uid})
    assert is_admitted(peer, own_uid=own_uid, group="no-such-group-here") is admitted


def test_members_of_the_group_are_admitted() -> None:
    import grp

    group = grp.getgrgid(os.getegid())
    assert is_admitted(Peer(pid=1, uid=4242, groups={group.gr_gid}), own_uid=1000, group=group.gr_name)
    assert not is_admitted(Peer(pid=1, uid=4242, groups={group.gr_gid + 12345}), own_uid=1000, group=group.gr_name)


def test_the_kernel_says_who_is_asking() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = peer_of(ours)
    assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
    assert peer.groups >= set(os.getgroups())


def test_a_wait_ends_when_its_client_hangs_up(place: Path) -> None:
    async def body() -> None:
        async with serving(place) as bench:
            stream = await bench.connect()
            await stream.send_all(request("wait"))
            await bench.waiting.wait()
            assert not bench.ended.is_set()
            await stream.aclose()
            await bench.ended.wait()

    run(body)


def test_a_client_that_stops_writing_still_gets_its_answer(place: Path) -> None:
    """`printf ... | nc -U` closes its writing end first."""

    async def body() -> None:
        async with serving(place) as bench:
            stream = await bench.connect()
            await stream.send_all(request("echo", word="x"))
            await stream.send_eof()
            assert json.loads(await read_line(stream)) == {"result": {"said": "x"}}

    run(body)


def test_the_socket_is_for_user_and_group_from_the_start_and_gone_at_the_end(place: Path) -> None:
    async def body() -> None:
        async with serving(place):
            assert stat.S_IMODE(place.stat().st_mode) == 0o660

    run(body)
    assert not place.exists()


def test_what_a_dead_daemon_left_is_replaced(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place))

    async def body() -> None:
        async with serving(place) as bench:
            stream = await bench.connect()
            assert "result" in await exchange(stream, request("echo", word="x"))

    run(body)


def test_something_that_is_no_socket_is_not_replaced(place: Path) -> None:
    place.write_text("precious")
    with pytest.raises(FileExistsError, match="in the way"):
        listening.listen(place)
    assert place.read_text() == "precious"


def test_a_successors_socket_is_left_alone(place: Path) -> None:
    async def body() -> None:
        async with serving(place):
            place.unlink()
            place.write_text("the successor's")

    run(body)
    assert place.read_text() == "the successor's"


async def _call(path: Path, op: str, **args: Any) -> Any:
    def call() -> Any:
        with ControlClient(lambda: connect_unix(path, home=path.parent)) as client:
            return client.call(op, **args)

    return await trio.to_thread.run_sync(call)


def test_the_client_returns_results_and_raises_refusals(place: Path) -> None:
    async def body() -> None:
        async with serving(place):
            assert await _call(place, "echo", word="x" * 1_000_000, times=3) == {"said": "x" * 3_000_000}
            with pytest.raises(ControlError) as refused:
                await _call(place, "refuse")
            assert (refused.value.code, refused.value.message) == (Code.CONFLICT, "it is busy")

    run(body)


def test_the_client_names_the_home_when_no_daemon_answers(place: Path) -> None:
    with pytest.raises(ControlError) as missing:
        connect_unix(place, home=place.parent)
    assert missing.value.code is Code.UNREACHABLE
    assert str(place.parent) in missing.value.message
    assert "asyncsched run" in missing.value.message


def test_the_client_says_so_when_the_daemon_goes_away_or_stays_silent(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        client = ControlClient(lambda: connect_unix(place, home=place.parent), answer_seconds=0.05)
        connection, _ = listener.accept()
        with connection, client, pytest.raises(ControlError, match="did not answer"):
            client.call("status")
        with ControlClient(lambda: connect_unix(place, home=place.parent)) as client:
            connection, _ = listener.accept()
            connection.close()
            with pytest.raises(ControlError) as gone:
                client.call("status")
            assert gone.value.code is Code.UNREACHABLE
