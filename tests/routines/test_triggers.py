"""Many triggers at once: few transactions, and for each the answer it would have got alone."""

from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from attrs import evolve

from scheduler.commands import CommandError
from scheduler.commands.trigger import INSTANCES_TOGETHER, TOGETHER
from scheduler.model import RunState
from scheduler.store.errors import OutcomeUnknown
from tests.database import Server
from tests.stress.probes import cancelled_at_a_lost_commit
from tests.stress.proxy import Proxy
from tests.world import World, chain, open_world

A_DAY = datetime(2026, 1, 1, tzinfo=UTC)


async def at_once(world: World, *asked: dict[str, Any]) -> list[Any]:
    """What becomes of each of these triggers, begun in this order; nothing is carried out until all have arrived."""
    told: list[Any] = [None] * len(asked)

    async def one(n: int, options: dict[str, Any]) -> None:
        try:
            told[n] = await world.commands.trigger(
                world.store, **{"dag_id": "chain", "conf": None, "logical_date": None, **options}
            )
        except Exception as error:
            told[n] = error

    async with trio.open_nursery() as nursery, world.store.slots:  # the only connection there is
        for n, options in enumerate(asked):
            nursery.start_soon(one, n, options)
            await trio.lowlevel.checkpoint()
    return told


async def test_many_triggers_share_few_transactions_and_each_gets_its_own_run(dsn: str) -> None:
    async with open_world(dsn, connections=1) as world:
        await world.put(evolve(chain(3), max_active_runs=20))
        before = world.store.transactions
        told = await at_once(world, *[{"run_id": f"r{n}", "conf": {"n": n}} for n in range(50)])
        assert world.store.transactions - before == 1
        assert [one.run_id for one in told] == [f"r{n}" for n in range(50)]
        rows = await world.rows(
            "SELECT r.run_id, r.state, r.conf->>'n' AS n, count(ti.id) AS tasks"
            " FROM dag_run r JOIN task_instance ti ON ti.run_pk = r.id GROUP BY r.id"
        )
        assert {row["run_id"]: (row["n"], row["tasks"]) for row in rows} == {f"r{n}": (str(n), 3) for n in range(50)}
        assert {row["run_id"]: row["state"] for row in rows} == {one.run_id: str(one.state) for one in told}
        assert [one.state for one in told].count(RunState.RUNNING) == 20, "max_active_runs"


async def test_one_that_exists_is_refused_and_the_others_are_not(dsn: str) -> None:
    async with open_world(dsn, connections=1) as world:
        await world.put(chain(1))
        await world.trigger("chain", run_id="there")
        await world.trigger("chain", logical_date=A_DAY)
        told = await at_once(
            world, {"run_id": "a"}, {"run_id": "b"}, {"run_id": "there"}, {"logical_date": A_DAY}, {"run_id": "c"}
        )
        assert [getattr(one, "run_id", None) for one in told] == ["a", "b", None, None, "c"]
        assert [getattr(one, "code", None) for one in told] == [None, None, "conflict", "conflict", None]
        assert "there" in str(told[2])
        assert "2026-01-01" in str(told[3])


async def test_of_two_that_compete_one_wins(dsn: str) -> None:
    """They never go together, so it is the database that decides."""
    async with open_world(dsn, connections=1) as world:
        await world.put(chain(1))
        told = await at_once(
            world,
            {"run_id": "x"},
            {"run_id": "twice"},
            {"run_id": "twice", "logical_date": A_DAY},
            {"run_id": "twice"},
            {"logical_date": A_DAY},
            {"run_id": "other", "logical_date": A_DAY},
        )
        made = [getattr(one, "run_id", None) for one in told]
        assert made == ["x", "twice", None, None, "manual__2026-01-01T00:00:00+00:00", None]
        assert all(isinstance(one, CommandError) for one in told if not hasattr(one, "run_id"))
        assert len(await world.rows("SELECT id FROM dag_run")) == 3


async def test_one_that_cannot_be_computed_does_not_harm_the_others(dsn: str) -> None:
    async with open_world(dsn, connections=1) as world:
        await world.put(chain(1))
        no_such_instant = datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))
        told = await at_once(
            world,
            {"run_id": "a"},
            {"run_id": "b"},
            {"run_id": "never", "logical_date": no_such_instant},
            {"run_id": "c"},
        )
        assert [getattr(one, "run_id", None) for one in told] == ["a", "b", None, "c"]
        assert isinstance(told[2], OverflowError)
        assert len(await world.rows("SELECT id FROM dag_run")) == 3


async def test_an_unknown_dag_is_everybodys_refusal_and_costs_one_look(dsn: str) -> None:
    async with open_world(dsn, connections=1) as world:
        told = await at_once(world, *[{"dag_id": "nobody"}] * 10)
        assert [one.code for one in told] == ["not_found"] * 10


async def test_large_dags_and_long_queues_go_in_several_transactions(dsn: str) -> None:
    async with open_world(dsn, connections=1) as world:
        await world.put(chain(INSTANCES_TOGETHER // 2 - 1, "large"), chain(1))
        before = world.store.transactions
        told = await at_once(world, *[{"dag_id": "large"}] * 6)
        assert len({one.run_id for one in told}) == 6
        assert world.store.transactions - before == 3, "two at a time"
        before = world.store.transactions
        told = await at_once(world, *[{}] * (2 * TOGETHER + 1))
        assert len({one.run_id for one in told}) == 2 * TOGETHER + 1
        assert world.store.transactions - before == 3


async def test_triggers_of_different_dags_do_not_wait_for_each_other(dsn: str) -> None:
    async with open_world(dsn, connections=2) as world:
        await world.put(chain(1, "held"), chain(1, "free"))
        rows = await world.rows("SELECT id FROM dag WHERE dag_id = 'held'")
        async with open_world(dsn) as other, trio.open_nursery() as nursery:
            holding, release = trio.Event(), trio.Event()
            nursery.start_soon(hold, other, rows[0]["id"], holding, release)
            await holding.wait()
            done: list[str] = []

            async def trigger(dag_id: str) -> None:
                done.append(
                    (await world.commands.trigger(world.store, dag_id=dag_id, conf=None, logical_date=None)).run_id
                )

            nursery.start_soon(trigger, "held")
            await trigger("free")
            assert len(done) == 1
            release.set()
        assert len(done) == 2


async def hold(world: World, dag_pk: int, holding: trio.Event, release: trio.Event) -> None:
    """Hold a dag's row until told."""
    import asyncpg

    async def crossing() -> None:
        driver = await asyncpg.connect(world.dsn.replace("+asyncpg", ""))
        try:
            async with driver.transaction():
                await driver.execute("SELECT 1 FROM dag WHERE id = $1 FOR NO KEY UPDATE", dag_pk)
                holding.set()
                await world.bridge.call_trio(release.wait)
        finally:
            await driver.close()

    await world.bridge.shielded(crossing)


@pytest.mark.parametrize("cancelled", range(4))
async def test_who_is_cancelled_has_no_run_and_takes_nobody_along(dsn: str, cancelled: int) -> None:
    async with open_world(dsn, connections=1) as world:
        await world.put(evolve(chain(1), max_active_runs=100))
        made: list[str] = []
        scopes = [trio.CancelScope() for _ in range(4)]

        async def one(n: int) -> None:
            with scopes[n]:
                made.append(await world.trigger("chain", run_id=f"r{n}"))

        async with trio.open_nursery() as nursery, world.store.slots:  # the only connection there is
            for n in range(4):
                nursery.start_soon(one, n)
                await trio.lowlevel.checkpoint()
            scopes[cancelled].cancel()
            await trio.testing.wait_all_tasks_blocked(0.01)
        there = {row["run_id"] for row in await world.rows("SELECT run_id FROM dag_run")}
        assert there == set(made) == {f"r{n}" for n in range(4) if n != cancelled}


async def test_an_unknown_outcome_that_cannot_be_read_back_stays_unknown(
    server: Server, dsn: str, tmp_path: Path
) -> None:
    """As when the server dies with the COMMIT: "away" would say that nothing was committed."""
    through = dsn.replace(str(server.socket_dir), str(tmp_path))
    async with Proxy.open(Path(server.socket_dir), tmp_path) as proxy, open_world(through, connections=1) as world:
        await world.put(chain(1))
        proxy.lose_next_commit(after_server=True, then_away=True)
        with pytest.raises(OutcomeUnknown):
            await world.trigger("chain", run_id="perhaps")
        proxy.is_away = False
        assert [row["run_id"] for row in await world.rows("SELECT run_id FROM dag_run")] == ["perhaps"]


async def test_a_cancel_does_not_hide_that_the_outcome_is_unknown(server: Server, dsn: str, tmp_path: Path) -> None:
    through = dsn.replace(str(server.socket_dir), str(tmp_path))
    async with Proxy.open(Path(server.socket_dir), tmp_path) as proxy, open_world(through, connections=2) as world:
        await world.put(chain(1))
        heard = await cancelled_at_a_lost_commit(world.store, proxy, partial(world.trigger, "chain", run_id="perhaps"))
        assert heard == "unknown"
        assert [row["run_id"] for row in await world.rows("SELECT run_id FROM dag_run")] == ["perhaps"]
