"""What clearing and marking mean for one run: which of its tasks a selection reaches, and what becomes of each.

Clearing takes a task back to `none`, with as many tries as its retries allow counted from here on. Marking gives it a
state that nothing has earned, and clears what failed below it. A task that has a running attempt keeps its slot until
the attempt is proved to have ended: cleared, it is `restarting`; marked, it stays what it is, with the wanted state
`imposed`. So nothing below it ever overlaps with it.
"""

from collections.abc import Mapping

from attrs import field, frozen

from scheduler.decisions.graph import Graph
from scheduler.decisions.readiness import Picture, Seen
from scheduler.model import FINISHED, MARKS, RunState, TaskState

FAILURES = frozenset({TaskState.FAILED, TaskState.UPSTREAM_FAILED})
WITH_ATTEMPT = frozenset({TaskState.RUNNING, TaskState.RESTARTING})
"""A process may be executing user code: whatever is wanted of these waits for its end."""


@frozen(kw_only=True)
class Selection:
    """Which tasks of a run are meant."""

    tasks: frozenset[str] | None = None
    """Task ids; None: all."""
    upstream: bool = False
    """Also everything above them."""
    downstream: bool = False
    """Also everything below them."""
    only: frozenset[TaskState] | None = None
    """Of all these only tasks in one of these states."""


@frozen(kw_only=True)
class Decided:
    """What is to be written about one run."""

    changes: Mapping[int, TaskState] = field(factory=dict)
    """New states by task position."""
    imposed: Mapping[int, TaskState] = field(factory=dict)
    """By task position: the state that comes when the task's running attempt is proved to have ended."""
    run_state: RunState | None = None
    """The run's new state; None: it keeps the one it has."""
    refused: str = ""
    """Why nothing may be changed in this run now; empty if it may."""


def reach(graph: Graph, selection: Selection) -> frozenset[int]:
    """Positions of the tasks that `selection` names, whatever their states. A task the graph lacks is left out."""
    if selection.tasks is None:
        return frozenset(range(len(graph.tasks)))
    named = {graph.index[name] for name in selection.tasks if name in graph.index}
    reached = set(named)
    if selection.upstream:
        reached |= graph.all_above(named)
    if selection.downstream:
        reached |= graph.all_below(named)
    return frozenset(reached)


@frozen(kw_only=True)
class Wish:
    """What a person wants of the tasks they selected."""

    selection: Selection
    mark: TaskState | None = None
    """Success, failed or skipped; None: clear them."""

    def touches(self, graph: Graph) -> frozenset[int]:
        """Positions of the tasks whose rows may be written, whatever their states: to be locked."""
        reached = reach(graph, self.selection)
        return reached if self.mark is None else reached | graph.all_below(reached)

    def decide(self, graph: Graph, *, run: RunState, verdict: str | None, states: Mapping[int, TaskState]) -> Decided:
        """What is to be written. `states` has all instances of the run, by task position."""
        if verdict is not None and not _is_over(run):
            return Decided(refused=f"it is being ended: {verdict}")
        reached, only = reach(graph, self.selection), self.selection.only
        meant = {i for i, state in states.items() if i in reached and (only is None or state in only)}
        if self.mark is None:
            changes = _cleared(meant, states)
            return Decided(changes=changes, run_state=RunState.QUEUED if changes and _is_over(run) else None)
        return _marked(graph, meant, self.mark, run=run, verdict=verdict, states=states)


def _marked(
    graph: Graph,
    meant: set[int],
    to: TaskState,
    *,
    run: RunState,
    verdict: str | None,
    states: Mapping[int, TaskState],
) -> Decided:
    """The tasks themselves, and then the failures below them are cleared.

    A run that is over starts again if there is anything left to do in it; otherwise only its end is judged anew.
    """
    assert to in MARKS, to
    imposed = {i: to for i in sorted(meant) if states[i] in WITH_ATTEMPT}
    changes = {i: to for i in sorted(meant) if states[i] not in (to, TaskState.REMOVED) and i not in imposed}
    if not changes and not imposed:
        return Decided()
    below = {i for i in graph.all_below(meant) - meant if states.get(i) in FAILURES}
    changes |= _cleared(below, states)
    return Decided(
        changes=changes, imposed=imposed, run_state=_end_after(graph, {**states, **changes}, run=run, verdict=verdict)
    )


def after_stop(imposed: str | None) -> TaskState:
    """What a task becomes whose attempt, unwanted since it was cleared or marked, has ended."""
    return TaskState.NONE if imposed is None else TaskState(imposed)


def _is_over(run: RunState) -> bool:
    return run in (RunState.SUCCESS, RunState.FAILED)


def _cleared(meant: set[int], states: Mapping[int, TaskState]) -> dict[int, TaskState]:
    """`none` stays as it is, for nothing would change; so does what its dag no longer has."""
    return {
        i: TaskState.RESTARTING if states[i] in WITH_ATTEMPT else TaskState.NONE
        for i in sorted(meant)
        if states[i] not in (TaskState.NONE, TaskState.REMOVED)
    }


def _end_after(graph: Graph, states: Mapping[int, TaskState], *, run: RunState, verdict: str | None) -> RunState | None:
    if not _is_over(run):
        return None
    if any(state not in FINISHED for state in states.values()):
        return RunState.QUEUED
    if verdict is not None:
        return None  # its tasks did not decide how it ended
    picture = Picture.of(graph, [Seen(index=i, state=state) for i, state in states.items()])
    end = RunState.FAILED if picture.leaves_failed else RunState.SUCCESS
    return None if end is run else end
