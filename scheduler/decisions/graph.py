"""The graph of one dag version as arrays, made once and shared by all of its runs."""

from collections.abc import Iterable, Sequence
from functools import cached_property

from attrs import define

from scheduler.model import Dag, Task, TaskKind


@define(eq=False)
class Graph:
    """A dag's tasks by position; positions are a topological order, so upstream is always smaller."""

    dag: Dag
    tasks: tuple[Task, ...]
    index: dict[str, int]
    upstream: tuple[tuple[int, ...], ...]
    downstream: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, dag: Dag) -> "Graph":
        """Raises AssertionError if the tasks are not in topological order: the loader promises it."""
        index = {task.task_id: i for i, task in enumerate(dag.tasks)}
        below: list[list[int]] = [[] for _ in dag.tasks]
        above: list[tuple[int, ...]] = []
        for i, task in enumerate(dag.tasks):
            direct = tuple(sorted(index[name] for name in task.upstream))
            assert all(j < i for j in direct), f"{dag.dag_id}: {task.task_id} stands before its upstream"
            above.append(direct)
            for j in direct:
                below[j].append(i)
        return cls(dag, dag.tasks, index, tuple(above), tuple(tuple(b) for b in below))

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        """Tasks without downstream: these decide how a run ends."""
        return tuple(i for i, below in enumerate(self.downstream) if not below)

    @cached_property
    def deciders(self) -> frozenset[int]:
        """Tasks whose result chooses what runs after them."""
        kinds = (TaskKind.BRANCH, TaskKind.SHORT_CIRCUIT)
        return frozenset(i for i, task in enumerate(self.tasks) if task.kind in kinds)

    def descendants(self, start: int) -> set[int]:
        """Everything below `start`, itself not included."""
        return _beyond(self.downstream, [start])

    def all_below(self, starts: Iterable[int]) -> set[int]:
        """Everything below any of `starts`; one of them only if it stands below another."""
        return _beyond(self.downstream, starts)

    def all_above(self, starts: Iterable[int]) -> set[int]:
        """Everything above any of `starts`; one of them only if it stands above another."""
        return _beyond(self.upstream, starts)

    def excluded_by(self, decider: int, decision: dict[str, list[str]]) -> set[int]:
        """The tasks that `decider` skips, given its stored decision.

        {"followed": ids}: direct downstreams that are neither chosen nor descend from a chosen task.
        {"skipped": []}: everything below, or only the direct downstreams, as the task is set.
        """
        if "skipped" in decision:
            if self.tasks[decider].ignore_downstream_trigger_rules:
                return self.descendants(decider)
            return set(self.downstream[decider])
        chosen = {self.index[name] for name in decision.get("followed", []) if name in self.index}
        followed = set(chosen)
        for i in chosen:
            followed |= self.descendants(i)
        return set(self.downstream[decider]) - followed


def _beyond(arrows: Sequence[Sequence[int]], starts: Iterable[int]) -> set[int]:
    seen: set[int] = set()
    ahead = [i for start in starts for i in arrows[start]]
    while ahead:
        i = ahead.pop()
        if i not in seen:
            seen.add(i)
            ahead.extend(arrows[i])
    return seen
