"""What a task instance costs does not depend on how much has been done before: counts, on an empty database and on a
history of 50,000 finished instances. No times: they would only say how busy the machine is.
"""

import asyncio
from pathlib import Path

import asyncpg
import trio
from attrs import define

from bench.growth import history
from bench.scheduler_only import Cost, Shapes, open_bench
from bench.server import plain
from nurseries.bridge import open_bridge
from tests.database import Server

SHAPES = Shapes(chain=20, fan=100, tree=3, grid=3, runs=10)
INSTANCES = 50_000

HISTORY = ("dag_run", "task_instance", "attempt", "xcom", "event")
MOST = {"chain": 1.15, "fan": 1.6, "runs": 1.6}
"""Times as many statements and transactions: a chain has one way to go, the others depend on how reports gather."""
MOST_BLOCKS = 2.0
"""Times as many pages: the indexes of an empty table have one level, those of a history two."""

COUNTS = """
SELECT relname, coalesce(seq_tup_read, 0) AS scanned,
  coalesce(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read, 0) AS blocks
FROM pg_stat_user_tables JOIN pg_statio_user_tables USING (relid, relname)
"""

OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
"""Sessions that have not counted all they did yet."""


@define
class Found:
    """What the work cost, as counted at the store and by PostgreSQL."""

    costs: dict[str, Cost]
    blocks: int
    scanned: dict[str, int]
    """Rows read by sequential scans, by table."""


async def _counts(dsn: str) -> dict[str, tuple[int, int]]:
    async def ask() -> dict[str, tuple[int, int]]:
        connection = await asyncpg.connect(plain(dsn))
        try:
            while await connection.fetchval(OTHERS):
                await asyncio.sleep(0.05)
            return {row["relname"]: (row["scanned"], row["blocks"]) for row in await connection.fetch(COUNTS)}
        finally:
            await connection.close()

    async with open_bridge() as bridge:
        return await bridge.shielded(ask)


async def _fill(dsn: str) -> None:
    async with open_bridge() as bridge:
        await bridge.shielded(lambda: history.fill(plain(dsn), INSTANCES, dag_id="runs"))


async def _work(dsn: str, place: Path) -> Found:
    place.mkdir(exist_ok=True)
    before = await _counts(dsn)
    async with open_bench(dsn, place, SHAPES) as bench:
        await bench.warm_up()
        costs = {shape: await bench.measure(shape, SHAPES) for shape in ("chain", "fan", "runs")}
    after = await _counts(dsn)  # the scheduler's sessions are gone: all they did has been counted
    return Found(
        costs=costs,
        blocks=sum(blocks - before[table][1] for table, (_, blocks) in after.items()),
        scanned={table: scanned - before[table][0] for table, (scanned, _) in after.items()},
    )


async def test_a_task_instance_costs_the_same_on_an_empty_database_and_on_a_history(
    dsn: str, server: Server, tmp_path: Path
) -> None:
    with server.database() as empty_dsn, trio.fail_after(110):
        empty = await _work(empty_dsn, tmp_path / "empty")
        async with open_bench(dsn, tmp_path / "dags", SHAPES):
            pass  # loads the dags that the history is about
        await _fill(dsn)
        full = await _work(dsn, tmp_path / "full")
    scanned = {table: rows for table, rows in full.scanned.items() if table in HISTORY and rows}
    assert not scanned, "rows of the history were read one after the other: an index is missing, or is not used"
    exceeded = []
    for shape, bound in MOST.items():
        for what in ("statements", "transactions"):
            ratio = getattr(full.costs[shape], what) / getattr(empty.costs[shape], what)
            if ratio > bound:
                exceeded.append(f"{shape}: {ratio:.2f} times as many {what}, at most {bound} expected")
    if full.blocks > MOST_BLOCKS * empty.blocks:
        exceeded.append(f"{full.blocks} pages touched instead of {empty.blocks}, at most {MOST_BLOCKS} times expected")
    assert not exceeded, "\n".join(exceeded)
