"""A server that stands still or dies in the middle of transactions: callers come back in time, and know."""

import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve

from scheduler.store.errors import Conflict, OutcomeUnknown, StoreUnavailable
from tests.database import Server, _as_other_user, running_server
from tests.stress.cancelling import UNFINISHED, Storm, checked_out, left_open
from tests.stress.probes import Halt, cancelled_at_a_lost_commit, mark
from tests.stress.proxy import Proxy
from tests.stress.report import SEED, tell
from tests.world import World, chain, every, open_world

pytestmark = [pytest.mark.stress, pytest.mark.alone]

BOUND, CONNECT = 7.5, 3.0
"""Seconds: limit + driver's time-out + graceful close; and if a connect came first."""


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server that may be stopped: it flushes what it commits, as in production."""
    with running_server(settings={"synchronous_commit": "on"}) as server:
        yield server


@pytest.fixture
def own_dsn(own: Server) -> Iterator[str]:
    with own.database() as dsn:
        yield dsn


def postmaster(server: Server) -> int:
    return int((server.data / "postmaster.pid").read_text().splitlines()[0])


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    """The postmaster and all its children stand still."""
    pid = postmaster(server)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    everybody = [pid, *map(int, children)]
    _send(signal.SIGSTOP, everybody)
    try:
        yield
    finally:
        _send(signal.SIGCONT, everybody)


def _send(number: signal.Signals, processes: list[int]) -> None:
    for one in processes:
        with suppress(ProcessLookupError):  # the backend of a client that has just left
            os.kill(one, number)


def restart_immediately(server: Server) -> None:
    """As after a power cut, without the power cut."""
    prefix, _ = _as_other_user()
    program = [*prefix, server.bindir / "pg_ctl", "-D", server.data, "-w", "-s"]
    log = ["-l", server.socket_dir / "log"]
    subprocess.run([*program, "-m", "immediate", *log, "restart"], check=True, cwd="/", stdout=subprocess.DEVNULL)


async def described(world: World, name: str) -> str:
    (row,) = await world.rows("SELECT description FROM pool WHERE name = :name", name=name)
    return str(row["description"])


async def test_a_frozen_server_is_left_in_time_and_only_a_commit_is_unknown(own: Server, own_dsn: str) -> None:
    async with open_world(own_dsn, connections=4) as world, open_world(own_dsn, connections=1) as cold:
        for name in ("statement", "between", "commit", "connect"):
            await world.commands.set_pool(world.store, name=name, slots=1, description="before")
        await cold.bridge.shielded(cold.store.engine.dispose)
        ended: dict[str, tuple[float, str]] = {}
        started = trio.Event()

        async def call(at: str, one: World, *arguments: Any) -> None:
            if at == "connect":
                await started.wait()
            begun = trio.current_time()
            try:
                await one.store.transact(mark, at, "after", *arguments)
                answer = "committed"
            except (StoreUnavailable, OutcomeUnknown, Conflict) as error:
                answer = type(error).__name__
            ended[at] = (trio.current_time() - max(begun, froze), answer)

        halts = {"between": Halt("UPDATE pool"), "commit": Halt("COMMIT")}
        froze = trio.current_time()
        async with trio.open_nursery() as nursery:
            for at, halt in halts.items():
                world.store.stepper = halt
                nursery.start_soon(call, at, world)
                while not halt.reached:
                    await trio.sleep(0.005)
            world.store.stepper = None
            nursery.start_soon(call, "statement", world, (1.5,))
            while own.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") != "1":
                await trio.sleep(0.005)
            nursery.start_soon(call, "connect", cold)
            with frozen(own):
                froze = trio.current_time()
                for halt in halts.values():
                    halt.release()
                started.set()
                with trio.move_on_after(30):
                    while len(ended) < 4:
                        await trio.sleep(0.05)
            tell("frozen server", ", ".join(f"{at}: {kind} after {s:.1f} s" for at, (s, kind) in ended.items()))
        assert {at: kind for at, (_, kind) in ended.items()} == {
            "statement": "StoreUnavailable",
            "between": "StoreUnavailable",
            "connect": "StoreUnavailable",
            "commit": "OutcomeUnknown",
        }
        for at, (seconds, _) in ended.items():
            assert seconds <= BOUND + (CONNECT if at == "connect" else 0), f"{at}: {seconds:.1f} s"
        with trio.fail_after(20):
            while left_open(own, own_dsn):  # the backends notice that their clients have gone
                await trio.sleep(0.05)
        assert [await described(world, at) for at in ("statement", "between", "connect")] == ["before"] * 3
        assert checked_out(world.store) == checked_out(cold.store) == 0
        for one in (world, cold):
            assert await one.store.transact(mark, "statement", "thawed") == "thawed"
            assert not one.bridge.error_counts


async def test_a_restart_under_load_loses_nothing_that_was_promised(own: Server, own_dsn: str) -> None:
    async with open_world(own_dsn, connections=4) as world:
        await world.put(chain(1))
        promised: set[str] = set()
        away = unknown = 0

        async def caller(me: int) -> None:
            nonlocal away, unknown
            for n in range(60):
                key = f"run-{me}-{n}"
                while key not in promised:
                    try:
                        await world.trigger("chain", run_id=key)
                        promised.add(key)
                    except StoreUnavailable:
                        away += 1
                        await trio.sleep(0.02)
                    except OutcomeUnknown:
                        # nobody guesses: the transaction's own key tells
                        unknown += 1
                        if await there(key):
                            promised.add(key)

        async def there(key: str) -> bool:
            while True:
                try:
                    return bool(await world.rows("SELECT 1 FROM dag_run WHERE run_id = :key", key=key))
                except StoreUnavailable:
                    await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            for me in range(8):
                nursery.start_soon(caller, me)
            for restarts in range(1, 3):
                while len(promised) < restarts * 120:
                    await trio.sleep(0.01)
                await trio.to_thread.run_sync(restart_immediately, own)
        rows = await world.rows("SELECT run_id, count(*) AS n FROM dag_run GROUP BY 1")
        tell("restarts", f"2 immediate restarts, {len(promised)} triggers, {away} refused, {unknown} unknown")
        assert {row["run_id"] for row in rows} == promised
        assert all(row["n"] == 1 for row in rows)
        assert away > 0, "the restarts came under load"
        assert left_open(own, own_dsn) == ""
        assert checked_out(world.store) == 0


async def storm_through(
    own: Server, own_dsn: str, name: str, misfortune: Callable[[Storm], Awaitable[None]], cancels: int
) -> None:
    """Cancels at random instants before, in and after a misfortune, of which no caller may be left with a doubt."""
    async with open_world(own_dsn, connections=5) as world:
        dags = (chain(3, f"chain{i}") for i in range(10))
        await world.put(*dags, evolve(chain(2, "due"), schedule=every(0.5)), source="storm")
        storm = Storm(world=world, seed=SEED, mean=0.03)
        during = 0

        async def strike() -> None:
            nonlocal during
            await more_than(storm, 200)
            before = storm.cancels
            await misfortune(storm)
            during = storm.cancels - before
            await more_finished(storm)
            storm.enough_after(cancels)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(strike)
            await storm.blow(cancels=10**9, seconds=90)
        unknown = storm.answers["OutcomeUnknown"]
        with trio.fail_after(20):
            while left_open(own, own_dsn):  # the backends notice that their clients have gone
                await trio.sleep(0.05)
            while checked_out(world.store):
                await trio.sleep(0.01)
        await storm.settle()
        tell(
            name,
            f"{storm.cancels} cancels, {during} of them meanwhile; {storm.answers['StoreUnavailable']} calls refused,"
            f" {unknown} unknown and asked again, {storm.finished} finished",
        )
        assert during >= 100, "callers were cancelled meanwhile"
        assert storm.answers["StoreUnavailable"] + unknown > 0, "somebody was there when it happened"
        assert set(storm.answers) <= {"StoreUnavailable", "OutcomeUnknown", "Conflict"}, storm.answers
        assert await storm.wrong() == ""
        assert await world.rows(UNFINISHED) == [], "every claim has come to an end, those nobody was told of too"
        assert left_open(own, own_dsn) == ""
        assert checked_out(world.store) == 0
        assert not world.bridge.error_counts
        assert world.store.deadlocks == 0


async def more_than(storm: Storm, cancels: int) -> None:
    until = storm.cancels + cancels
    while storm.cancels < until:
        await trio.sleep(0.01)


async def more_finished(storm: Storm) -> None:
    """The server is back."""
    until = storm.finished + 20
    while storm.finished < until:
        await trio.sleep(0.01)


async def test_cancels_across_a_freeze_leave_nothing_behind(own: Server, own_dsn: str) -> None:
    """It lasts until those who were in the middle of something have given up."""

    async def freeze(storm: Storm) -> None:
        with frozen(own), trio.move_on_after(30):
            while not storm.answers["StoreUnavailable"] + storm.answers["OutcomeUnknown"] > 3:
                await trio.sleep(0.05)

    await storm_through(own, own_dsn, "cancels across a freeze", freeze, cancels=500)


async def test_cancels_across_restarts_leave_nothing_behind(own: Server, own_dsn: str) -> None:
    async def restart(storm: Storm) -> None:
        for _ in range(3):
            await trio.to_thread.run_sync(restart_immediately, own)
            await more_finished(storm)

    await storm_through(own, own_dsn, "cancels across restarts", restart, cancels=500)


async def test_a_lost_reply_to_commit_is_settled_by_key_and_happens_once(
    own: Server, own_dsn: str, tmp_path: Path
) -> None:
    async with Proxy.open(Path(own.socket_dir), tmp_path) as proxy:
        through = own_dsn.replace(str(own.socket_dir), str(tmp_path))
        async with open_world(through, connections=2) as world:
            await world.put(chain(1))
            await world.commands.set_pool(world.store, name="p", slots=1, description="before")
            for n in range(5):
                proxy.lose_next_commit(after_server=True)
                assert await world.trigger("chain", run_id=f"kept-{n}") == f"kept-{n}"
            for n in range(5):
                proxy.lose_next_commit(after_server=False)
                with pytest.raises(StoreUnavailable):
                    await world.trigger("chain", run_id=f"lost-{n}")
            proxy.lose_next_commit(after_server=True)
            with pytest.raises(OutcomeUnknown) as caught:
                await world.store.transact(mark, "p", "after")
            assert caught.value.status == "committed"
            assert await described(world, "p") == "after"
            rows = await world.rows("SELECT run_id FROM dag_run ORDER BY run_id")
            assert [row["run_id"] for row in rows] == [f"kept-{n}" for n in range(5)]
            assert checked_out(world.store) == 0
            assert not world.bridge.error_counts
            tell("lost replies", f"{proxy.lost} replies to COMMIT lost: 0 effects twice, 0 lost, 0 guessed")
    assert left_open(own, own_dsn) == ""


async def test_a_cancel_does_not_hide_an_unknown_outcome(own: Server, own_dsn: str, tmp_path: Path) -> None:
    """The caller is cancelled while its COMMIT is under way, and the reply is lost: it must not hear `Cancelled`."""
    through = own_dsn.replace(str(own.socket_dir), str(tmp_path))
    async with Proxy.open(Path(own.socket_dir), tmp_path) as proxy, open_world(through, connections=2) as world:
        await world.commands.set_pool(world.store, name="p", slots=1, description="before")
        call = partial(world.store.transact, mark, "p", "after")
        heard = await cancelled_at_a_lost_commit(world.store, proxy, call)
        assert heard == "unknown", "Cancelled means: nothing happened"
        assert await described(world, "p") == "after"
