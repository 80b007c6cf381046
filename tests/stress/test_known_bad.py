"""Tests of the tests: every known-bad writer is found on real PostgreSQL within 500 examples, and its cure is not.

What is found as a cycle of waits is then played once more, move by move, with PostgreSQL's own detector switched
on: it must report 40P01.
"""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.database import Server
from tests.interleavings.report import part
from tests.stress.known_bad import CASES, RESET, SHUFFLED, TABLES, Case
from tests.stress.report import SEED, number, tell
from tests.stress.stage import Played, Script, Stage, open_stage

pytestmark = pytest.mark.stress

CHOICES = st.lists(st.integers(0, 5), min_size=16, max_size=16)
"""Who moves: drawn at once, taken modulo the number that can move. When they are used up: the first who can."""
WITHIN = 500
BATCHES = 5
"""Each with a seed of its own: Hypothesis varies what it has drawn before, and may stay far from the fault for long."""
CURED = number("CURED_EXAMPLES", 40)


@pytest.fixture(scope="module")
def stage(server: Server) -> Iterator[Stage]:
    with open_stage(server, TABLES) as stage:
        yield stage
        part("known-bad writers").count(plays=stage.plays, moves=stage.moves)


class FoundIt(Exception):
    """A play ended badly."""


def hunt(
    stage: Stage, case: Case, scripts: Sequence[Script], *, at_most: int, seeded: int = SEED
) -> tuple[int, Played | None, list[str]]:
    """Play drawn interleavings until one ends badly; return how many were played, and the shortest bad one."""
    if case.by_row:
        stage.sql("ALTER TABLE ti ENABLE TRIGGER gate;")
    bad: list[tuple[Played, list[str]]] = []
    played = 0

    @seed(seeded)
    @settings(
        max_examples=at_most,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(choices=CHOICES, drawn=st.tuples(*[st.sampled_from(case.plans or ("as it likes",))] * len(scripts)))
    def example(choices: Sequence[int], drawn: Sequence[str]) -> None:
        nonlocal played
        played += 0 if bad else 1
        plans = list(drawn) if case.plans else []
        left = iter(choices)
        end = stage.play(
            scripts,
            lambda movable: movable[next(left, 0) % len(movable)],
            reset=(SHUFFLED if case.by_row else RESET) + case.setup,
            plans=plans,
            by_row=case.by_row,
            invariant=case.invariant,
        )
        assert not set(end.errors) - {"23505", "23503"}, end
        if end.is_bad:
            bad.append((end, plans))
            raise FoundIt

    try:
        example()
    except FoundIt:
        end, plans = bad[-1]
        return played, end, plans
    finally:
        if case.by_row:
            stage.sql("ALTER TABLE ti DISABLE TRIGGER gate;")
    assert not bad, f"found, but not twice in the same way: {bad[0][0]}"
    return played, None, []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_known_bad_writer_is_found(stage: Stage, case: Case) -> None:
    examples, found, plans = 0, None, []
    for n in range(BATCHES):
        if found is None:
            played, found, plans = hunt(stage, case, case.bad, at_most=WITHIN // BATCHES, seeded=SEED + n)
            examples += played
    assert found is not None, f"{case.name}: not found in {examples} examples, though {case.because}"
    if found.cycle:
        moves = iter(found.moves)
        if case.by_row:
            stage.sql("ALTER TABLE ti ENABLE TRIGGER gate;")
        again = stage.play(
            case.bad,
            lambda movable: next(moves, movable[0]),
            reset=(SHUFFLED if case.by_row else RESET) + case.setup,
            plans=plans,
            by_row=case.by_row,
            patient=False,
        )
        if case.by_row:
            stage.sql("ALTER TABLE ti DISABLE TRIGGER gate;")
        assert "40P01" in again.errors, f"PostgreSQL saw no deadlock in {again}"
    how = "40P01" if found.cycle else found.broken
    tell("known-bad writers", f"{case.name}: found after {examples} examples, {len(found.moves)} moves ({how})")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_its_cure_is_not_found(stage: Stage, case: Case) -> None:
    examples, found, _ = hunt(stage, case, case.good, at_most=CURED)
    assert found is None, f"{case.name}, cured, after {examples} examples:\n{found}"


def test_every_kind_of_fault_is_there() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 12
