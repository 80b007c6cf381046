"""Listings touch as many pages on a history as they show rows, whoever's rows the history is made of."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa

from bench.server import plain
from nurseries.bridge import open_bridge
from scheduler.store import dags, views
from scheduler.store.engine import open_store
from scheduler.store.writer import Reading

DAGS = 400
"""Without any run: the planner must not look for them among the runs of the others."""
RUNS = 20_000
"""All of one dag; every 200th has failed."""

FILL = f"""
INSERT INTO dag (dag_id, file, schedule, max_active_runs, is_continuous)
  SELECT 'idle_' || n, 'idle.py', '@daily', 16, n % 2 = 0 FROM generate_series(1, {DAGS}) AS n;
INSERT INTO dag (dag_id, file, schedule, max_active_runs) VALUES ('busy', 'busy.py', '@daily', 16);
INSERT INTO dag_run (dag_pk, version_id, run_id, run_type, state, run_after, queued_at, end_date)
  SELECT d.id, 1, 'r' || n, 'manual', CASE WHEN n % 200 = 0 THEN 'failed' ELSE 'success' END, now(), now(), now()
  FROM dag d CROSS JOIN generate_series(1, {RUNS}) AS n WHERE d.dag_id = 'busy' ORDER BY n;
VACUUM ANALYZE;
"""
PAGES = "SELECT sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)::bigint FROM pg_statio_user_tables"
OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


async def _ask(dsn: str, *statements: str) -> Any:
    """Run statements one by one, when nobody else is left who has not said yet what he touched."""

    async def ask() -> Any:
        connection = await asyncpg.connect(plain(dsn))
        try:
            while await connection.fetchval(OTHERS):
                await asyncio.sleep(0.02)
            for statement in statements:
                value = await connection.fetchval(statement)
            return value
        finally:
            await connection.close()

    async with open_bridge() as bridge:
        return await bridge.shielded(ask)


async def _read(dsn: str, view: Callable[[Reading], Awaitable[Any]]) -> Any:
    async with open_bridge() as bridge, open_store(bridge, dsn, connections=2) as store:
        return await store.read(view)


async def _continuous(reading: Reading) -> Any:
    """What create_runs asks of dags whose next run waits for the end of the last one."""
    rows = await reading.fetch(sa.text("SELECT id FROM dag WHERE is_continuous ORDER BY id LIMIT 100"))
    return await dags.due(reading, [row["id"] for row in rows])


VIEWS: dict[str, tuple[Callable[[Reading], Awaitable[Any]], int, int]] = {
    "dags": (views.dags, DAGS + 1, 10 * DAGS),
    "failed runs": (partial(views.runs, limit=50, states=["failed"]), 50, 400),
    "runs of a busy dag": (partial(views.runs, limit=50, dag_id="busy"), 50, 400),
    "runs of an idle dag": (partial(views.runs, limit=50, dag_id="idle_7"), 0, 100),
    "ends of dags without runs": (_continuous, 100, 1_500),
}
"""What is read, how many rows that gives, how many pages it may touch."""


@pytest.mark.parametrize("name", VIEWS)
async def test_a_listing_touches_what_it_shows(dsn: str, name: str) -> None:
    view, rows, most = VIEWS[name]
    await _ask(dsn, *FILL.strip().rstrip(";").split(";"))
    before = await _ask(dsn, PAGES)
    found = await _read(dsn, view)
    after = await _ask(dsn, PAGES)
    assert len(found) == rows
    assert after - before <= most
