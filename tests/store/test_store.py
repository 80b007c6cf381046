"""The store itself: what it sets on its connections, what it refuses, and that a rollback leaves nothing."""

import pytest

from nurseries.bridge import open_bridge
from scheduler.store import dags
from scheduler.store.engine import open_store
from scheduler.store.errors import DatabaseRefused, LockOrderError, StoreUnavailable
from scheduler.store.locks import Lock
from scheduler.store.writer import Transaction, writer
from tests.database import Server, running_server
from tests.world import chain, open_world


async def test_commits_are_durable_whatever_the_server_says(dsn: str, server: Server) -> None:
    assert server.sql("SHOW synchronous_commit") == "off", "as the tests' server is set"
    async with open_world(dsn) as world:
        assert await world.rows("SELECT current_setting('synchronous_commit') AS it") == [{"it": "on"}]


async def test_time_outs_nest_on_every_connection(dsn: str) -> None:
    async with open_world(dsn) as world:
        names = ["deadlock_timeout", "lock_timeout", "statement_timeout", "transaction_timeout"]
        (row,) = await world.rows("SELECT " + ", ".join(f"current_setting('{name}') AS {name}" for name in names))
        assert row["deadlock_timeout"] == "200ms"
        assert row["lock_timeout"] == "1s"
        assert row["transaction_timeout"] == "8s"


@writer(Lock.DAG)
async def pauses_and_fails(tx: Transaction, error: Exception) -> None:
    keys = await tx.lock(dags.LOCK_DAG_ID, dag_id="chain")
    await dags.pause(tx, keys, paused=True)
    raise error


@pytest.mark.parametrize("error", [ValueError("no"), LockOrderError("a bug"), TimeoutError()])
async def test_a_writer_that_fails_leaves_nothing_and_its_connection_clean(dsn: str, error: Exception) -> None:
    async with open_world(dsn, connections=1) as world:
        await world.put(chain(1))
        expected = StoreUnavailable if isinstance(error, TimeoutError) else type(error)
        for _ in range(3):
            with pytest.raises(expected):
                await world.store.transact(pauses_and_fails, error)
        assert await world.rows("SELECT is_paused FROM dag") == [{"is_paused": False}]
        assert world.store.slots.borrowed_tokens == 0
        idle = "SELECT count(*) AS n FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
        assert await world.rows(idle) == [{"n": 0}]


@writer(Lock.DAG)
async def takes_a_lock_it_did_not_declare(tx: Transaction) -> None:
    from scheduler.store import pools

    await tx.lock(pools.LOCK_NAMED, names=["*"])


async def test_a_lock_that_was_not_declared_is_a_bug(dsn: str) -> None:
    async with open_world(dsn) as world:
        with pytest.raises(LockOrderError, match="POOL is not among the locks"):
            await world.store.transact(takes_a_lock_it_did_not_declare)


async def test_a_server_that_may_lose_what_it_promised_is_refused() -> None:
    with running_server(settings={"fsync": "off"}) as unsafe:
        async with open_bridge() as bridge:
            with pytest.raises(DatabaseRefused, match="fsync=off"):
                async with open_store(bridge, unsafe.dsn()):
                    pass
