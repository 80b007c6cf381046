"""Checks of the transaction code, each of which tells it from certain mutants. All pass on the code as it is.

Every check gets a server and the address of a database of its own.
"""

import asyncio
import contextlib
import gc
import tempfile
import warnings
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
import trio
import trio.testing
from attrs import evolve

from nurseries.bridge import open_bridge
from scheduler.commands.clear import clear_tasks
from scheduler.decisions.clearing import Selection
from scheduler.model import RunType
from scheduler.routines.start_runs import start_queued_runs
from scheduler.store import runs, transaction
from scheduler.store import tables as t
from scheduler.store.engine import open_store
from scheduler.store.errors import Conflict, LockOrderError, OutcomeUnknown, StoreUnavailable
from scheduler.store.limits import Limits
from scheduler.store.locks import Lock, Wait, by_key
from scheduler.store.writer import Reading, Transaction
from tests.database import Server
from tests.store import test_locking_law
from tests.stress.cancelling import Storm, checked_out, database_of, left_open
from tests.stress.gaps import Gap
from tests.stress.probes import Halt, mark, unregistered
from tests.stress.proxy import NAME, Proxy
from tests.world import World, chain, fan, open_world

Check = Callable[[Server, str], Awaitable[None]]

_POOLS = by_key(Lock.POOL, wait=Wait.WAIT)
_RUNS = by_key(Lock.DAG_RUN, wait=Wait.WAIT)
_ALL = sa.text("SELECT id FROM pool ORDER BY id")
_NOTHING = sa.text("UPDATE pool SET slots = slots WHERE id = ANY(:keys) AND false")
_TOUCHED = sa.text(
    "WITH ti AS (UPDATE pool SET slots = slots WHERE id = ANY(:keys) AND false RETURNING id)"
    " SELECT count(*) AS touched FROM ti"
)
_HARMLESS = sa.text("UPDATE pool SET slots = slots WHERE id = ANY(:keys)")
_HARMLESS_TOUCHED = sa.text(
    "WITH ti AS (UPDATE pool SET slots = slots WHERE id = ANY(:keys) RETURNING id) SELECT count(*) AS touched FROM ti"
)
_TOGETHER = (
    "WITH p AS (UPDATE pool SET slots = slots WHERE id = ANY(:keys) {} RETURNING id) SELECT count(*) AS pool FROM p"
)
_NOTHING_TOGETHER, _HARMLESS_TOGETHER = sa.text(_TOGETHER.format("AND false")), sa.text(_TOGETHER.format(""))
_INSERT = sa.text("INSERT INTO pool (name, slots) VALUES ('late', 1) RETURNING id")
_NO_XCOM = sa.text("DELETE FROM xcom WHERE false")
_NO_EVENT = sa.text("DELETE FROM event WHERE false")


async def law(server: Server, dsn: str) -> None:
    """The tests of the order check itself."""
    for name in (
        "test_a_rank_below_what_is_held_is_refused_before_anything_is_sent",
        "test_the_same_rank_twice_is_refused",
        "test_rows_come_before_inserts_at_one_rank",
        "test_what_skips_may_come_late_and_counts_as_held",
        "test_a_lock_that_was_not_declared_is_refused",
        "test_writing_rows_nobody_locked_is_refused",
    ):
        getattr(test_locking_law, name)()


async def refused(world: World, what: str, body: Callable[[Transaction], Awaitable[Any]]) -> None:
    """A writer that does `body` breaks the law, and is told so."""

    async def wrong(tx: Transaction) -> None:
        await body(tx)

    try:
        await world.store.transact(unregistered(wrong, Lock.DAG_RUN, Lock.POOL, Lock.TASK_INSTANCE))
    except LockOrderError:
        return
    raise AssertionError(f"{what} was not refused")


async def transactions_keep_the_law(server: Server, dsn: str) -> None:
    """Each way to lock or write goes through the check."""
    async with open_world(dsn) as world:
        keys = [row["id"] for row in await world.rows("SELECT id FROM pool ORDER BY id")]
        given = {"keys": keys}

        async def low_after_high(tx: Transaction) -> None:
            await tx.lock(_POOLS, keys=keys)
            await tx.lock(_RUNS, keys=[])

        async def insert_twice(tx: Transaction) -> None:
            await tx.insert(Lock.POOL, _INSERT)
            await tx.insert(Lock.POOL, sa.text("INSERT INTO pool (name, slots) VALUES ('later', 1) RETURNING id"))

        async def too_few(tx: Transaction) -> None:
            await tx.lock(_POOLS, keys=keys)
            await tx.write(Lock.POOL, keys, _NOTHING, given)

        async def too_few_with_satellites(tx: Transaction) -> None:
            await tx.lock(_POOLS, keys=keys)
            await tx.write_with_satellites(Lock.POOL, keys, _TOUCHED, given)

        async def too_few_together(tx: Transaction) -> None:
            await tx.lock(_POOLS, keys=keys)
            await tx.write_together({Lock.POOL: keys}, _NOTHING_TOGETHER, given)

        await refused(world, "a lower rank after a higher", low_after_high)
        await refused(world, "a second insert at one rank", insert_twice)
        await refused(world, "a write of fewer rows than keys", too_few)
        await refused(world, "a write of fewer rows than keys, with satellites", too_few_with_satellites)
        await refused(world, "a write of fewer rows than keys, of several tables", too_few_together)
        for what, body in {
            "a write of rows nobody locked": lambda tx: tx.write(Lock.POOL, keys, _HARMLESS, given),
            "the same, with satellites": lambda tx: tx.write_with_satellites(Lock.POOL, keys, _HARMLESS_TOUCHED, given),
            "the same, of several tables": lambda tx: tx.write_together({Lock.POOL: keys}, _HARMLESS_TOGETHER, given),
            "a satellite of an instance nobody locked": lambda tx: tx.write_satellite(t.xcom, [1], _NO_XCOM),
            "events of a run nobody locked": lambda tx: tx.consume(t.event, [1], _NO_EVENT),
        }.items():
            await refused(world, what, body)


async def a_cancel_does_not_tear_a_transaction(server: Server, dsn: str) -> None:
    """Cancelled in the middle, the caller still gets the result, and it is committed."""
    async with open_world(dsn) as world:
        await world.commands.set_pool(world.store, name="p", slots=1, description="before")
        for at in ("UPDATE pool", "COMMIT"):
            halt = Halt(at)
            world.store.stepper = halt
            heard: list[str] = []

            async def call(heard: list[str] = heard, at: str = at) -> None:
                heard.append(await world.store.transact(mark, "p", at))
                await trio.lowlevel.checkpoint()
                heard.append("not cancelled")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                while not halt.reached:
                    await trio.sleep(0.002)
                nursery.cancel_scope.cancel()
                await trio.lowlevel.cancel_shielded_checkpoint()
                halt.release()
            world.store.stepper = None
            assert heard == [at], heard
            assert (await world.rows("SELECT description FROM pool WHERE name = 'p'"))[0]["description"] == at
        assert left_open(server, dsn) == ""
        assert checked_out(world.store) == 0


async def waiting_for_a_slot_can_be_cancelled(server: Server, dsn: str) -> None:
    """Who waits for a connection holds nothing and hears a cancel at once."""
    async with open_world(dsn, connections=1) as world:
        await world.commands.set_pool(world.store, name="p", slots=1, description="before")
        halt = Halt("COMMIT")
        world.store.stepper = halt
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.store.transact, mark, "p", "first")
            while not halt.reached:
                await trio.sleep(0.002)
            with trio.move_on_after(2) as patience:
                async with trio.open_nursery() as waiting:
                    waiting.start_soon(world.store.transact, mark, "p", "second")
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    begun = trio.current_time()
                    nursery.start_soon(_release_after, halt, 0.3)
                    waiting.cancel_scope.cancel()
                waited = trio.current_time() - begun
            assert not patience.cancelled_caught
            assert waited < 0.2, f"deaf for {waited:.2f} s while waiting for a slot"


async def _release_after(halt: Halt, seconds: float) -> None:
    await trio.sleep(seconds)
    halt.release()


async def a_transaction_has_a_deadline(server: Server, dsn: str) -> None:
    """Many short statements do not add up to a long transaction."""
    async with open_world(dsn) as world:
        await world.commands.set_pool(world.store, name="p", slots=1, description="before")
        world.store.limits = Limits(transaction=0.3)
        try:
            await world.store.transact(mark, "p", "after", (0.1,) * 8)
        except StoreUnavailable:
            pass
        else:
            raise AssertionError("eight tenths of a second within a limit of three")
        assert (await world.rows("SELECT description FROM pool WHERE name = 'p'"))[0]["description"] == "before"
        assert left_open(server, dsn) == ""


async def an_error_leaves_a_clean_connection(server: Server, dsn: str) -> None:
    """After an error in a writer nothing is written, nothing announced, and the same connection goes on."""
    async with open_world(dsn, connections=1) as world:

        async def backend(tx: Transaction) -> int:
            return int((await tx.fetch(sa.text("SELECT pg_backend_pid() AS pid")))[0]["pid"])

        async def fails(tx: Transaction) -> None:
            await tx.insert(Lock.POOL, _INSERT)
            tx.announce("too early")
            raise ValueError("as planned")

        who = unregistered(backend)
        before = await world.store.transact(who)
        world.poked.clear()
        with contextlib.suppress(ValueError):
            await world.store.transact(unregistered(fails, Lock.POOL, inserts=(Lock.POOL,)))
        assert not world.poked
        assert await world.rows("SELECT 1 FROM pool WHERE name = 'late'") == []
        assert await world.store.transact(who) == before, "the connection was thrown away"
        assert left_open(server, dsn) == ""


async def a_broken_connection_is_replaced(server: Server, dsn: str) -> None:
    """The backend is ended in the middle of a transaction: the next one works."""
    async with open_world(dsn, connections=1) as world:
        await world.commands.set_pool(world.store, name="p", slots=1, description="before")
        for at in ("UPDATE pool", "COMMIT"):
            halt = Halt(at)
            world.store.stepper = halt
            heard: list[str] = []

            async def call(heard: list[str] = heard) -> None:
                try:
                    heard.append(await world.store.transact(mark, "p", "torn"))
                except (StoreUnavailable, OutcomeUnknown):
                    heard.append("away")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                while not halt.reached:
                    await trio.sleep(0.002)
                name = database_of(dsn)
                server.sql(
                    f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"
                    " AND state = 'idle in transaction'"
                )
                halt.release()
            world.store.stepper = None
            assert heard == ["away"]
            assert await world.store.transact(mark, "p", "whole") == "whole"
            assert checked_out(world.store) == 0


async def what_follows_a_commit_sees_it(server: Server, dsn: str) -> None:
    """Announcements come after the commit."""
    async with open_world(dsn) as world:
        seen: list[str] = []
        count = "SELECT count(*) FROM pool WHERE name = 'new'"
        world.store.poke = lambda *topics: seen.append(server.sql(count, database_of(dsn)))

        async def announces(tx: Transaction) -> None:
            await tx.insert(Lock.POOL, sa.text("INSERT INTO pool (name, slots) VALUES ('new', 1) RETURNING id"))
            tx.announce("new")

        await world.store.transact(unregistered(announces, Lock.POOL, inserts=(Lock.POOL,)))
        assert seen == ["1"]


async def a_storm_leaves_nothing(server: Server, dsn: str) -> None:
    """A small storm of cancels."""
    async with open_world(dsn, connections=3) as world:
        await world.put(*(chain(2, f"chain{i}") for i in range(10)))
        storm = Storm(world=world, seed=1, callers=10)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            await storm.blow(cancels=300, seconds=10)
            gc.collect()
        forgotten = [str(one.message) for one in caught if "non-checked-in" in str(one.message)]
        assert not forgotten, f"{len(forgotten)} connections were left to the garbage collector"
        assert left_open(server, dsn) == ""
        assert await storm.wrong() == ""
        assert not storm.answers, storm.answers
        assert not world.bridge.error_counts
        assert checked_out(world.store) == 0


async def a_lost_reply_is_settled(server: Server, dsn: str) -> None:
    """A reply to COMMIT that never comes, a COMMIT that never arrives, and a cancel on top."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        through = dsn.replace(str(server.socket_dir), folder)
        async with Proxy.open(Path(server.socket_dir), Path(folder)) as proxy, open_world(through) as world:
            await world.put(chain(1))
            await world.commands.set_pool(world.store, name="p", slots=1, description="before")
            proxy.lose_next_commit(after_server=True)
            assert await world.trigger("chain", run_id="kept") == "kept"
            proxy.lose_next_commit(after_server=False)
            with contextlib.suppress(StoreUnavailable):
                await world.trigger("chain", run_id="lost")
            proxy.lose_next_commit(after_server=True)
            heard = ""
            halt = Halt("COMMIT")
            world.store.stepper = halt

            async def call() -> None:
                nonlocal heard
                try:
                    await world.store.transact(mark, "p", "after")
                except OutcomeUnknown as error:
                    heard = str(error.status)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                while not halt.reached:
                    await trio.sleep(0.002)
                nursery.cancel_scope.cancel()
                halt.release()
            world.store.stepper = None
            assert heard == "committed", "a cancel hid what became of the transaction"
            assert [row["run_id"] for row in await world.rows("SELECT run_id FROM dag_run")] == ["kept"]


async def a_deadlock_is_an_alarm(server: Server, dsn: str) -> None:
    """PostgreSQL ends ours: the caller gets a Conflict, the store counts it, and goes on."""
    async with open_world(dsn) as world:
        for name in ("a", "b"):
            await world.commands.set_pool(world.store, name=name, slots=1, description="")
        rival = await asyncpg_in(world, dsn)

        async def wrong(tx: Transaction) -> None:
            await tx.fetch(sa.text("SELECT id FROM pool WHERE name = 'a' FOR UPDATE"))
            await rival.take("b")
            rival.want("a")
            await tx.fetch(sa.text("SELECT id FROM pool WHERE name = 'b' FOR UPDATE"))

        try:
            with pytest.raises(Conflict) as caught:
                await world.store.transact(unregistered(wrong, Lock.POOL))
        finally:
            await world.bridge.shielded(rival.close)
        assert caught.value.sqlstate == "40P01"
        assert world.store.deadlocks == 1
        assert await world.store.transact(mark, "a", "well") == "well"


class Rival:
    """Another program's connection, on the same loop."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._wanting: Any = None

    async def take(self, name: str) -> None:
        await self._connection.execute(f"BEGIN; SELECT id FROM pool WHERE name = '{name}' FOR UPDATE")

    def want(self, name: str) -> None:
        self._wanting = asyncio.ensure_future(
            self._connection.execute(f"SELECT id FROM pool WHERE name = '{name}' FOR UPDATE")
        )

    async def close(self) -> None:
        if self._wanting is not None:
            await self._wanting
        await self._connection.close()


async def asyncpg_in(world: World, dsn: str) -> Rival:
    """A rival that is patient with deadlocks, so that PostgreSQL ends ours."""

    async def connect() -> Any:
        settings = {"deadlock_timeout": "20s"}
        return await asyncpg.connect(dsn.replace("+asyncpg", ""), server_settings=settings)

    return Rival(await world.bridge.shielded(connect))


async def time_outs_nest(server: Server, dsn: str) -> None:
    """As a session of ours sees them, in milliseconds, whatever the server's own values are."""
    server.sql(f"ALTER DATABASE {database_of(dsn)} SET deadlock_timeout = '1500ms'")
    async with open_world(dsn) as world:

        async def show(tx: Transaction) -> list[int]:
            rows = await tx.fetch(
                sa.text("SELECT name, setting::integer AS value FROM pg_settings WHERE name = ANY(:names)"),
                {"names": list(names)},
            )
            values = {row["name"]: row["value"] for row in rows}
            return [values[name] for name in names]

        names = ["deadlock_timeout", "lock_timeout", "statement_timeout", "transaction_timeout"]
        names.append("idle_in_transaction_session_timeout")
        values = await world.store.transact(unregistered(show))
        assert values == sorted(values), dict(zip(names, values, strict=True))
        assert 0 < values[0] < values[1] < values[2] < world.store.limits.command * 1000


async def inserts_arrive_sorted(server: Server, dsn: str) -> None:
    """Whatever the order in which dags and runs are handed over."""
    async with open_world(dsn) as world:
        await world.put(*(chain(1, f"d{i}") for i in (3, 1, 2)))
        rows = await world.rows("SELECT id, dag_id, version_id FROM dag ORDER BY id")
        assert [row["dag_id"] for row in rows] == ["d1", "d2", "d3"]

        async def create(tx: Transaction) -> None:
            keys = await tx.lock(by_dag, keys=[row["id"] for row in rows])
            known = await world.graphs.load(tx, [row["version_id"] for row in rows])
            new = [
                runs.NewRun(
                    dag_pk=row["id"],
                    version_id=row["version_id"],
                    graph=known[row["version_id"]],
                    run_id=run_id,
                    run_type=RunType.MANUAL,
                    run_after=tx.now,
                )
                for row in reversed(rows)
                for run_id in ("z", "y")
            ]
            assert len(keys) == 3
            await runs.create(tx, new)

        by_dag = by_key(Lock.DAG, wait=Wait.WAIT)
        both = (Lock.DAG_RUN, Lock.TASK_INSTANCE)
        await world.store.transact(unregistered(create, Lock.DAG, inserts=both))
        made = await world.rows("SELECT dag_pk, run_id FROM dag_run ORDER BY id")
        order = [(row["dag_pk"], row["run_id"]) for row in made]
        assert order == sorted(order)


async def a_start_is_won_by_one_worker(server: Server, dsn: str) -> None:
    """Two workers ask for one start, the second within each gap between two statements of the first."""
    async with open_world(dsn) as world:
        await world.put(chain(1))
        other = "00000000-0000-0000-0000-000000000001"
        for gap in Gap.each(world):
            await world.trigger("chain")
            workloads = await world.admit()
            assert len(workloads) == 1
            first, second = await gap.play(
                lambda w=workloads: world.start(w), lambda w=workloads: world.start(w, worker=other)
            )
            assert [first[0].accepted, second[0].accepted].count(True) == 1
            await world.end(workloads)
            await world.judge()


async def an_end_is_recorded_once(server: Server, dsn: str) -> None:
    """Two daemons take the short way with one report."""
    async with open_world(dsn) as world:
        await world.put(chain(2))
        for gap in Gap.each(world):
            run = await world.trigger("chain")
            workloads = await world.admit()
            await world.start(workloads)
            advanced, _ = await gap.play(
                lambda w=workloads: world.advance(w, result="1"), lambda w=workloads: world.end(w, result="1")
            )
            await world.judge()
            assert (await world.states(run))["t0"] == "success"
            below = [*advanced.placed.workloads, *await world.admit()]
            assert [one.task_id for one in below] == ["t1"], "queued once"
            await world.start(below)
            await world.end(below)
            await world.judge()
            assert await world.run_state(run) == "success"


async def slots_are_never_exceeded(server: Server, dsn: str) -> None:
    """Two short ways want the one slot of a pool at the same time."""
    async with open_world(dsn) as world:
        await world.commands.set_pool(world.store, name="one", slots=1, description="")
        await world.put(*(_with_pool(f"d{i}") for i in range(2)))
        for gap in Gap.each(world):
            await world.trigger("d0")
            await world.trigger("d1")
            workloads = await world.admit()
            await world.start(workloads)
            mine = [[one for one in workloads if one.dag_id == name] for name in ("d0", "d1")]
            await gap.play(lambda m=mine: world.advance(m[0]), lambda m=mine: world.advance(m[1]))
            await _one_slot_is_used_once(world, server, dsn)
        await world.put(*(chain(1, f"e{i}", pool="one") for i in range(2)), file="e.py")
        for gap in Gap.each(world):
            await gap.play(lambda: world.launch("e0"), lambda: world.launch("e1"))
            await _one_slot_is_used_once(world, server, dsn)


async def admissions_never_exceed_a_pool(server: Server, dsn: str) -> None:
    """A task waits and is admitted; in each gap one of another run comes, and somebody else admits."""
    async with open_world(dsn) as world:
        await world.commands.set_pool(world.store, name="one", slots=1, description="")
        await world.put(*(chain(1, f"e{i}", pool="one") for i in range(2)))

        async def another() -> None:
            await world.trigger("e1")
            await world.admit()

        for gap in Gap.each(world):
            await world.trigger("e0")
            await gap.play(world.admit, another)
            await _one_slot_is_used_once(world, server, dsn)


async def clearing_reads_what_it_holds(server: Server, dsn: str) -> None:
    """A queued task is cleared; in each gap its attempt asks to start."""
    async with open_world(dsn) as world:
        await world.put(chain(1))
        for gap in Gap.each(world):
            run = await world.trigger("chain")
            workloads = await world.admit()
            (row,) = await world.rows("SELECT id FROM dag_run")

            async def clear(key: int = row["id"]) -> None:
                await world.store.transact(clear_tasks, world.graphs, [key], Selection())

            _, answers = await gap.play(clear, lambda w=workloads: world.start(w))
            expected = "restarting" if answers and answers[0].accepted else "none"
            assert await world.states(run) == {"t0": expected}, "cleared as it was, not as it is"
            _empty(world, server, dsn)


async def running_runs_are_never_exceeded(server: Server, dsn: str) -> None:
    """A run is created and may start at once; in each gap an old run of the same dag is cleared, and may start too."""
    async with open_world(dsn) as world:
        await world.put(evolve(chain(1), max_active_runs=1))
        for gap in Gap.each(world):
            await world.trigger("chain")
            await world.round()
            (old,) = await world.rows("SELECT id, state FROM dag_run")
            assert old["state"] == "success"

            async def again(key: int = old["id"]) -> None:
                await world.store.transact(clear_tasks, world.graphs, [key], Selection())
                await world.store.transact(start_queued_runs, world.graphs, 10)

            await gap.play(lambda: world.trigger("chain"), again)
            await world.store.transact(start_queued_runs, world.graphs, 10)
            runs = await world.rows("SELECT state FROM dag_run")
            assert sorted(run["state"] for run in runs) == ["queued", "running"], "one may run, and one runs"
            _empty(world, server, dsn)


def _empty(world: World, server: Server, dsn: str) -> None:
    server.sql("DELETE FROM event; DELETE FROM xcom; DELETE FROM attempt", database_of(dsn))
    server.sql("DELETE FROM task_instance; DELETE FROM dag_run", database_of(dsn))
    world.pictures.clear()


async def _one_slot_is_used_once(world: World, server: Server, dsn: str) -> None:
    used = await world.rows(
        "SELECT count(*) AS n FROM task_instance WHERE pool = 'one' AND state IN ('queued', 'running')"
    )
    assert used[0]["n"] <= 1, "two tasks in a pool of one slot"
    _empty(world, server, dsn)


def _with_pool(dag_id: str) -> Any:
    made = fan(1, dag_id)
    return evolve(made, tasks=tuple(evolve(one, pool="one" if one.task_id == "m0" else one.pool) for one in made.tasks))


async def everything_else_has_a_deadline_too(server: Server, dsn: str) -> None:
    """Single statements, reads, and the question after an unknown outcome end by themselves on a slow server."""
    slow = sa.text("SELECT pg_sleep(3)::text AS answer")

    async def read(tx: Reading) -> None:
        await tx.fetch(slow, {})

    async with open_world(dsn) as world:
        world.store.limits = Limits(transaction=0.3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transaction, "READ_SECONDS", 0.3)
            patch.setattr(transaction, "ANSWER_SECONDS", 0.3)
            patch.setattr(transaction, "SETTLE_SECONDS", 0.5)
            patch.setattr(transaction, "STATUS", "SELECT pg_sleep(3)::text || $1::text")
            for what, ask in {
                "a single statement": lambda: world.store.single(slow, {}),
                "a read": lambda: world.store.read(read),
            }.items():
                try:
                    await ask()
                except StoreUnavailable:
                    continue
                raise AssertionError(f"{what} has no deadline")
            assert await world.store._settle("1") is None, "an answer after its time"
        while left_open(server, dsn):  # the server notices after a second that nobody listens any more
            await trio.sleep(0.05)


async def connecting_has_a_deadline(server: Server, dsn: str) -> None:
    """A server that accepts connections and says nothing is left, by the first look and by the pools."""
    silent = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on everything, once; be silent towards whoever comes later."""
        if not silent.is_set():
            there, back = await asyncio.open_unix_connection(str(Path(server.socket_dir) / NAME))
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        while await reader.read(65536):
            pass
        writer.close()

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        through = dsn.replace(str(server.socket_dir), folder)
        limits = Limits(connect=0.5)
        async with open_bridge() as bridge, AsyncExitStack() as stack:
            listening = await bridge.shielded(asyncio.start_unix_server, deaf, Path(folder) / NAME)
            stack.callback(listening.close)
            async with open_store(bridge, through, connections=1, reserved=1, limits=limits) as store:
                await store.probe()
                silent.set()
                pids = server.sql(
                    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname ="
                    f" '{database_of(dsn)}'"
                )
                assert int(pids) == 2
                begun = trio.current_time()
                for _ in range(2):  # the first one may still hear that its connection has ended
                    with pytest.raises(StoreUnavailable):
                        await store.probe()
                assert trio.current_time() - begun < 6, "a pool waits for a server that is silent"
            begun = trio.current_time()
            with pytest.raises(StoreUnavailable):
                async with open_store(bridge, through, connections=1, reserved=1, limits=limits):
                    pass
            assert trio.current_time() - begun < 6, "the first look waits for a server that is silent"


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()
