"""From a dag as written to a dag as data: edges resolved, tasks in order, weights added up."""

import heapq
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from scheduler import model
from scheduler.authoring import checks
from scheduler.authoring.errors import DagError
from scheduler.authoring.groups import TaskGroup

if TYPE_CHECKING:
    from scheduler.authoring.arrows import End
    from scheduler.authoring.dags import DAG
    from scheduler.authoring.nodes import TaskNode

_HEAVIEST = 2**31 - 1
_NOT_NESTED = 1_000_000


def to_model(dag: "DAG") -> model.Dag:
    """Raises DagError, with a line."""
    nodes = dag.nodes
    index = {node.task_id: i for i, node in enumerate(nodes)}
    inputs = [sorted({source.task_id for source in node.inputs()}) for node in nodes]
    upstream = [{index[source] for source in sources} for sources in inputs]
    _draw_arrows(dag, index, upstream)
    order = _order(dag, nodes, upstream)
    weights = _weights(nodes, upstream, order)
    return model.Dag(
        dag_id=dag.dag_id,
        schedule=dag.schedule,
        tasks=tuple(_task(nodes, i, upstream[i], inputs[i], weights[i]) for i in order),
        start_date=dag.start_date,
        end_date=dag.end_date,
        catchup=dag.catchup,
        max_active_runs=dag.max_active_runs,
        max_active_tasks=dag.max_active_tasks,
        dagrun_timeout=dag.dagrun_timeout,
        params=_json_params(dag),
        tags=dag.tags,
        description=dag.description,
        paused_upon_creation=dag.is_paused_upon_creation,
        isolation=dag.isolation,
        line=dag.place.line,
    )


def _task(nodes: "tuple[TaskNode, ...]", i: int, upstream: set[int], inputs: list[str], weight: int) -> model.Task:
    node = nodes[i]
    settings = node.settings
    return model.Task(
        task_id=node.task_id,
        kind=node.kind,
        upstream=tuple(sorted(nodes[j].task_id for j in upstream)),
        inputs=tuple(inputs),
        trigger_rule=settings.trigger_rule,
        retry=settings.retry,
        execution_timeout=settings.execution_timeout,
        pool=settings.pool,
        pool_slots=settings.pool_slots,
        priority_weight=weight,
        ignore_downstream_trigger_rules=settings.ignore_downstream_trigger_rules,
        rerun_when_lost=settings.rerun_when_lost,
        group=None if node.group is None else node.group.group_id,
        doc=settings.doc,
        is_async=node.is_async,
        isolation=settings.isolation,
    )


def _draw_arrows(dag: "DAG", index: dict[str, int], upstream: list[set[int]]) -> None:
    """Turn arrows into edges between tasks.

    Which tasks of a group come first or last depends on the arrows inside it, so those are drawn before: arrows in
    the order of their outermost group, deepest first, and those between tasks before all.
    """

    def depth(arrow: "tuple[End, End, int | None]") -> int:
        return min(end.depth if isinstance(end, TaskGroup) else _NOT_NESTED for end in arrow[:2])

    for before, after, line in sorted(dag.arrows, key=depth, reverse=True):
        for outer, inner in ((before, after), (after, before)):
            within = inner if isinstance(inner, TaskGroup) else inner.group
            if isinstance(outer, TaskGroup) and within is not None and within.is_within(outer):
                raise DagError(f"dag {dag.dag_id!r}: an arrow joins {outer!r} and {inner!r}, which is inside it", line)
        firsts = [index[node.task_id] for node in _edge_of(dag, after, index, upstream, first=True)]
        lasts = {index[node.task_id] for node in _edge_of(dag, before, index, upstream, first=False)}
        for i in firsts:
            upstream[i] |= lasts


def _edge_of(
    dag: "DAG", end: "End", index: dict[str, int], upstream: list[set[int]], *, first: bool
) -> "Iterator[TaskNode]":
    """The tasks of a group that no other task of it comes before (`first`) or after; a task itself."""
    if not isinstance(end, TaskGroup):
        yield end
        return
    members = {index[n.task_id]: n for n in dag.nodes if n.group is not None and n.group.is_within(end)}
    followed = set() if first else {j for i in members for j in upstream[i]}
    for i, node in members.items():
        if i not in followed and not (first and members.keys() & upstream[i]):
            yield node


def _order(dag: "DAG", nodes: "tuple[TaskNode, ...]", upstream: list[set[int]]) -> list[int]:
    """Positions so that each stands after its upstream; as they were made, where there is a choice."""
    below: list[list[int]] = [[] for _ in nodes]
    missing = [len(above) for above in upstream]
    for i, above in enumerate(upstream):
        for j in above:
            below[j].append(i)
    ready = [i for i, count in enumerate(missing) if count == 0]
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for j in below[i]:
            missing[j] -= 1
            if missing[j] == 0:
                heapq.heappush(ready, j)
    if len(order) < len(nodes):
        circle = _circle(upstream, next(i for i, count in enumerate(missing) if count), missing)
        names = [nodes[i].task_id for i in circle]
        raise DagError(
            f"dag {dag.dag_id!r}: its tasks wait for each other in a circle: {_shorten(names)}; "
            "remove one of these arrows",
            _line_of(dag, nodes, circle),
        )
    return order


def _circle(upstream: list[set[int]], start: int, missing: list[int]) -> list[int]:
    """Positions round a circle, in the order of running, the first again at the end."""
    path = [start]
    seen = {start: 0}
    while True:
        i = min(j for j in upstream[path[-1]] if missing[j])  # every task left waits for another one that is left
        if i in seen:
            return [i, *reversed(path[seen[i] :])]
        seen[i] = len(path)
        path.append(i)


def _line_of(dag: "DAG", nodes: "tuple[TaskNode, ...]", circle: list[int]) -> int | None:
    """The line that closed the circle: the last arrow or call among its edges."""
    edges = {(nodes[i].task_id, nodes[j].task_id) for i, j in pairwise(circle)}
    drawn = [
        line
        for before, after, line in dag.arrows
        if line is not None
        and not isinstance(before, TaskGroup)
        and not isinstance(after, TaskGroup)
        and (before.task_id, after.task_id) in edges
    ]
    grouped = [line for before, after, line in dag.arrows if line is not None]
    made = [line for i in circle if (line := nodes[i].line) is not None]
    return max(drawn or grouped or made, default=dag.place.line)


def _shorten(names: list[str]) -> str:
    shown = names if len(names) <= 12 else [*names[:10], f"... ({len(names) - 11} more) ...", names[-1]]
    return " >> ".join(shown)


def _weights(nodes: "tuple[TaskNode, ...]", upstream: list[set[int]], order: list[int]) -> list[int]:
    """Effective weights: its own, plus those of all descendants or ancestors as the weight rule says, in 32 bits."""
    count = len(nodes)
    needed = {node.settings.weight_rule for node in nodes}
    above = _closure(order, upstream, count) if "upstream" in needed else []
    below: list[int] = []
    if "downstream" in needed:
        downstream: list[set[int]] = [set() for _ in nodes]
        for i, sources in enumerate(upstream):
            for j in sources:
                downstream[j].add(i)
        below = _closure(order[::-1], downstream, count)
    # Sets of tasks are bits of one int each: a dag of 10,000 tasks has up to 50 million pairs.
    bits: dict[int, int] = {}
    for i, node in enumerate(nodes):
        bits[node.settings.priority_weight] = bits.get(node.settings.priority_weight, 0) | 1 << i
    found = []
    for i, node in enumerate(nodes):
        related = {"downstream": below, "upstream": above}.get(node.settings.weight_rule)
        total = node.settings.priority_weight
        if related:
            total += sum(weight * (related[i] & mask).bit_count() for weight, mask in bits.items())
        found.append(max(-_HEAVIEST - 1, min(_HEAVIEST, total)))
    return found


def _closure(order: list[int], direct: list[set[int]], count: int) -> list[int]:
    """For each position, everything reachable by `direct`, as bits; `order` has what is direct first."""
    reach = [0] * count
    for i in order:
        for j in direct[i]:
            reach[i] |= reach[j] | 1 << j
    return reach


def _json_params(dag: "DAG") -> dict[str, Any]:
    for name, value in dag.params.items():
        checks.text(name, f"dag {dag.dag_id!r}: the name of a param")
        try:
            checks.text(json.dumps(value, allow_nan=False, ensure_ascii=False), f"param {name!r}")
        except (TypeError, ValueError, RecursionError, DagError) as error:
            raise DagError(
                f"dag {dag.dag_id!r}: param {name!r} is not JSON ({checks.describe(str(error))}): "
                "use str, int, float, bool, None, lists and dicts with str keys",
                dag.place.line,
            ) from None
    # Through JSON once, so that loading gives the same value as reading the stored document: tuples become lists.
    return {name: json.loads(json.dumps(value)) for name, value in dag.params.items()}
