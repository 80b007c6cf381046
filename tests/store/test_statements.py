"""Compiled statements are kept for as long as the statements, and no longer."""

import gc
import weakref

import sqlalchemy as sa

from scheduler.store import statements, tasks
from scheduler.store.statements import compiled
from scheduler.store.writer import Reading
from tests.world import open_world


def made_for_one_call() -> sa.TextClause:
    return sa.text("SELECT count(*) AS n FROM dag WHERE dag_id = :dag_id")


def test_a_statement_made_at_import_is_compiled_once() -> None:
    first = compiled(tasks.LOCK_OF_TOKENS.select)
    assert compiled(tasks.LOCK_OF_TOKENS.select) is first


def test_equal_texts_are_different_statements() -> None:
    one, other = sa.select(sa.literal(1)), sa.select(sa.literal(2))
    assert compiled(one).arguments(None) == [1]
    assert compiled(other).arguments(None) == [2]


async def test_a_statement_made_for_one_call_leaves_nothing_behind(dsn: str) -> None:
    made: list[weakref.ref[sa.TextClause]] = []

    async def count(reading: Reading) -> int:
        statement = made_for_one_call()
        made.append(weakref.ref(statement))
        (row,) = await reading.fetch(statement, {"dag_id": "nobody"})
        return int(row["n"])

    async with open_world(dsn) as world:
        await world.store.read(count)
        gc.collect()
        before = len(statements._known)
        for _ in range(20):
            assert await world.store.read(count) == 0
        gc.collect()
        assert [one() for one in made] == [None] * 21
        assert len(statements._known) == before
