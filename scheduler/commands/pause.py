"""Pause and unpause a dag."""

from scheduler.commands.errors import CommandError
from scheduler.store import dags, events
from scheduler.store.events import EventKind
from scheduler.store.locks import Lock
from scheduler.store.topics import Topic
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction, writer


@writer(Lock.DAG)
async def pause_dag(tx: Transaction, dag_id: str, paused: bool) -> bool:
    """Set it, and have the runs of an unpaused dag judged anew. False: no such dag."""
    keys = await tx.lock(dags.LOCK_DAG_ID, dag_id=dag_id)
    if not keys:
        return False
    await dags.pause(tx, keys, paused=paused)
    if not paused:
        running = await dags.running_runs(tx, keys)
        await events.append(tx, [(run_pk, None, EventKind.RUN, tx.now) for run_pk in running])
        tx.announce(Topic.DAG_DUE, Topic.RUN_QUEUED, Topic.TASK_SCHEDULED)
    return True


async def pause(store: Store, *, dag_id: str, paused: bool) -> None:
    """While paused nothing of a dag is created, started, scheduled or admitted; what runs goes on to its end.

    Raises CommandError if there is no such dag.
    """
    if not await store.transact(pause_dag, dag_id, paused):
        raise CommandError("not_found", f"There is no dag {dag_id!r}. `asyncsched dags list` shows them all.")
