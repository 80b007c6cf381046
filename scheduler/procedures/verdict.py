"""Impose a verdict on runs: skip what has no running attempt, ask for the end of what has.

Called under the runs' locks; takes the locks of their unfinished instances. Running runs end when their
last attempt has: schedule_tasks sees to that.
"""

from collections.abc import Collection

from scheduler.decisions.clearing import WITH_ATTEMPT
from scheduler.model import Verdict
from scheduler.store import events, runs, tasks
from scheduler.store.events import EventKind
from scheduler.store.topics import Topic
from scheduler.store.writer import Transaction

REASONS = {
    Verdict.CANCELLED: "the run was cancelled",
    Verdict.TIMEOUT: "the run was out of time",
    Verdict.MARKED_SUCCESS: "the run was marked as success",
    Verdict.MARKED_FAILED: "the run was marked as failed",
}


async def impose(tx: Transaction, running: Collection[int], verdict: Verdict, *, queued: Collection[int] = ()) -> None:
    """Set the verdict on these held, running runs and apply it to their instances; `queued` ones end at once."""
    if queued:
        await runs.end_queued(tx, queued, verdict)
        tx.announce(Topic.RUN_FINISHED)
    if running:
        await runs.impose(tx, running, verdict)
        tx.announce(Topic.CANCEL_REQUESTED, Topic.SLOT_FREED)
    if running or queued:
        keys = await tx.lock(tasks.LOCK_UNFINISHED, runs=sorted([*running, *queued]))
        seen = await tasks.states_of(tx, keys)
        active = {row["id"]: row["token"] for row in seen if row["state"] in WITH_ATTEMPT}
        await tasks.skip(
            tx, {row["id"]: row["token"] for row in seen if row["id"] not in active}, reason=REASONS[verdict]
        )
        await tasks.request_cancel(tx, active, reason=REASONS[verdict])
        await events.append(tx, [(run_pk, None, EventKind.RUN, tx.now) for run_pk in sorted(running)])
