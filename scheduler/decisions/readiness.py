"""What a change in a run means for the rest of it: which tasks become ready, skipped or failed, and the run's end.

A `Picture` is the run as its scheduler sees it: a state for each task, and for each task a tally of how its
direct upstream ended. Both are kept up to date change by change, so that judging costs what changed and not what
the run is made of. `plan` is pure: it works on a copy and returns it with the changes.
"""

import heapq
from collections.abc import Iterable, Mapping
from datetime import datetime

from attrs import define, field, frozen

from scheduler.decisions.graph import Graph
from scheduler.decisions.rules import Ruling, Tally, rule_on
from scheduler.model import CANDIDATES, FINISHED, RunState, TaskKind, TaskState, Verdict

Decision = dict[str, list[str]]

_COLUMN = {
    TaskState.SUCCESS: 0,
    TaskState.FAILED: 1,
    TaskState.UPSTREAM_FAILED: 2,
    TaskState.SKIPPED: 3,
    TaskState.REMOVED: 4,
}
_WIDTH = len(_COLUMN)
_SKIPPABLE = CANDIDATES | {TaskState.SCHEDULED}


@frozen(kw_only=True)
class Seen:
    """A task instance as read from the database."""

    index: int
    state: TaskState
    key: int = 0
    """Its primary key, which never changes; 0 if it was not read."""
    retry_at: datetime | None = None
    decision: Decision | None = None


@define(eq=False)
class Picture:
    """One run's states; see the module. Make one with `Picture.of`."""

    graph: Graph
    states: list[TaskState]
    tallies: list[int]
    unfinished: int
    retry_at: dict[int, datetime] = field(factory=dict)
    keys: dict[int, int] = field(factory=dict)
    """Primary keys by position, as far as they were read; shared by all copies, since they never change."""
    excluded: set[int] = field(factory=set)
    """Tasks that a finished branch or short circuit directly above them has ruled out."""

    @classmethod
    def of(cls, graph: Graph, seen: Iterable[Seen] = ()) -> "Picture":
        """All tasks `none`, then what was seen."""
        size = len(graph.tasks)
        picture = cls(graph, [TaskState.NONE] * size, [0] * (_WIDTH * size), size)
        for one in sorted(seen, key=lambda one: one.index):
            picture.note(one)
        return picture

    def copy(self) -> "Picture":
        return Picture(
            self.graph,
            self.states.copy(),
            self.tallies.copy(),
            self.unfinished,
            self.retry_at.copy(),
            self.keys,
            self.excluded.copy(),
        )

    def note(self, seen: Seen) -> None:
        """Take over what the database says about one task."""
        self.set(seen.index, seen.state)
        if seen.key:
            self.keys[seen.index] = seen.key
        if seen.retry_at is not None and seen.state is TaskState.UP_FOR_RETRY:
            self.retry_at[seen.index] = seen.retry_at
        if seen.decision is not None and seen.state is TaskState.SUCCESS:
            self.excluded |= self.graph.excluded_by(seen.index, seen.decision)

    def set(self, i: int, state: TaskState) -> None:
        before = self.states[i]
        if before is state:
            return
        self.states[i] = state
        self._count(i, before, -1)
        self._count(i, state, +1)
        if state is not TaskState.UP_FOR_RETRY:
            self.retry_at.pop(i, None)

    def _count(self, i: int, state: TaskState, by: int) -> None:
        column = _COLUMN.get(state)
        if column is None:
            return
        self.unfinished -= by
        tallies = self.tallies
        for below in self.graph.downstream[i]:
            tallies[below * _WIDTH + column] += by

    def tally(self, i: int) -> Tally:
        at = i * _WIDTH
        return Tally(len(self.graph.upstream[i]), *self.tallies[at : at + _WIDTH])

    @property
    def leaves_failed(self) -> bool:
        bad = (TaskState.FAILED, TaskState.UPSTREAM_FAILED)
        return any(self.states[i] in bad for i in self.graph.leaves)


@frozen(kw_only=True)
class Plan:
    """What to write: new states by task position, the run's end if it has come, and the picture after it all."""

    changes: Mapping[int, TaskState]
    run_state: RunState | None
    reason: str
    """Why the run ends, when that is not told by its tasks: "stuck", or the verdict."""
    picture: Picture


def plan(
    picture: Picture,
    changed: Iterable[Seen] | None,
    *,
    now: datetime,
    may_start: bool = True,
    verdict: str | None = None,
) -> Plan:
    """Judge what follows from `changed` (None: judge everything).

    `may_start` is false while the dag is paused: outcomes are taken in, nothing new begins.
    With a `verdict` nothing begins either: whatever has no attempt yet is skipped, and the run ends as the verdict
    says when the last attempt has ended.
    """
    after = picture.copy()
    changes: dict[int, TaskState] = {}
    if changed is None:
        ahead = set(range(len(after.states)))
    else:
        seen = list(changed)
        for one in seen:
            after.note(one)
        ahead = {i for one in seen for i in _concerned(after, one)}
    if verdict is not None:
        ahead = set(range(len(after.states)))
        _skip_the_rest(after, changes)
    elif may_start:
        _judge(after, ahead, changes, now)
        if _looks_stuck(after, changes):
            _judge(after, set(range(len(after.states))), changes, now)
    run_state, reason = _end(after, changes, may_start=may_start, verdict=verdict)
    return Plan(changes=changes, run_state=run_state, reason=reason, picture=after)


def _concerned(picture: Picture, seen: Seen) -> Iterable[int]:
    if seen.state in FINISHED:
        yield from picture.graph.downstream[seen.index]
        if seen.decision is not None:
            yield from picture.graph.excluded_by(seen.index, seen.decision)
    else:
        yield seen.index


def _judge(picture: Picture, ahead: set[int], changes: dict[int, TaskState], now: datetime) -> None:
    """Work through `ahead` in topological order; what a change concerns is always still to come."""
    heap = list(ahead)
    heapq.heapify(heap)
    queued = set(heap)
    while heap:
        i = heapq.heappop(heap)
        queued.discard(i)
        state = _judged(picture, i, now)
        if state is None:
            continue
        picture.set(i, state)
        changes[i] = state
        if state in FINISHED:
            for below in picture.graph.downstream[i]:
                if below not in queued:
                    queued.add(below)
                    heapq.heappush(heap, below)


def _judged(picture: Picture, i: int, now: datetime) -> TaskState | None:
    """The new state of one task, or None to leave it. Branches first, then the trigger rule."""
    state = picture.states[i]
    if i in picture.excluded and state in _SKIPPABLE:
        return TaskState.SKIPPED
    if state not in CANDIDATES:
        return None
    if picture.retry_at.get(i, now) > now:
        return None
    task = picture.graph.tasks[i]
    ruling = rule_on(task.trigger_rule, picture.tally(i))
    if ruling is Ruling.WAIT:
        return None
    if ruling is Ruling.READY:
        return TaskState.SUCCESS if task.kind is TaskKind.EMPTY else TaskState.SCHEDULED
    return ruling.value  # type: ignore[no-any-return]


def _skip_the_rest(picture: Picture, changes: dict[int, TaskState]) -> None:
    for i, state in enumerate(picture.states):
        if state in _SKIPPABLE:
            picture.set(i, TaskState.SKIPPED)
            changes[i] = TaskState.SKIPPED


def _looks_stuck(picture: Picture, changes: dict[int, TaskState]) -> bool:
    """Nothing has an attempt, waits for one or for its retry: only `none` is left, and something is."""
    if picture.unfinished == 0 or changes:
        return False
    return all(state in FINISHED or state is TaskState.NONE for state in picture.states)


def _end(
    picture: Picture, changes: dict[int, TaskState], *, may_start: bool, verdict: str | None
) -> tuple[RunState | None, str]:
    if picture.unfinished == 0:
        if verdict is not None:
            return Verdict(verdict).end, verdict
        return (RunState.FAILED if picture.leaves_failed else RunState.SUCCESS), ""
    if verdict is None and may_start and _looks_stuck(picture, changes):
        return RunState.FAILED, "stuck"
    return None, ""
