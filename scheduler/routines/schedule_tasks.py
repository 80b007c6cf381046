"""Judge what happened in runs: schedule what has become ready, skip what never will, end runs that are over.

States none -> scheduled, success (empty tasks), skipped, upstream_failed; up_for_retry -> scheduled; a run's end.
One transaction: claim runs that have events, read the events, plan, lock the instances to change, write them,
count the change in the run's `seq`, delete the events.

Between steps the daemon keeps a picture of each run, so that a step costs what has changed (procedures/pictures.py).
Cancelled or killed, a step has happened or not; its events are there until it has.
"""

from collections.abc import Collection, Mapping
from datetime import datetime

from attrs import field, frozen

from nurseries.routine import Pace, Progress
from scheduler.decisions.readiness import Picture, Plan, Seen, plan
from scheduler.model import CANDIDATES, FINISHED, RunState, TaskState
from scheduler.model.facts import FactKind
from scheduler.procedures.pictures import Known, Pictures
from scheduler.store import attempts, events, runs, tasks
from scheduler.store.documents import Graphs
from scheduler.store.events import EventKind
from scheduler.store.locks import Lock
from scheduler.store.topics import Topic
from scheduler.store.transaction import Store
from scheduler.store.writer import Row, Transaction, writer

KINDS = (EventKind.TASK, EventKind.RUN)
EVENTS_AT_ONCE = 1_000


@frozen(kw_only=True)
class Judged:
    """What one transaction did."""

    more: bool = False
    skipped: bool = False
    """Some runs were held by somebody else: come back soon."""
    stale: bool = False
    """A picture did not agree with the rows; nothing was written."""
    wait: float | None = None
    pictures: Mapping[int, Known] = field(factory=dict)
    finished: frozenset[int] = frozenset()


@writer(Lock.DAG_RUN, Lock.TASK_INSTANCE)
async def judge_runs(tx: Transaction, graphs: Graphs, pictures: Pictures, at_most: int) -> Judged:
    """Judge up to `at_most` runs that have events."""
    wanted = await events.runs_with_events(tx, KINDS, at_most=at_most)
    if not wanted:
        return Judged(wait=_seconds_until(await events.next_due(tx), tx.now))
    held = await tx.lock(runs.CLAIM, keys=wanted)
    due_events = await events.due(tx, held, KINDS, at_most=EVENTS_AT_ONCE)
    facts = await runs.facts(tx, held)
    running = {key: row for key, row in facts.items() if row["state"] == RunState.RUNNING}
    plans = await _plan(tx, graphs, pictures, running, due_events)
    changed = [(key, i, state) for key, made in plans.items() for i, state in made.changes.items()]
    if changed:
        keys = {(key, i): plans[key].picture.keys[i] for key, i, _ in changed}
        got = await tx.lock(tasks.LOCK_JUDGEABLE, keys=sorted(keys.values()))
        if len(got) != len(changed):
            return Judged(stale=True)
        await attempts.judge(tx, {keys[key, i]: state for key, i, state in changed})
    await events.consume(tx, held, [row["event_id"] for row in due_events])
    # every run whose events were taken in, even if nothing follows from them: who has a picture without them, in this
    # daemon or another, must see that it is old
    ends = {key: made.run_state for key, made in plans.items()}
    if ends:
        await attempts.move(tx, ends)
    if any(state is TaskState.SCHEDULED for *_, state in changed):
        tx.announce(Topic.TASK_SCHEDULED)
    finished = frozenset(key for key, state in ends.items() if state is not None)
    if finished:
        tx.announce(Topic.RUN_FINISHED)
    for key in sorted(finished):
        row = running[key]
        tx.tell(
            FactKind.RUN_FINISHED,
            dag_id=row["dag_id"],
            run_id=row["run_id"],
            state=str(ends[key]),
            seconds=(tx.now - row["start_date"]).total_seconds(),
            reason=plans[key].reason,
        )
    return Judged(
        more=len(wanted) == at_most or len(due_events) == EVENTS_AT_ONCE,
        skipped=len(held) < len(wanted),
        pictures={
            key: Known(seq=seq + 1, picture=made.picture, card=before.card if before is not None else None)
            for key, made in plans.items()
            for seq in (running[key]["seq"],)
            for before in (pictures.get(key, seq),)
            if key not in finished
        },
        finished=finished,
        wait=_seconds_until(await events.next_due(tx), tx.now),
    )


def _seconds_until(due: datetime | None, now: datetime) -> float | None:
    return None if due is None else max(0.0, (due - now).total_seconds())


async def _plan(
    tx: Transaction,
    graphs: Graphs,
    pictures: Pictures,
    running: Mapping[int, Row],
    due_events: Collection[Row],
) -> dict[int, Plan]:
    known = await graphs.load(tx, {row["version_id"] for row in running.values()})
    good = {}
    for key, row in running.items():
        memory = pictures.get(key, row["seq"])
        if memory is not None and memory.picture is not None:
            good[key] = memory.picture
    unknown = set(running) - set(good)
    fresh = await tasks.of_runs(tx, unknown) if unknown else {}
    for key, seen in fresh.items():
        good[key] = Picture.of(known[running[key]["version_id"]], seen)
    plans = {}
    for key, row in running.items():
        mine = [one for one in due_events if one["run_pk"] == key]
        if not mine:
            continue
        everything = any(one["kind"] == EventKind.RUN for one in mine)
        seen_now = [tasks.seen(one) for one in mine if one["task_index"] is not None]
        plans[key] = plan(
            _up_to_date(good[key], seen_now) if everything else good[key],
            None if everything else seen_now,
            now=tx.now,
            may_start=not row["is_paused"],
            verdict=row["verdict"],
        )
    return plans


def _up_to_date(picture: Picture, changed: Collection[Seen]) -> Picture:
    """The picture with the changes taken in, for a judgement of the whole run."""
    fresh = picture.copy()
    for one in changed:
        if one.state in FINISHED or one.state in CANDIDATES:  # `none`: it was cleared, and its attempt has ended
            fresh.note(one)
    return fresh


@frozen(kw_only=True)
class ScheduleTasks:
    """Who revisits a run that was skipped because somebody held it: this routine, 20 ms later; its events stay."""

    store: Store
    graphs: Graphs
    pictures: Pictures
    at_most: int = 100
    pace = Pace(seconds=60)
    wakes_on = (Topic.EVENT_APPENDED,)

    async def step(self) -> Progress:
        done = await self.store.transact(judge_runs, self.graphs, self.pictures, self.at_most)
        if done.stale:
            self.pictures.clear()
            return Progress.MORE
        self.pictures.keep(done.pictures, finished=done.finished)
        if done.more:
            return Progress.MORE
        if done.skipped:
            return Progress.again(0.02)
        return Progress.IDLE if done.wait is None else Progress.again(done.wait)
