"""Clear or mark tasks in the runs of one batch, as a person wants; or only say what that would change.

Locks: the runs' rows, then the rows of all instances that could be written, whatever their states, both by key. Then
everything is read, decided by pure code and written. Runs that go on are judged by schedule_tasks, runs that begin
again are started by start_runs: the same limits hold for them as ever.
"""

from collections.abc import Collection, Mapping, Sequence

from attrs import frozen

from scheduler.decisions.clearing import WITH_ATTEMPT, Decided, Wish
from scheduler.decisions.graph import Graph
from scheduler.model import RunState, TaskState
from scheduler.model.facts import FactKind
from scheduler.store import attempts, clearing, events, runs, tasks
from scheduler.store.clearing import Rewrite
from scheduler.store.documents import Graphs
from scheduler.store.events import EventKind
from scheduler.store.topics import Topic
from scheduler.store.writer import Reading, Row, Transaction


@frozen(kw_only=True)
class TaskChange:
    """What becomes of one task instance."""

    task_id: str
    map_index: int
    before: TaskState
    after: TaskState
    waits: bool
    """Its running attempt is stopped first; `after` comes when that is proved to have ended."""


@frozen(kw_only=True)
class RunChange:
    """What becomes of one run."""

    dag_id: str
    run_id: str
    before: RunState
    after: RunState
    tasks: tuple[TaskChange, ...]
    refused: str = ""
    """Why it is left alone; empty if it is not."""


async def preview(tx: Reading, graphs: Graphs, run_pks: Collection[int], wish: Wish) -> list[RunChange]:
    """What `rewrite` would do now."""
    rows = await clearing.facts(tx, run_pks)
    known = await graphs.load(tx, {row["version_id"] for row in rows})
    found = await clearing.instances(tx, [row["id"] for row in rows])
    return [
        _told(row, found[row["id"]], _decide(wish, known[row["version_id"]], row, found[row["id"]])) for row in rows
    ]


async def rewrite(
    tx: Transaction, graphs: Graphs, run_pks: Collection[int], wish: Wish, *, reason: str
) -> list[RunChange]:
    """Do it; return what was done. `reason` is what the attempts that are stopped are told."""
    held = await tx.lock(runs.LOCK_RUN, keys=sorted(run_pks))
    rows = await clearing.facts(tx, held)
    known = await graphs.load(tx, {row["version_id"] for row in rows})
    touched = {row["id"]: wish.touches(known[row["version_id"]]) for row in rows}
    seen = await clearing.instances(tx, held)
    wanted = [one["id"] for key, found in seen.items() for one in found if one["task_index"] in touched[key]]
    await tx.lock(tasks.LOCK_KEYS, keys=sorted(wanted))
    seen = await clearing.instances(tx, held)
    decided = {row["id"]: _decide(wish, known[row["version_id"]], row, seen[row["id"]]) for row in rows}
    graph_of = {row["id"]: known[row["version_id"]] for row in rows}
    await _write_instances(tx, seen, decided, graph_of, reason=reason)
    told = {row["id"]: _told(row, seen[row["id"]], decided[row["id"]]) for row in rows}
    await _write_runs(tx, rows, decided)
    for row in rows:
        if names := [one.task_id for one in told[row["id"]].tasks]:
            about = {"dag_id": row["dag_id"], "run_id": row["run_id"], "tasks": names}
            if wish.mark is None:
                tx.tell(FactKind.RUN_CLEARED, **about)
            else:
                tx.tell(FactKind.TASKS_MARKED, state=str(wish.mark), **about)
    return list(told.values())


def _decide(wish: Wish, graph: Graph, row: Row, found: Sequence[Row]) -> Decided:
    states = {one["task_index"]: TaskState(one["state"]) for one in found}
    return wish.decide(graph, run=RunState(row["state"]), verdict=row["verdict"], states=states)


def _told(row: Row, found: Sequence[Row], decided: Decided) -> RunChange:
    changed = []
    for one in sorted(found, key=lambda one: (one["task_index"], one["map_index"])):
        after = decided.changes.get(one["task_index"]) or decided.imposed.get(one["task_index"])
        if after is not None:
            before = TaskState(one["state"])
            changed.append(
                TaskChange(
                    task_id=one["task_id"],
                    map_index=one["map_index"],
                    before=before,
                    after=TaskState.NONE if after is TaskState.RESTARTING else after,
                    waits=before in WITH_ATTEMPT,
                )
            )
    return RunChange(
        dag_id=row["dag_id"],
        run_id=row["run_id"],
        before=RunState(row["state"]),
        after=decided.run_state or RunState(row["state"]),
        tasks=tuple(changed),
        refused=decided.refused,
    )


async def _write_instances(
    tx: Transaction,
    seen: Mapping[int, Sequence[Row]],
    decided: Mapping[int, Decided],
    graph_of: Mapping[int, Graph],
    *,
    reason: str,
) -> None:
    cleared, marked, imposed = [], [], []
    for key, found in seen.items():
        for one in found:
            i = one["task_index"]
            state = decided[key].changes.get(i) or decided[key].imposed.get(i)
            if state is None:
                continue
            retries = graph_of[key].tasks[i].retry.retries
            change = Rewrite(
                key=one["id"], was=TaskState(one["state"]), token=one["token"], state=state, retries=retries
            )
            if i in decided[key].imposed:
                imposed.append(change)
            elif state in (TaskState.NONE, TaskState.RESTARTING):
                cleared.append(change)
            else:
                marked.append(change)
    await clearing.clear(tx, cleared, reason=reason)
    await clearing.mark(tx, marked, reason=reason)
    await clearing.impose(tx, imposed, reason=reason)
    before = {change.was for change in (*cleared, *marked, *imposed)}
    if before & WITH_ATTEMPT:
        tx.announce(Topic.CANCEL_REQUESTED)
    if TaskState.QUEUED in before:
        tx.announce(Topic.SLOT_FREED)


async def _write_runs(tx: Transaction, rows: Sequence[Row], decided: Mapping[int, Decided]) -> None:
    """Every run that was touched counts one more change, so that whoever has a picture of it sees that it is old."""
    again = [key for key, made in decided.items() if made.run_state is RunState.QUEUED]
    ends = {
        key: made.run_state
        for key, made in decided.items()
        if made.run_state is not None and made.run_state is not RunState.QUEUED
    }
    rest = {key: None for key, made in decided.items() if (made.changes or made.imposed) and made.run_state is None}
    await clearing.requeue(tx, again)
    await clearing.end_anew(tx, ends)
    if rest:
        await attempts.move(tx, rest)
    if again:
        tx.announce(Topic.RUN_QUEUED)
    running = [row["id"] for row in rows if row["id"] in rest and row["state"] == RunState.RUNNING]
    await events.append(tx, [(key, None, EventKind.RUN, tx.now) for key in running])
