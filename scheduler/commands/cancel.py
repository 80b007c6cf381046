"""Cancel a run."""

from collections.abc import Collection

from scheduler.commands.errors import CommandError
from scheduler.model import Verdict
from scheduler.procedures.verdict import impose
from scheduler.store import runs
from scheduler.store.locks import Lock
from scheduler.store.transaction import Store
from scheduler.store.writer import Reading, Transaction, writer


@writer(Lock.DAG_RUN, Lock.TASK_INSTANCE)
async def cancel_runs(tx: Transaction, run_pks: Collection[int]) -> list[str]:
    """Cancel queued and running runs; return the states they were in."""
    keys = await tx.lock(runs.LOCK_RUN, keys=sorted(run_pks))
    seen = await runs.facts(tx, keys)
    queued = [key for key, row in seen.items() if row["state"] == "queued"]
    running = [key for key, row in seen.items() if row["state"] == "running"]
    await impose(tx, running, Verdict.CANCELLED, queued=queued)
    return [row["state"] for row in seen.values()]


async def _find(tx: Reading, run_id: str, dag_id: str | None) -> list[tuple[int, str, str]]:
    rows = await runs.find(tx, run_id=run_id, dag_id=dag_id)
    return [(row["id"], row["dag_id"], row["state"]) for row in rows]


async def cancel_run(store: Store, *, run_id: str, dag_id: str | None = None) -> None:
    """Cancel one run: what has not begun is skipped, what runs is stopped, the run ends as failed.

    Raises CommandError: no such run, several dags have one of that name, or it has ended already.
    """
    found = await store.read(_find, run_id, dag_id)
    if not found:
        raise CommandError("not_found", f"There is no run {run_id!r}. `asyncsched runs list` shows them.")
    if len(found) > 1:
        names = ", ".join(f"{dag}/{run_id}" for _, dag, _ in found)
        raise CommandError("conflict", f"Several runs have this id; say which: {names}.")
    states = await store.transact(cancel_runs, [found[0][0]])
    if states and states[0] in ("success", "failed"):
        raise CommandError("conflict", f"Run {run_id!r} has ended already: {states[0]}.")
