"""Mark tasks, or whole runs: they get a state that nothing has earned."""

from collections.abc import Collection

from scheduler.commands.choosing import Choice, carry_out
from scheduler.commands.errors import CommandError
from scheduler.decisions.clearing import Selection, Wish
from scheduler.model import RunState, TaskState, Verdict
from scheduler.model.facts import FactKind
from scheduler.procedures.rewriting import RunChange, rewrite
from scheduler.procedures.verdict import impose
from scheduler.store import clearing, runs
from scheduler.store.documents import Graphs
from scheduler.store.locks import Lock
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction, writer

VERDICTS = {RunState.SUCCESS: Verdict.MARKED_SUCCESS, RunState.FAILED: Verdict.MARKED_FAILED}


@writer(Lock.DAG_RUN, Lock.TASK_INSTANCE)
async def mark_tasks(
    tx: Transaction, graphs: Graphs, run_pks: Collection[int], selection: Selection, state: TaskState
) -> list[RunChange]:
    """Mark the selected tasks of these runs and clear the failures below them; return what became of each run."""
    reason = f"the task was marked as {state}"
    return await rewrite(tx, graphs, run_pks, Wish(selection=selection, mark=state), reason=reason)


async def mark(
    store: Store, *, graphs: Graphs, choice: Choice, state: TaskState, dry_run: bool = False
) -> list[RunChange]:
    """Give tasks the state success, failed or skipped; one that runs is stopped first and gets it when it has ended.

    With `dry_run` nothing is changed. Raises CommandError: as `clear.clear` does.
    """

    async def write(run_pks: list[int]) -> list[RunChange]:
        return await store.transact(mark_tasks, graphs, run_pks, choice.selection, state)

    wish = Wish(selection=choice.selection, mark=state)
    return await carry_out(store, graphs, choice, wish, write, dry_run=dry_run)


@writer(Lock.DAG_RUN, Lock.TASK_INSTANCE)
async def mark_runs(tx: Transaction, run_pks: Collection[int], state: RunState) -> list[tuple[str, str | None]]:
    """End runs as `state`; return the states and verdicts they had, by key.

    A queued run ends at once, a running one when its attempts have been stopped; of one that is over only the state
    is changed. One that is being ended already is left alone.
    """
    verdict = VERDICTS[state]
    keys = await tx.lock(runs.LOCK_RUN, keys=sorted(run_pks))
    seen = await clearing.facts(tx, keys)
    over = [row for row in seen if row["state"] in (RunState.SUCCESS, RunState.FAILED)]
    rest = [row for row in seen if row not in over and row["verdict"] is None]
    await clearing.end_anew(tx, {row["id"]: state for row in over if row["state"] != state}, verdict=verdict)
    await impose(
        tx,
        [row["id"] for row in rest if row["state"] == RunState.RUNNING],
        verdict,
        queued=[row["id"] for row in rest if row["state"] == RunState.QUEUED],
    )
    for row in (*over, *rest):
        if row["state"] != state:
            tx.tell(FactKind.RUN_MARKED, dag_id=row["dag_id"], run_id=row["run_id"], state=str(state))
    return [(row["state"], row["verdict"]) for row in seen]


async def mark_run(store: Store, *, dag_id: str, run_id: str, state: RunState) -> RunState:
    """End a run as success or failed, whatever its tasks say: what has not begun is skipped, what runs is stopped.

    Returns the state it was in. Raises CommandError: no such run, or it is being ended already.
    """
    run = await store.read(clearing.run, dag_id=dag_id, run_id=run_id)
    seen = await store.transact(mark_runs, [run["id"]], state) if run is not None else []
    if not seen:
        raise CommandError("not_found", f"There is no run {run_id!r}. `asyncsched runs list` shows them.")
    before, verdict = seen[0]
    if verdict is not None and before in (RunState.QUEUED, RunState.RUNNING):
        raise CommandError("conflict", f"Run {run_id!r} cannot be changed now: it is being ended: {verdict}.")
    return RunState(before)
