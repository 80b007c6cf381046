"""Fail runs that have used up their dagrun_timeout, paused or not.

A run that starts leaves an event of kind `timeout`, due when its time is over. Here it becomes the verdict.
"""

from attrs import frozen

from nurseries.routine import Pace, Progress
from scheduler.model import RunState, Verdict
from scheduler.procedures.verdict import impose
from scheduler.store import events, runs
from scheduler.store.events import EventKind
from scheduler.store.locks import Lock
from scheduler.store.topics import Topic
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction, writer

KINDS = (EventKind.TIMEOUT,)


@frozen(kw_only=True)
class TimedOut:
    """How many runs were looked at, and how long until the next timer, in seconds."""

    seen: int
    wait: float | None = None


@writer(Lock.DAG_RUN, Lock.TASK_INSTANCE)
async def time_out_due_runs(tx: Transaction, at_most: int) -> TimedOut:
    """Impose the verdict `timeout` on the runs whose timer is due and that still run; drop the timers."""
    wanted = await events.runs_with_events(tx, KINDS, at_most=at_most)
    if not wanted:
        due = await events.next_due(tx)
        return TimedOut(seen=0, wait=None if due is None else max(0.0, (due - tx.now).total_seconds()))
    held = await tx.lock(runs.CLAIM, keys=wanted)
    timers = await events.due(tx, held, KINDS, at_most=10 * at_most)
    facts = await runs.facts(tx, held)
    late = [key for key, row in facts.items() if row["state"] == RunState.RUNNING and row["verdict"] is None]
    await events.consume(tx, held, [row["event_id"] for row in timers])
    await impose(tx, late, Verdict.TIMEOUT)
    return TimedOut(seen=len(wanted))


@frozen(kw_only=True)
class TimeOutRuns:
    """Who revisits a run that somebody held: look_out finds its timer still due."""

    store: Store
    at_most: int = 100
    pace = Pace(seconds=60)
    wakes_on = (Topic.TIMER_SET,)

    async def step(self) -> Progress:
        done = await self.store.transact(time_out_due_runs, self.at_most)
        if done.seen == self.at_most:
            return Progress.MORE
        return Progress.IDLE if done.wait is None else Progress.again(max(0.05, done.wait))
