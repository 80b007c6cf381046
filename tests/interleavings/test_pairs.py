"""All pairs of writers, a writer with itself included, at the boundaries of statements on real PostgreSQL.

Few interleavings: all are tried. Many: every "one is stopped after its k-th statement, the other runs until it is done
or blocked, then the first goes on", for each k and both ways. Triples, and pairs in other shapes of work, are sampled.
"""

import random
from collections.abc import Sequence
from itertools import combinations_with_replacement

import pytest

from tests.database import Server
from tests.interleavings import cases, parameters
from tests.interleavings.company import Company, Part
from tests.interleavings.report import part
from tests.interleavings.scenes import arrange, look
from tests.interleavings.schedules import interleavings, schedules
from tests.interleavings.theatre import Theatre, play

SCENES = ("rich", "calm")
MET = 0.02
"""Share of the plays in which somebody has to wait, at least; it is a sixth of all pairs, a thirteenth of the drawn."""
CALM = {"advance_runs"}
"""Writers whose real work is in the calm scene."""


def scenes_of(*parts: Part) -> list[str]:
    """Where a pair is tried."""
    return ["rich", "calm"] if any(name in CALM for name, _ in parts) else ["rich"]


async def all_pairs(theatre: Theatre, names: Sequence[str], *, figures: str) -> None:
    """Each two of these writers, in their main shape."""
    company = Company(theatre, figures)
    await arrange(theatre, *SCENES)
    turns = {(scene, name): await company.turns(scene, (name, 0)) for scene in SCENES for name in names}
    in_all = covered = 0
    for a, b in combinations_with_replacement(names, 2):
        for scene in scenes_of((a, 0), (b, 0)):
            each = turns[scene, a], turns[scene, b]
            todo = schedules(*each, at_most=parameters.EVERY_INTERLEAVING)
            for i, schedule in enumerate(todo):
                await company.play(scene, [(a, 0), (b, 0)], schedule, to_the_end=i == len(todo) // 2)
            in_all += len(todo) == interleavings(*each)
            covered += 1
    company.check_they_met(MET)
    pairs = len(names) * (len(names) + 1) // 2
    part(figures).count(pairs=pairs, **{"of them in all interleavings": in_all})
    part(figures).say(writers=len(names), **{"distinct courses": f"{len(company.stories):,}"})


@pytest.mark.stress
@pytest.mark.takes(200)
def test_all_pairs_of_writers(server: Server) -> None:
    play(server, lambda theatre: all_pairs(theatre, cases.names(), figures="pairs"), stores=2)


def test_a_few_pairs(server: Server) -> None:
    """Those who meet all the time, in every run of the tests."""
    names = ["advance_runs", "end_attempts", "judge_runs"]
    play(server, lambda theatre: all_pairs(theatre, names, figures="a few pairs"), stores=2)


async def sampled(theatre: Theatre) -> None:
    company = Company(theatre, "sampled")
    await arrange(theatre, *SCENES)
    draw = random.Random(parameters.SEED)
    facts = await look(theatre)
    parts = company.parts(facts)
    for size, many in ((2, parameters.VARIANT_PAIRS), (3, parameters.TRIPLES)):
        for _ in range(many):
            chosen = [draw.choice(parts) for _ in range(size)]
            # few changes of who has the turn, at any place: what it takes to find a fault of small depth
            schedule: list[int] = []
            for _ in range(draw.randint(1, 5)):
                schedule += [draw.randrange(size)] * draw.randint(1, 8)
            await company.play(draw.choice(SCENES), chosen, tuple(schedule))
            part("sampled").count(**{("pairs in other shapes", "triples")[size - 2]: 1})
    company.check_they_met(MET)
    part("sampled").say(seed=parameters.SEED, **{"distinct courses": f"{len(company.stories):,}"})


@pytest.mark.stress
@pytest.mark.takes(20)
def test_triples_and_pairs_in_other_shapes_of_work(server: Server) -> None:
    play(server, sampled, stores=2)
