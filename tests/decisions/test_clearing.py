"""Clearing and marking as decisions: what a selection reaches, what becomes of each state, when a run begins again."""

from collections.abc import Mapping

import pytest

from scheduler.decisions.clearing import FAILURES, WITH_ATTEMPT, Selection, Wish, after_stop, reach
from scheduler.decisions.graph import Graph
from scheduler.model import FINISHED, MARKS, RunState, TaskState
from scheduler.model.states import sources
from tests.world import chain, fan

S = TaskState
FAN = Graph.of(fan(2))  # first -> m0, m1 -> last


def names(graph: Graph, positions: frozenset[int] | Mapping[int, TaskState]) -> set[str]:
    return {graph.tasks[i].task_id for i in positions}


def some(*tasks: str, **options: object) -> Selection:
    return Selection(tasks=frozenset(tasks) if tasks else None, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("selection", "reached"),
    [
        (some(), {"first", "m0", "m1", "last"}),
        (some("m0"), {"m0"}),
        (some("m0", upstream=True), {"first", "m0"}),
        (some("m0", downstream=True), {"m0", "last"}),
        (some("m0", upstream=True, downstream=True), {"first", "m0", "last"}),
        (some("first", "last"), {"first", "last"}),
        (some("m0", "nobody"), {"m0"}),
    ],
)
def test_what_a_selection_reaches(selection: Selection, reached: set[str]) -> None:
    assert names(FAN, reach(FAN, selection)) == reached


@pytest.mark.parametrize("before", sorted(S))
def test_what_clearing_makes_of_each_state(before: TaskState) -> None:
    made = Wish(selection=some()).decide(Graph.of(chain(1)), run=RunState.RUNNING, verdict=None, states={0: before})
    if before in (S.NONE, S.REMOVED):
        assert made.changes == {}
        return
    (after,) = made.changes.values()
    assert after is (S.RESTARTING if before in WITH_ATTEMPT else S.NONE)
    assert before in sources("clear", after), "the store may write it"
    assert made.run_state is None


@pytest.mark.parametrize("mark", sorted(MARKS))
@pytest.mark.parametrize("before", sorted(S))
def test_what_marking_makes_of_each_state(before: TaskState, mark: TaskState) -> None:
    wish = Wish(selection=some(), mark=mark)
    made = wish.decide(Graph.of(chain(1)), run=RunState.RUNNING, verdict=None, states={0: before})
    if before in WITH_ATTEMPT:
        assert (made.changes, made.imposed) == ({}, {0: mark})
        assert before in sources("stop", mark)
    elif before in (mark, S.REMOVED):
        assert (made.changes, made.imposed) == ({}, {})
    else:
        assert (made.changes, made.imposed) == ({0: mark}, {})
        assert before in sources("mark", mark)


def test_what_an_unwanted_attempt_leaves_is_what_was_wanted() -> None:
    assert after_stop(None) is S.NONE
    assert {after_stop(str(mark)) for mark in MARKS} == set(MARKS)


def test_marking_clears_the_failures_below_and_nothing_else() -> None:
    states = {0: S.FAILED, 1: S.UPSTREAM_FAILED, 2: S.SUCCESS, 3: S.UPSTREAM_FAILED}
    wish = Wish(selection=some("first"), mark=S.SUCCESS)
    made = wish.decide(FAN, run=RunState.FAILED, verdict=None, states=states)
    assert made.changes == {0: S.SUCCESS, 1: S.NONE, 3: S.NONE}
    assert made.run_state is RunState.QUEUED
    assert made.changes.keys() <= wish.touches(FAN), "only what was locked is written"


@pytest.mark.parametrize("run", [RunState.SUCCESS, RunState.FAILED])
def test_a_run_that_is_over_begins_again_only_if_something_was_cleared(run: RunState) -> None:
    states = dict.fromkeys(range(4), S.SUCCESS)
    cleared = Wish(selection=some()).decide(FAN, run=run, verdict="cancelled", states=states)
    assert cleared.run_state is RunState.QUEUED
    nothing = Wish(selection=some(only=FAILURES)).decide(FAN, run=run, verdict=None, states=states)
    assert (nothing.changes, nothing.run_state) == ({}, None)


@pytest.mark.parametrize(
    ("mark", "run", "verdict", "end"),
    [
        (S.FAILED, RunState.SUCCESS, None, RunState.FAILED),
        (S.SKIPPED, RunState.SUCCESS, None, None),
        (S.SKIPPED, RunState.FAILED, None, RunState.SUCCESS),
        (S.FAILED, RunState.SUCCESS, "marked success", None),
    ],
)
def test_the_end_of_a_run_follows_its_leaves_unless_it_was_imposed(
    mark: TaskState, run: RunState, verdict: str | None, end: RunState | None
) -> None:
    states = dict.fromkeys(range(4), S.SUCCESS)
    made = Wish(selection=some("last"), mark=mark).decide(FAN, run=run, verdict=verdict, states=states)
    assert made.run_state is end


@pytest.mark.parametrize("mark", [None, S.SUCCESS])
def test_a_run_that_is_being_ended_is_left_alone(mark: TaskState | None) -> None:
    states = {0: S.RUNNING, 1: S.SKIPPED, 2: S.SKIPPED, 3: S.SKIPPED}
    made = Wish(selection=some(), mark=mark).decide(FAN, run=RunState.RUNNING, verdict="timeout", states=states)
    assert (made.changes, made.imposed, made.run_state) == ({}, {}, None)
    assert "timeout" in made.refused


def test_nothing_finished_is_left_with_a_wait() -> None:
    assert not FINISHED & WITH_ATTEMPT
