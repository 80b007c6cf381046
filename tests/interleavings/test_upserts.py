"""What inserts where another one may have inserted: an INSERT with ON CONFLICT waits for a value, and may lock a row.

Every two shapes of the writers that insert into one table, themselves included, with the same keys and with different
ones in both orders; what the statement that runs alone holds while it waits; and a crowd of them at once, for the
waits inside PostgreSQL (speculative insertion) that no boundary of statements shows.
"""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import combinations_with_replacement
from typing import Any

import asyncpg
import pytest

from scheduler.store import seats
from scheduler.store.seats import Seat
from scheduler.store.statements import compiled
from scheduler.store.writer import WRITERS
from tests.database import Server
from tests.interleavings import cases, parameters
from tests.interleavings.company import Company, Part
from tests.interleavings.report import part
from tests.interleavings.scenes import arrange, look
from tests.interleavings.schedules import schedules
from tests.interleavings.theatre import Theatre, play
from tests.stress.cancelling import database_of

SEATS_BESIDE = ("beat", "leave", "purge_seats", "rescue_lost")
"""Who else locks a seat."""


def companies() -> list[tuple[list[str], list[str]]]:
    """(those who insert into one table, who else is to be there) for each table."""
    inserting: dict[str, list[str]] = {}
    for name in cases.production_writers():
        for lock in WRITERS[name].inserts:
            inserting.setdefault(lock.table.name, []).append(name)
    inserting["seat"].append("register")
    made = {tuple(sorted(names)): SEATS_BESIDE if table == "seat" else () for table, names in inserting.items()}
    return [(list(names), list(beside)) for names, beside in made.items()]


async def all_shapes(theatre: Theatre) -> None:
    company = Company(theatre, "upserts")
    await arrange(theatre, "rich")
    parts = company.parts(await look(theatre))
    turns: dict[Part, int] = {}
    draw = random.Random(parameters.SEED)
    for inserting, beside in companies():
        ours = [one for one in parts if one[0] in inserting]
        others = [(name, 0) for name in beside]
        pairs = [*combinations_with_replacement(ours, 2), *((a, b) for a in ours for b in others)]
        for one in {*ours, *others}:
            turns[one] = await company.turns("rich", one)
        for a, b in pairs:
            every = schedules(turns[a], turns[b], at_most=parameters.EVERY_INTERLEAVING)
            for schedule in draw.sample(every, min(len(every), parameters.UPSERT_SCHEDULES)):
                await company.play("rich", [a, b], schedule)
        part("upserts").count(pairs=len(pairs))
    company.check_they_met(0.05)
    part("upserts").say(seed=parameters.SEED)


@pytest.mark.stress
def test_every_two_shapes_of_those_who_insert_into_one_table(server: Server) -> None:
    play(server, all_shapes, stores=2)


def a_worker(number: str) -> tuple[str, list[Any]]:
    """The statement with which a worker is registered."""
    made = compiled(seats._REGISTER)
    row = seats._row(Seat(uuid=number, kind="worker", hostname="h", pid=3, home="/home"))
    return made.text, made.arguments(row)


@asynccontextmanager
async def sessions(dsn: str, count: int) -> AsyncIterator[list[Any]]:
    made = [await asyncpg.connect(dsn.replace("+asyncpg", "")) for _ in range(count)]
    try:
        yield made
    finally:
        for one in made:
            await one.close()


HELD_WHILE_WAITING = (
    "SELECT locktype || ' ' || coalesce(relation::regclass::text, '') FROM pg_locks l WHERE pid = $1 AND granted"
    " AND NOT (locktype = 'virtualxid' OR locktype = 'relation' AND mode IN ('AccessShareLock', 'RowExclusiveLock'))"
    " AND NOT (locktype = 'transactionid' AND transactionid::text = $2)"
)
"""But for its own transaction, which nobody can wait for before it has written something."""


@pytest.mark.parametrize("other", ["inserts it and commits", "inserts it and rolls back", "holds it"])
def test_who_registers_waits_for_one_row_and_holds_no_other(dsn: str, other: str) -> None:
    number = str(uuid.uuid4())

    async def main() -> None:
        async with sessions(dsn, 3) as (holder, registering, watching):
            await watching.execute("CREATE EXTENSION pgrowlocks")
            pid = registering.get_server_pid()
            text, arguments = a_worker(number)
            if other == "holds it":
                await holder.execute(text, *arguments)
            await holder.execute("BEGIN")
            if other == "holds it":
                await holder.execute("SELECT FROM seat WHERE uuid = $1 FOR UPDATE", number)
            else:
                await holder.execute(text, *arguments)
            waiting = asyncio.create_task(registering.execute(text, *arguments))
            while not await watching.fetchval("SELECT cardinality(pg_blocking_pids($1))", pid):
                assert not waiting.done(), waiting
                await asyncio.sleep(0.005)
            own = await watching.fetchval("SELECT backend_xid::text FROM pg_stat_activity WHERE pid = $1", pid)
            held = [row[0] for row in await watching.fetch(HELD_WHILE_WAITING, pid, own or "")]
            # its place in the queue for this one row
            assert held == (["tuple seat"] if other == "holds it" else []), held
            assert not await watching.fetchval("SELECT count(*) FROM pgrowlocks('seat') WHERE $1 = ANY(pids)", pid)
            await holder.execute("ROLLBACK" if other.endswith("back") else "COMMIT")
            assert await waiting == "INSERT 0 1"
            assert await watching.fetchval("SELECT count(*) FROM seat WHERE uuid = $1", number) == 1

    asyncio.run(asyncio.wait_for(main(), 60))


async def crowd(dsn: str, rounds: int, draw: random.Random) -> int:
    """Sessions that insert, find and delete the same few seats at once; returns how many statements they ran."""
    numbers = [str(uuid.uuid4()) for _ in range(3)]
    take = compiled(seats._TAKE)

    async def one(session: Any, seed: float) -> int:
        mine = random.Random(seed)
        await session.execute("SET deadlock_timeout = '50ms'; SET lock_timeout = 0")
        for _ in range(rounds):
            number = mine.choice(numbers)
            text, arguments = a_worker(number)
            what = mine.random()
            if what < 0.3:
                await session.execute("DELETE FROM seat WHERE uuid = $1", number)
            elif what < 0.6:
                row = seats._row(Seat(uuid=number, kind="daemon", hostname="h", pid=3, home="/home"))
                await session.execute(take.text, *take.arguments(row))
            else:
                await session.execute(text, *arguments)
        return rounds

    async with sessions(dsn, 8) as made:
        done = sum(await asyncio.gather(*(one(session, draw.random()) for session in made)))
        assert await made[0].fetchval("SELECT count(*) FROM seat WHERE uuid = ANY($1)", numbers) <= len(numbers)
    return done


@pytest.mark.stress
def test_a_crowd_that_inserts_the_same_values_at_once_is_never_in_a_circle(server: Server, dsn: str) -> None:
    statements = asyncio.run(asyncio.wait_for(crowd(dsn, 400, random.Random(parameters.SEED)), 100))
    deadlocks = server.sql(f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{database_of(dsn)}'")
    assert deadlocks == "0"
    part("upserts").count(**{"single statements in a crowd": statements})
