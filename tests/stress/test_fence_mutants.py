"""Fences dropped: statements that write about attempts and instances, run without one of their conditions.

The mutant is sent in place of the original to everybody. Checks of the product must fail then.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest
import sqlalchemy as sa
import trio
from attrs import evolve

from scheduler.store import attempts, clearing, statements, tasks
from scheduler.store.statements import compiled
from tests.database import Server
from tests.stress.fences import Scene, fences_hold
from tests.stress.kills import compact, hear
from tests.stress.report import tell
from tests.stress.statements import conjuncts
from tests.world import open_world

pytestmark = pytest.mark.stress

MODULES: tuple[ModuleType, ...] = (attempts, clearing, tasks)


def fences() -> Iterator[tuple[str, sa.TextClause, str]]:
    """(name of the mutant, statement, text without the fence): each condition on a token or a state in what writes."""
    for module in MODULES:
        for name, statement in vars(module).items():
            if isinstance(statement, sa.TextClause) and any(verb in statement.text for verb in ("UPDATE ", "DELETE ")):
                for which, mutant in conjuncts(compiled(statement).text):
                    if "token" in which or "state" in which or "imposed" in which:
                        yield f"{module.__name__.rsplit('.')[-1]}.{name} without {which}", statement, mutant


@contextmanager
def sent(text: str, statement: sa.TextClause) -> Iterator[None]:
    """This text in place of the statement's own, by everybody."""
    original = compiled(statement)
    statements._known[statement] = evolve(original, text=text)
    try:
        yield
    finally:
        statements._known[statement] = original


async def test_the_fences_hold(dsn: str) -> None:
    async with open_world(dsn) as world:
        await fences_hold(await Scene.make(world))


@pytest.mark.filterwarnings("ignore")  # what a mutant leaves behind is its own business
@pytest.mark.takes(10)
def test_dropping_a_fence_is_noticed(server: Server) -> None:
    survivors: list[str] = []
    killed = 0

    async def judge(dsn: str) -> None:
        nonlocal killed
        async with open_world(dsn) as world:
            scene = await Scene.make(world)
            for name, statement, mutant in fences():
                with sent(mutant, statement):
                    told = await hear(fences_hold, scene)
                if told is not None and told.is_kill:
                    killed += 1
                    tell("mutants", f"fence dropped: {compact(name, 100)}: {told}")
                else:
                    survivors.append(f"{name}: {told or 'nobody notices'}")
            await fences_hold(scene)

    with server.database() as dsn:
        trio.run(judge, dsn)
    tell("mutants", f"fences dropped: {killed} killed, {len(survivors)} survive")
    assert killed > 0
    assert not survivors, "\n".join(survivors)
