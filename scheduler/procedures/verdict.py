"""Impose a verdict on running runs: skip what has no running attempt, ask for the end of what has.

Called under the runs' locks; takes the locks of their unfinished instances. The runs themselves end when their
last attempt has: schedule_tasks sees to that.
"""

from collections.abc import Collection

from scheduler.model import TaskState, Verdict
from scheduler.store import events, runs, tasks
from scheduler.store.events import EventKind
from scheduler.store.topics import Topic
from scheduler.store.writer import Transaction

REASONS = {Verdict.CANCELLED: "the run was cancelled", Verdict.TIMEOUT: "the run was out of time"}


async def impose(tx: Transaction, run_pks: Collection[int], verdict: Verdict) -> None:
    """Set the verdict on these held, running runs and apply it to their instances."""
    if not run_pks:
        return
    await runs.impose(tx, run_pks, verdict)
    keys = await tx.lock(tasks.LOCK_UNFINISHED, runs=sorted(run_pks))
    seen = await tasks.states_of(tx, keys)
    running = [row["id"] for row in seen if row["state"] == TaskState.RUNNING]
    await tasks.skip(tx, set(keys) - set(running), reason=REASONS[verdict])
    await tasks.request_cancel(tx, running, reason=REASONS[verdict])
    await events.append(tx, [(run_pk, None, EventKind.RUN, tx.now) for run_pk in sorted(run_pks)])
    tx.announce(Topic.CANCEL_REQUESTED, Topic.SLOT_FREED)
