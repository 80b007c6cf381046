"""Which runs a request about tasks means: one, and perhaps those of its dag with earlier or later logical dates."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from attrs import frozen

from scheduler.commands.errors import CommandError
from scheduler.decisions.clearing import Selection, Wish
from scheduler.procedures.rewriting import RunChange, preview
from scheduler.store import clearing
from scheduler.store.documents import Graphs
from scheduler.store.transaction import Store
from scheduler.store.writer import Reading

TASKS_AT_ONCE = 1_000
"""Task instances whose runs go into one transaction; a run with more has one to itself."""
RUNS_AT_ONCE = 20


@frozen(kw_only=True)
class Choice:
    """What a person named."""

    dag_id: str
    run_id: str
    selection: Selection = Selection()
    past: bool = False
    """Also the runs of the dag with an earlier logical date."""
    future: bool = False
    """Also those with a later one."""


async def carry_out(
    store: Store,
    graphs: Graphs,
    choice: Choice,
    wish: Wish,
    write: Callable[[list[int]], Awaitable[list[RunChange]]],
    *,
    dry_run: bool,
) -> list[RunChange]:
    """`write` the wish batch by batch, or only preview it; return what became of each run.

    Killed in between, the batches that were committed stay: asked again, the same request does the rest.
    Raises CommandError.
    """
    batches = await store.read(_batches, graphs, choice)
    changes: list[RunChange] = []
    for batch in batches:
        changes += await (store.read(preview, graphs, batch, wish) if dry_run else write(batch))
    alone = len(changes) == 1 and changes[0]
    if alone and alone.refused:
        raise CommandError("conflict", f"Run {alone.run_id!r} cannot be changed now: {alone.refused}.")
    return changes


async def _batches(tx: Reading, graphs: Graphs, choice: Choice) -> list[list[int]]:
    """Keys of the runs in ascending order, cut into transactions. Raises CommandError."""
    run = await clearing.run(tx, dag_id=choice.dag_id, run_id=choice.run_id)
    if run is None:
        raise CommandError("not_found", f"There is no run {choice.run_id!r}. `asyncsched runs list` shows them.")
    await _check_tasks(tx, graphs, choice, run["id"])
    sizes = {run["id"]: run["tasks"]}
    if choice.past or choice.future:
        if run["logical_date"] is None:
            message = f"Run {choice.run_id!r} has no logical date, so no run is before or after it."
            raise CommandError("usage", message)
        beside = partial(clearing.runs_beside, dag_pk=run["dag_pk"], date=run["logical_date"])
        sizes |= dict(await beside(tx, past=choice.past, future=choice.future))
    return _cut(sorted(sizes.items()))


def _cut(sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
    batches: list[list[int]] = []
    left = 0
    for key, size in sizes:
        if not batches or size > left or len(batches[-1]) == RUNS_AT_ONCE:
            batches.append([])
            left = TASKS_AT_ONCE
        batches[-1].append(key)
        left -= size
    return batches


async def _check_tasks(tx: Reading, graphs: Graphs, choice: Choice, key: int) -> None:
    (row,) = await clearing.facts(tx, [key])
    graph = (await graphs.load(tx, [row["version_id"]]))[row["version_id"]]
    unknown = sorted((choice.selection.tasks or frozenset()) - graph.index.keys())
    if unknown:
        raise CommandError("not_found", f"Run {choice.run_id!r} has no task {', '.join(map(repr, unknown))}.")
