"""S11: what is recommended against deadlocks and does not hold, each found by what finds a fault of ours."""

from collections.abc import Iterator

import pytest

from tests.database import Server
from tests.stress.known_bad import CASES, RESET, SHUFFLED, TABLES
from tests.stress.report import tell
from tests.stress.stage import Stage, open_stage

pytestmark = pytest.mark.stress

BY_NAME = {case.name: case for case in CASES}
FIXES = {
    "sort the IN list": "sorted IN list",
    "sort UPDATE .. FROM (VALUES ..)": "sorted VALUES join",
    "sort, then group the batch": "sorted, then grouped",
    "ORDER BY on the query that does not lock": "ORDER BY in a sub-select that does not lock",
    "the same text and plan on both sides": "a sweep against itself, the heap moved",
    "sort each statement of a transaction": "two sorted statements in one transaction",
    "lock row by row": "a loop of single-row locks",
    "an advisory lock around one of the writers": "advisory lock around one of the writers",
    "SKIP LOCKED on one side": "SKIP LOCKED on one side only",
    "SKIP LOCKED where skipping loses work": "SKIP LOCKED where skipping loses work",
    "SKIP LOCKED removed from a claim that relies on it": "SKIP LOCKED removed from a claim that relies on it",
    "a self-join by ctid": "ctid join",
    "always lock through our function": "a caller outside the function that locks",
}
"""The fix -> the known-bad writer that has it. The two that are no writers, a retry and a test that does not overlap,
are tests of their own below."""


@pytest.fixture(scope="module")
def stage(server: Server) -> Iterator[Stage]:
    with open_stage(server, TABLES) as stage:
        yield stage


@pytest.mark.parametrize("fix", FIXES)
def test_s11_the_fix_is_among_the_known_bad_writers(fix: str) -> None:
    """That each is found, and its cure is not, is shown by test_known_bad.py, in the same run."""
    assert FIXES[fix] in BY_NAME


def test_s11_a_retry_meets_the_same_deadlock_again(stage: Stage) -> None:
    """Who comes every second comes in the same order every second: all a retry does is to deadlock once more."""
    case, again = BY_NAME["task instance before run"], 5
    for _ in range(again):
        moves = iter((0, 1, 0, 1))  # one lock each, then the other's
        played = stage.play(case.bad, lambda movable, m=moves: next(m, movable[0]), reset=RESET, patient=False)
        assert played.errors == ("40P01",), played
    tell("fixes that do not hold", f"retry on deadlock: {again} tries, {again} times 40P01")


def test_s11_writers_that_do_not_overlap_show_nothing(stage: Stage) -> None:
    """Each known-bad writer, one after the other, as under a `gather` whose tasks share a connection: all is well.

    So tests of ours count how often somebody had to wait, and fail if it is too seldom
    (`Company.check_they_met`, `FLOORS` in test_full_stack.py).
    """
    for case in CASES:
        if case.by_row:
            stage.sql("ALTER TABLE ti ENABLE TRIGGER gate;")
        played = stage.play(
            case.bad,
            lambda movable: movable[0],
            reset=(SHUFFLED if case.by_row else RESET) + case.setup,
            plans=[case.plans[0]] * len(case.bad) if case.plans else [],
            by_row=case.by_row,
            invariant=case.invariant,
        )
        if case.by_row:
            stage.sql("ALTER TABLE ti DISABLE TRIGGER gate;")
        assert not played.is_bad, f"{case.name}: {played}"
    tell("fixes that do not hold", f"a test without overlap: {len(CASES)} known-bad writers, none of them found")
