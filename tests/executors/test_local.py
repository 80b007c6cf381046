"""The daemon's side alone, with workers that are nothing but a socket."""

import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from attrs import define, evolve, field

from scheduler.executors.local import LocalExecutor
from scheduler.model import Outcome, OutcomeKind, StartAnswer, StartRequest, Workload
from tests.executors.desk import Desk

HELLO = {"type": "hello", "worker_id": "w1", "pid": 1, "hostname": "h", "slots": 2, "running": [], "draining": False}


@define(eq=False)
class Peer:
    """Speaks the protocol by hand."""

    stream: trio.SocketStream

    async def say(self, **message: Any) -> None:
        payload = msgspec.json.encode(message)
        await self.stream.send_all(struct.pack(">I", len(payload)) + payload)

    async def hear(self) -> dict[str, Any]:
        (length,) = struct.unpack(">I", await self._exactly(4))
        message: dict[str, Any] = msgspec.json.decode(await self._exactly(length))
        return message

    async def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await self.stream.receive_some(size - len(data))
            assert more, "the daemon hung up"
            data += more
        return data

    async def hung_up_on(self) -> bool:
        return await self.stream.receive_some(1) == b""


@define(eq=False)
class Office:
    executor: LocalExecutor
    path: Path
    poked: list[str]
    news: trio.Event
    peers: list[Peer] = field(factory=list)

    async def connect(self) -> Peer:
        self.peers.append(Peer(await trio.open_unix_socket(self.path)))
        return self.peers[-1]

    async def call(self, **changes: Any) -> Peer:
        peer = await self.connect()
        await peer.say(**{**HELLO, **changes})
        return peer

    async def until(self, topic: str) -> None:
        while topic not in self.poked:
            await self.news.wait()
        self.poked.clear()


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    poked: list[str] = []

    def poke(topic: Any) -> None:
        poked.append(topic)
        made.news.set()
        made.news = trio.Event()

    path = tmp_path / "w.sock"
    made = Office(LocalExecutor(socket_path=path, poke=poke), path, poked, trio.Event())
    yield made
    for peer in made.peers:
        if (fd := peer.stream.socket.detach()) >= 0:
            os.close(fd)


def workload(tmp_path: Path) -> Workload:
    desk = Desk(tmp_path, {})
    desk.write("")
    return desk.workload("t")


async def test_slots_are_those_of_connected_workers_less_what_was_handed_over(office: Office, tmp_path: Path) -> None:
    executor = office.executor
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.serve)
        assert executor.free_slots() == 0
        assert stat.S_IMODE(office.path.stat().st_mode) == 0o660
        peer = await office.call()
        await office.until("worker_changed")
        assert executor.free_slots() == 2
        given = workload(tmp_path)
        executor.submit([given])
        assert executor.free_slots() == 1
        sent = await peer.hear()
        assert sent["type"] == "submit"
        assert sent["workloads"][0]["token"] == given.token
        assert executor.workers()[0].running == (given.token,)
        await peer.say(type="report", outcomes=[{"token": given.token, "kind": "success", "result": "1"}])
        await office.until("outcome_reported")
        assert executor.free_slots() == 2
        assert executor.outcomes.peek(9) == [Outcome(token=given.token, kind=OutcomeKind.SUCCESS, result="1")]
        executor.acknowledge([given.token])
        assert await peer.hear() == {"type": "ack", "tokens": [given.token]}
        nursery.cancel_scope.cancel()
    assert not office.path.exists()


async def test_a_start_is_asked_and_answered_on_the_same_connection(office: Office) -> None:
    executor = office.executor
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.serve)
        peer, other = await office.call(), await office.call(worker_id="w2", pid=2)
        request = {"token": "t1", "worker_id": "w1", "pid": 5, "hostname": "h"}
        await peer.say(type="starts", requests=[request])
        await office.until("start_requested")
        assert executor.starts.peek(9) == [StartRequest(**request)]
        executor.answer(
            [StartAnswer(token="t1", accepted=True, inputs={"up": [1]}), StartAnswer(token="?", accepted=True)]
        )
        assert (await peer.hear())["answers"] == [
            {"token": "t1", "accepted": True, "inputs": {"up": [1]}, "reason": ""}
        ]
        executor.cancel("t1", "why")
        executor.cancel("unknown", "why")
        assert await peer.hear() == {"type": "cancel", "token": "t1", "reason": "why"}
        executor.drain(7)
        assert await other.hear() == {"type": "drain", "grace_seconds": 7.0}  # and nothing before it
        nursery.cancel_scope.cancel()


async def test_what_a_lost_worker_asked_is_forgotten_what_it_reported_is_not(office: Office) -> None:
    executor = office.executor
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.serve)
        peer = await office.call(running=["t1"])
        await peer.say(type="starts", requests=[{"token": "t1", "worker_id": "w1", "pid": 5, "hostname": "h"}])
        await peer.say(type="report", outcomes=[{"token": "t2", "kind": "failed"}])
        await office.until("outcome_reported")
        await peer.stream.aclose()
        await office.until("worker_changed")
        assert executor.workers() == []
        assert executor.free_slots() == 0
        assert len(executor.starts) == 0
        assert [one.token for one in executor.outcomes.peek(9)] == ["t2"]
        executor.acknowledge(["t2"])  # to nobody
        nursery.cancel_scope.cancel()


async def test_a_draining_worker_gets_no_new_work(office: Office, tmp_path: Path) -> None:
    executor = office.executor
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.serve)
        old = await office.call(running=["t0"], draining=True)
        new = await office.call(worker_id="w2", slots=1)
        while len(executor.workers()) < 2:
            await office.until("worker_changed")
        assert executor.free_slots() == 1
        executor.submit([workload(tmp_path), workload(tmp_path)])  # one more than there are slots
        assert len((await new.hear())["workloads"]) == 2
        assert executor.free_slots() == 0
        executor.cancel("t0", "")
        assert (await old.hear())["type"] == "cancel"
        nursery.cancel_scope.cancel()


async def test_without_a_worker_what_is_submitted_is_left_to_rescue(
    office: Office, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(office.executor.serve)
        office.executor.submit([workload(tmp_path)])
        assert "left to rescue" in caplog.text
        nursery.cancel_scope.cancel()


async def test_hints_reach_workers_that_connect_later(office: Office) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(office.executor.serve)
        office.executor.warm([("f", "p", "h")])
        peer = await office.call()
        assert await peer.hear() == {"type": "warm", "files": [["f", "p", "h"]]}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("bytes_sent", [b"\xff\xff\xff\xff", b"\0\0\0\2hi", b"\0\0\0\x10" + b'{"type":"unheard'])
async def test_a_peer_that_speaks_something_else_is_dropped_alone(office: Office, bytes_sent: bytes) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(office.executor.serve)
        good = await office.call()
        await office.until("worker_changed")
        bad = await office.connect()
        await bad.stream.send_all(bytes_sent)
        assert await bad.hung_up_on()
        await good.say(type="report", outcomes=[{"token": "t", "kind": "failed"}])
        await office.until("outcome_reported")
        assert [one.worker_id for one in office.executor.workers()] == ["w1"]
        nursery.cancel_scope.cancel()


async def test_a_worker_that_stops_reading_blocks_nobody(office: Office, tmp_path: Path) -> None:
    executor = office.executor
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.serve)
        peer = await office.call()
        await office.until("worker_changed")
        one = workload(tmp_path)
        many = [evolve(one, token=str(n), params={"x": "y" * 100_000}) for n in range(200)]
        executor.submit(many)  # 20 MB, far more than the socket takes
        seen = 0
        while seen < 200:
            seen += len((await peer.hear())["workloads"])
        nursery.cancel_scope.cancel()


async def test_the_socket_of_a_killed_daemon_is_replaced_another_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with trio.open_nursery() as nursery:
        await nursery.start(LocalExecutor(socket_path=path, poke=lambda _: None).serve)
        (await trio.open_unix_socket(path)).socket.close()
        nursery.cancel_scope.cancel()
    path.write_text("precious")
    with pytest.raises(OSError, match="Address already in use"):
        await LocalExecutor(socket_path=path, poke=lambda _: None).serve()
    assert os.path.getsize(path) == 8
