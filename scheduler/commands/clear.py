"""Clear tasks: they run again, with all their tries; a run that is over is queued again."""

from collections.abc import Collection

from scheduler.commands.choosing import Choice, carry_out
from scheduler.decisions.clearing import Selection, Wish
from scheduler.procedures.rewriting import RunChange, rewrite
from scheduler.store.documents import Graphs
from scheduler.store.locks import Lock
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction, writer

REASON = "the task was cleared"


@writer(Lock.DAG_RUN, Lock.TASK_INSTANCE)
async def clear_tasks(
    tx: Transaction, graphs: Graphs, run_pks: Collection[int], selection: Selection
) -> list[RunChange]:
    """Clear the selected tasks of these runs; return what became of each run."""
    return await rewrite(tx, graphs, run_pks, Wish(selection=selection), reason=REASON)


async def clear(store: Store, *, graphs: Graphs, choice: Choice, dry_run: bool = False) -> list[RunChange]:
    """Take tasks back to `none` at once; one that runs is stopped first, and what it reports no longer counts.

    With `dry_run` nothing is changed. Raises CommandError: no such run or task, an undated run with `past` or
    `future`, or the one run that is meant is being ended.
    """

    async def write(run_pks: list[int]) -> list[RunChange]:
        return await store.transact(clear_tasks, graphs, run_pks, choice.selection)

    return await carry_out(store, graphs, choice, Wish(selection=choice.selection), write, dry_run=dry_run)
