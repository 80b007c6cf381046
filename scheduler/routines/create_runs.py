"""Create the runs that timetables say are due, and move each dag's pointer past them."""

from datetime import datetime
from typing import ClassVar

from attrs import frozen

from nurseries.routine import Pace, Progress
from scheduler.decisions.identity import run_id
from scheduler.model import RunType
from scheduler.model.facts import FactKind
from scheduler.procedures.dispatch import Dispatch
from scheduler.procedures.launch import Launched, launch
from scheduler.procedures.placement import Capacity
from scheduler.procedures.vacancies import Vacancies
from scheduler.store import dags, runs
from scheduler.store.documents import Graphs
from scheduler.store.locks import Lock
from scheduler.store.topics import Topic
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction, writer
from scheduler.timetables import plan_slots


@frozen(kw_only=True)
class Created:
    """What one transaction did."""

    claimed: int
    created: int
    dropped: int
    wait: float | None
    """Seconds until the next slot of any dag."""
    somebody_waits: bool
    """A dag could have a run if one of its runs ended."""
    launched: Launched


@writer(Lock.DAG, Lock.POOL, inserts=(Lock.DAG_RUN, Lock.TASK_INSTANCE))
async def create_due_runs(tx: Transaction, graphs: Graphs, at_most: int, capacity: Capacity | None = None) -> Created:
    """Claim due dags, insert the runs of their slots, move their pointers: all or nothing."""
    claimed = await tx.lock(dags.CLAIM_DUE, now=tx.now, at_most=at_most)
    rows = [row for row in await dags.due(tx, claimed) if row["version_id"] is not None]
    known = await graphs.load(tx, {row["version_id"] for row in rows})
    active = await runs.count_active(tx, claimed)
    new: list[runs.NewRun] = []
    pointers: list[tuple[int, datetime | None, datetime | None]] = []
    dropped = 0
    for row in rows:
        graph = known[row["version_id"]]
        dag = graph.dag
        plan = plan_slots(
            dag.schedule,
            cursor=row["cursor"],
            start_date=dag.start_date,
            end_date=dag.end_date,
            catchup=dag.catchup,
            now=tx.now,
            first_seen=row["created_at"],
            last_end=row["last_end"],
        )
        runs_left = dag.max_active_runs - active[row["id"]]["running"] - active[row["id"]]["queued"]
        slots = plan.slots[: max(0, runs_left)]
        held_back = plan.slots[len(slots) :]
        if held_back:
            cursor = slots[-1].run_after if slots else row["cursor"]
            pointers.append((row["id"], cursor, held_back[0].run_after))
        else:
            pointers.append((row["id"], plan.cursor, plan.next_due))
        dropped += plan.dropped
        new += [
            runs.NewRun(
                dag_pk=row["id"],
                version_id=row["version_id"],
                graph=graph,
                run_id=run_id(RunType.SCHEDULED, slot.run_after),
                run_type=RunType.SCHEDULED,
                run_after=slot.run_after,
                logical_date=slot.logical_date,
                data_interval_start=slot.data_interval_start,
                data_interval_end=slot.data_interval_end,
            )
            for slot in slots
        ]
    if pointers:
        await dags.move_pointers(tx, pointers)
    launched = await launch(tx, new, paused={row["id"]: row["is_paused"] for row in rows}, capacity=capacity)
    if dropped:
        tx.tell(FactKind.SLOTS_DROPPED, dropped=dropped)
    due, somebody_waits = await dags.next_due(tx)
    return Created(
        claimed=len(claimed),
        created=len(launched.keys),
        dropped=dropped,
        wait=None if due is None else max(0.0, (due - tx.now).total_seconds()),
        somebody_waits=somebody_waits,
        launched=launched,
    )


@frozen(kw_only=True)
class CreateRuns:
    """Wakes when a dag was loaded or unpaused, when a run finished, and at the next slot."""

    store: Store
    graphs: Graphs
    dispatch: Dispatch
    vacancies: Vacancies | None = None
    """Without it every wake-up is a look."""
    at_most: int = 100
    pace = Pace(seconds=60)
    waits_by: ClassVar = (Topic.DAG_DUE,)
    """What, besides the time, can make a dag wait for the end of a run."""
    wakes_on = (*waits_by, Topic.RUN_FINISHED)

    async def step(self) -> Progress:
        if self.vacancies is not None:
            if self.vacancies.may_rest():
                return Progress.again(self.vacancies.seconds_left)
            self.vacancies.about_to_look()
        with self.dispatch.admission():
            capacity = self.dispatch.capacity_for_new_runs()
            done = await self.store.transact(create_due_runs, self.graphs, self.at_most, capacity)
            await self.dispatch.hand_over_launched(done.launched)
        if self.vacancies is not None:
            for_seconds = self.pace.seconds if done.wait is None else min(done.wait, self.pace.seconds)
            self.vacancies.seen(somebody_waits=done.somebody_waits, for_seconds=for_seconds)
        if done.claimed == self.at_most:
            return Progress.MORE
        return Progress.IDLE if done.wait is None else Progress.again(done.wait)
