"""The order inside one statement: whatever the plan, wherever the rows lie, locks are taken by key.

A locking statement is stopped at a row that somebody holds; what it has locked by then must be the rows before, all
of them and no other. Writing statements are halted between two rows by a trigger while another writer comes.
"""

import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from attrs import evolve, frozen

from scheduler.commands.errors import CommandError
from scheduler.routines.load_dags import DuplicateDag
from scheduler.store import locks
from scheduler.store.locks import LockStatement, Mode, Wait
from scheduler.store.statements import compiled
from scheduler.store.writer import WRITERS
from tests.database import Server
from tests.interleavings import cases, parameters
from tests.interleavings.company import Company, Part
from tests.interleavings.inside import TRIGGERS, Recorder, Visit, halted_at
from tests.interleavings.monitor import Monitor, open_monitor
from tests.interleavings.plans import random_plans
from tests.interleavings.promises import check
from tests.interleavings.report import part
from tests.interleavings.scenes import HOME, SCENES, arrange, look
from tests.interleavings.theatre import Theatre, play
from tests.store.test_locking_law import load_writers

ROOMS = ("scheduler.store", "scheduler.procedures", "scheduler.commands", "scheduler.routines")


def production_statements() -> dict[str, LockStatement]:
    """Every locking statement of the code base, by the name it has there."""
    import sys

    load_writers()
    found: dict[str, LockStatement] = {}
    for name, module in sorted(sys.modules.items()):
        if name.startswith(ROOMS) and module is not locks:
            mine = {f"{name}.{what}": one for what, one in vars(module).items() if isinstance(one, LockStatement)}
            found.update({what: one for what, one in mine.items() if one not in found.values()})
    return found


async def arguments(theatre: Theatre, statement: LockStatement) -> dict[str, Any]:
    """Values for a statement's parameters, by their names, so that it finds many rows."""
    table = statement.lock.table.name
    (row,) = await theatre.rows(
        f"SELECT (SELECT array_agg(id ORDER BY id DESC) FROM {table}) AS keys,"
        " (SELECT array_agg(id) FROM dag) AS dags, (SELECT array_agg(id) FROM dag_run) AS runs,"
        " (SELECT array_agg(name) FROM pool) AS names, (SELECT array_agg(path) FROM dag_file) AS paths,"
        " (SELECT array_agg(dag_id) FROM dag) AS dag_ids, (SELECT array_agg(token::text) FROM attempt) AS tokens,"
        " (SELECT uuid::text FROM seat ORDER BY id LIMIT 1) AS uuid"
    )
    known = {
        **row,
        "at_most": 1000,
        "now": theatre.now,
        "before": theatre.now,
        "dag_id": "fan",
        "hostname": "h",
        "home": f"{HOME}/d",
    }
    wanted = set(compiled(statement.select).names) - compiled(statement.select).defaults.keys()
    missing = wanted - known.keys()
    assert not missing, f"say in `arguments` what these parameters of a locking statement may be: {sorted(missing)}"
    return {name: known[name] for name in wanted}


def waiting_twin(statement: LockStatement) -> LockStatement:
    """The same rows by the same plan, but it waits: where it stands can be seen."""
    select = statement.select.with_for_update(
        key_share=statement.mode is Mode.NO_KEY_UPDATE, skip_locked=False, of=statement.lock.table
    )
    return evolve(statement, select=select, wait=Wait.WAIT)


class OutOfOrder(AssertionError):
    """Rows are not locked by key."""


@frozen
class Stopped:
    """Runs one statement up to a row that somebody else holds."""

    theatre: Theatre
    runner: Monitor
    holder: Monitor

    async def run(self, text: str, values: list[Any], table: str, plans: str, draw: random.Random) -> tuple[int, str]:
        """Returns how many rows it locks and what the plan was. Raises OutOfOrder."""
        await self.runner.execute(f"BEGIN; {plans}")
        explained = await self.runner.fetch(f"EXPLAIN (COSTS OFF) {text}", *values)
        plan = "\n".join(row[0] for row in explained)
        keys = [row["id"] for row in await self.runner.fetch(text, *values)]
        await self.runner.execute("ROLLBACK")
        if keys != sorted(keys):
            raise OutOfOrder(f"the rows come as {keys}\n{text}\n{plans}\n{plan}")
        if len(keys) < 2:
            return len(keys), plan
        at = draw.randrange(1, len(keys))
        await self.holder.execute(f"BEGIN; SELECT id FROM {table} WHERE id = {keys[at]} FOR UPDATE")
        got: list[int] = []
        (me,) = await self.runner.fetch("SELECT pg_backend_pid() AS pid")

        async def run_it() -> None:
            await self.runner.execute(f"BEGIN; {plans}")
            got.extend([row["id"] for row in await self.runner.fetch(text, *values)])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_it)
            with trio.fail_after(20):
                while me["pid"] not in await self.theatre.monitor.waits():
                    assert not got, f"it was not stopped at {keys[at]}: {got}"
            locked = await self.theatre.monitor.fetch(
                f"SELECT t.id FROM pgrowlocks('{table}') p JOIN {table} t ON t.ctid = p.locked_row"
                " WHERE $1 = ANY(p.pids) ORDER BY t.id",
                me["pid"],
            )
            await self.holder.execute("ROLLBACK")
        await self.runner.execute("ROLLBACK")
        if [row["id"] for row in locked] != keys[:at]:
            seen = [row["id"] for row in locked]
            raise OutOfOrder(f"stopped at {keys[at]} of {keys} it holds {seen}\n{text}\n{plans}\n{plan}")
        assert got == keys
        return len(keys), plan


async def with_connections(theatre: Theatre, main: Callable[[Monitor, Monitor], Awaitable[None]]) -> None:
    """Two connections of our own to the theatre's database."""
    dsn = theatre.store.engine.url.render_as_string(hide_password=False)
    async with open_monitor(theatre.bridge, dsn) as one, open_monitor(theatre.bridge, dsn) as other:
        await main(one, other)


SINGLE_ROW = ["scheduler.store.dags.LOCK_DAG_ID"]
"""Locking statements that never lock more than one row: by a unique value."""
TWO_WORKERS_DIED = (
    "UPDATE attempt SET worker = (SELECT uuid FROM seat WHERE hostname = 'old' ORDER BY id LIMIT 1)"
    " WHERE token = (SELECT token FROM attempt a JOIN seat s ON s.uuid = a.worker"
    " WHERE a.state = 'running' AND s.lease_until < $1 ORDER BY a.token LIMIT 1)"
)
"""In the scene it is one, and one row is in no order."""


async def statements_by_key(theatre: Theatre, plans: int, seed: int) -> None:
    """Each locking statement under random plans over a shuffled heap."""
    await arrange(theatre, "wide")
    draw = random.Random(seed)
    figures = part("inside a statement")
    everything = production_statements()
    most = dict.fromkeys(everything, 0)
    shapes: set[str] = set()

    async def main(runner: Monitor, holder: Monitor) -> None:
        stopped = Stopped(theatre, runner, holder)
        for _ in range(plans):
            await theatre.reset("wide", shuffle=draw.randrange(10**6))
            await theatre.monitor.execute(TWO_WORKERS_DIED, theatre.now)
            for name, statement in everything.items():
                made = compiled(waiting_twin(statement).select)
                values = made.arguments(await arguments(theatre, statement))
                table = statement.lock.table.name
                rows, plan = await stopped.run(made.text, values, table, random_plans(draw), draw)
                most[name] = max(most[name], rows)
                shapes.add(f"{name}\n{plan}")
                figures.count(**{"locking statements stopped at a row": rows > 1})

    await with_connections(theatre, main)
    figures.say(seed=seed, **{"locking statements": len(everything), "plans seen": len(shapes)})
    single = sorted(name for name, rows in most.items() if rows == 1)
    assert single == SINGLE_ROW, f"of these only one row was locked, so no order was seen: {single}"
    idle = sorted(name for name, rows in most.items() if not rows)
    assert not idle, f"these find no row in the scene: {idle}"


@pytest.mark.stress
def test_locking_statements_go_by_key_under_every_plan(server: Server) -> None:
    play(server, lambda theatre: statements_by_key(theatre, parameters.PLANS, parameters.SEED))


def test_locking_statements_go_by_key_under_some_plans(server: Server) -> None:
    play(server, lambda theatre: statements_by_key(theatre, 2, parameters.SMALL_SEED))


@pytest.mark.parametrize(
    "text",
    [
        "SELECT id FROM task_instance WHERE id = ANY($1::bigint[]) FOR NO KEY UPDATE",
        "SELECT ti.id FROM task_instance ti JOIN unnest($1::bigint[]) k ON k = ti.id FOR NO KEY UPDATE OF ti",
        "SELECT id FROM task_instance WHERE id IN (SELECT id FROM task_instance WHERE id = ANY($1) ORDER BY id)"
        " FOR NO KEY UPDATE",
    ],
)
def test_a_statement_that_only_looks_ordered_is_found(server: Server, text: str) -> None:
    """A sorted list, a sorted join, a sort in the query that does not lock: none of them orders anything."""

    async def hunt(theatre: Theatre) -> None:
        await arrange(theatre, "wide")
        draw = random.Random(parameters.SMALL_SEED)

        async def main(runner: Monitor, holder: Monitor) -> None:
            stopped = Stopped(theatre, runner, holder)
            for _ in range(500):
                await theatre.reset("wide", shuffle=draw.randrange(10**6))
                rows = await theatre.rows("SELECT id FROM task_instance ORDER BY id")
                values = [[row["id"] for row in rows]]
                await stopped.run(text, values, "task_instance", random_plans(draw), draw)

        with pytest.raises(OutOfOrder):
            await with_connections(theatre, main)

    play(server, hunt)


SEVERAL = ["dag", "dag_run", "task_instance"]
"""Tables into which one statement inserts several rows, so that they can come in the wrong order."""


async def inserts_in_order(theatre: Theatre) -> None:
    """Every shape of every writer, under a random plan over a shuffled heap."""
    await arrange(theatre, *SCENES)
    await theatre.monitor.execute(TRIGGERS)
    draw = random.Random(parameters.SEED)
    figures = part("inside a statement")
    company = Company(theatre, figures.name)
    most: dict[str, int] = {}
    for scene in SCENES:
        await theatre.reset(scene)
        for name, n in company.parts(await look(theatre)):
            for text, visits in await record(company, scene, (name, n), draw):
                inserted = [visit.unique for visit in visits if visit.verb == "INSERT"]
                if inserted != sorted(inserted):
                    raise OutOfOrder(f"{name} inserts {inserted}\n{text}")
                figures.count(**{"inserting statements": bool(inserted)})
                for visit in visits:
                    if visit.verb == "INSERT":
                        most[visit.table] = max(most.get(visit.table, 0), len(inserted))
    declared = {lock.table.name for name in cases.production_writers() for lock in WRITERS[name].inserts}
    assert most.keys() >= declared, f"nobody was seen inserting into these: {declared - most.keys()}"
    several = sorted(table for table, rows in most.items() if rows > 1)
    assert several == SEVERAL, f"of these several rows are inserted at once: {several}"


async def record(company: Company, scene: str, one: Part, draw: random.Random) -> list[tuple[str, list[Visit]]]:
    """The rows that each statement of a writer comes to, under a random plan over a shuffled heap."""
    theatre = company.theatre
    await theatre.reset(scene, shuffle=draw.randrange(10**6))
    company.daemon.pictures.clear()
    work = cases.shapes_of(one[0], await look(theatre), company.daemon)[one[1]]
    recorder = Recorder(random_plans(draw))
    with contextlib.suppress(CommandError, DuplicateDag):
        await work.call(evolve(theatre.store, stepper=recorder))
    return recorder.statements


async def halts(theatre: Theatre) -> None:
    """One writer is halted at a row of a bulk write, another one comes and goes on until it is done or blocked."""
    await arrange(theatre, "rich")
    await theatre.monitor.execute(TRIGGERS)
    draw = random.Random(parameters.SEED)
    figures = part("inside a statement")
    company = Company(theatre, figures.name)
    places = []
    for name in cases.CASES:
        for _, visits in await record(company, "rich", (name, 0), draw):
            known = [visit for visit in visits if visit.verb != "INSERT"]
            places += [(name, visit) for visit in known[1:]]
    stage = theatre.stage
    halted = met = 0

    async def main(controller: Monitor, _: Monitor) -> None:
        nonlocal halted, met
        for name, visit in draw.choices(places, k=parameters.HALTS):
            mine = WRITERS[name].allowed
            meeting = [one for one in cases.CASES if WRITERS[one].allowed & mine]
            await theatre.reset("rich", shuffle=draw.randrange(10**6))
            facts = await look(theatre)
            for daemon in company.everybody:
                daemon.pictures.clear()
            works = [
                cases.main_shape(one, facts, company.everybody[i], i)
                for i, one in enumerate((name, draw.choice(meeting)))
            ]
            blocked = stage.blocked
            async with halted_at(controller, visit):
                for i, work in enumerate(works):
                    daemon = company.everybody[i]
                    actor = stage.start(
                        f"{'AB'[i]} {work}", daemon.store, work.call, stepped=work.stepped, opening=random_plans(draw)
                    )
                    await stage.settle()
                    await stage.run_on(actor)
                    if i == 0:
                        halted += actor.waits
                        figures.count(**{"halts between two rows": actor.waits})
                        stage.story.append(f"halted at {visit.table} {visit.key}")
            await stage.settle()
            await stage.finish()
            await check(theatre)
            met += stage.blocked - blocked > 1
            figures.count(transactions=2, **{"of them with somebody blocked": stage.blocked - blocked > 1})

    await with_connections(theatre, main)
    assert halted > 0.9 * parameters.HALTS, f"{halted} of {parameters.HALTS} were halted"
    assert met > 0.1 * parameters.HALTS, f"in {met} of {parameters.HALTS} halts the other writer had to wait"


@pytest.mark.stress
def test_inserts_arrive_in_the_order_of_their_unique_key(server: Server) -> None:
    play(server, inserts_in_order, stores=2)


@pytest.mark.stress
def test_bulk_writes_are_halted_between_two_rows(server: Server) -> None:
    play(server, halts, stores=2)


async def fuzzed_pairs(theatre: Theatre) -> None:
    """Pairs again, each writer with plans of its own, the rows somewhere else each time."""
    await arrange(theatre, "rich", "wide")
    draw = random.Random(parameters.SEED)
    company = Company(theatre, "pairs under random plans", fuzz=draw)
    for _ in range(parameters.VARIANT_PAIRS):
        pair = [(draw.choice(cases.names()), 0) for _ in range(2)]
        schedule = [draw.randrange(2) for _ in range(16)]
        await company.play(draw.choice(["rich", "wide"]), pair, tuple(schedule))
    company.check_they_met(0.02)
    part(company.name).say(seed=parameters.SEED, **{"distinct courses": len(company.stories)})


@pytest.mark.stress
def test_pairs_under_random_plans(server: Server) -> None:
    play(server, fuzzed_pairs, stores=2)
