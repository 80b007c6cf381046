"""Each writer alone, statement by statement: what it declares is what PostgreSQL has locked, and keys rise.

An inversion shows here without any concurrency, so the first scene is part of every run of the tests.
"""

from collections.abc import Sequence

import pytest
from attrs import evolve

from scheduler.commands.errors import CommandError
from scheduler.routines.load_dags import DuplicateDag
from tests.database import Server
from tests.interleavings import cases
from tests.interleavings.lockdep import CycleFound
from tests.interleavings.observe import Observer, Undeclared
from tests.interleavings.promises import check
from tests.interleavings.report import part
from tests.interleavings.scenes import SCENES, arrange, daemons, look
from tests.interleavings.theatre import Theatre, play


def test_every_writer_has_a_case() -> None:
    missing = sorted(set(cases.production_writers()) - cases.CASES.keys())
    assert not missing, f"no case in tests/interleavings/cases.py, so their locks are not tested: {missing}"


def test_no_case_is_left_of_a_writer_that_is_gone() -> None:
    assert not sorted(cases.CASES.keys() - set(cases.production_writers()))


async def observe_all(theatre: Theatre, scenes: Sequence[str]) -> None:
    """Run every shape of every writer alone in each scene."""
    figures = part("locks really held")
    await arrange(theatre, *scenes)
    worked: dict[str, bool] = {}
    for scene in scenes:
        daemon = daemons(theatre)[0]
        await theatre.reset(scene)
        facts = await look(theatre)
        shapes = [(name, n) for name in cases.names() for n in range(len(cases.shapes_of(name, facts, daemon)))]
        for name, n in shapes:
            await theatre.reset(scene)
            daemon.pictures.clear()
            work = cases.shapes_of(name, await look(theatre), daemon)[n]
            observer = Observer(theatre.monitor)
            try:
                await work.call(evolve(theatre.store, stepper=observer))
            except (CommandError, DuplicateDag):
                pass
            except (Undeclared, CycleFound) as error:
                raise type(error)(f"{work} in the scene {scene!r}\n{error}") from None
            await check(theatre)
            worked[name] = worked.get(name, False) or observer.locks > 0 or not work.stepped
            figures.count(
                transactions=1, statements=observer.statements, row_locks=observer.locks, foreign_keys=observer.fk_locks
            )
    idle = sorted(name for name, did in worked.items() if not did)
    assert not idle, f"these cases find nothing to lock in any scene: {idle}"


def test_declared_is_what_is_locked_in_a_rich_scene(server: Server) -> None:
    play(server, lambda theatre: observe_all(theatre, ["rich"]))


@pytest.mark.stress
def test_declared_is_what_is_locked_in_every_scene(server: Server) -> None:
    play(server, lambda theatre: observe_all(theatre, list(SCENES)))
