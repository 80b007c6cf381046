"""Record what workers report of their attempts, in batches, and acknowledge it after the commit.

queued, running -> success, failed, skipped, up_for_retry, scheduled (after a loss). Each end leaves an event for
its run; successes take the short way where they can (procedures/advance.py), which judges the run and starts what
has become ready in the same transaction. Reports stay in the executor's inbox until they are committed, and at the
worker until they are acknowledged: killed at any instant, this routine loses nothing, and a report that comes twice
changes nothing.
"""

from collections.abc import Mapping

import trio
from attrs import frozen

from nurseries.routine import Pace, Progress
from scheduler.executors.base import Executor
from scheduler.model import Outcome
from scheduler.procedures.advance import Advanced, advance
from scheduler.procedures.batching import Batching
from scheduler.procedures.claiming import Look
from scheduler.procedures.dispatch import Dispatch
from scheduler.procedures.pictures import Pictures, look_at
from scheduler.procedures.placement import Capacity
from scheduler.procedures.settle import Verdict, settle
from scheduler.procedures.turn import Turn, may_advance, prepare, unknown
from scheduler.store import tasks
from scheduler.store.documents import Graphs
from scheduler.store.locks import Lock
from scheduler.store.topics import Topic
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction, writer


@writer(Lock.TASK_INSTANCE)
async def end_attempts(tx: Transaction, graphs: Graphs, outcomes: list[Outcome]) -> dict[str, Verdict]:
    """Lock the instances of these attempts and settle what is said of them."""
    await tx.lock(tasks.LOCK_OF_TOKENS, tokens=sorted(outcome.token for outcome in outcomes))
    return await settle(tx, graphs, outcomes)


@writer(Lock.DAG_RUN, Lock.POOL, Lock.TASK_INSTANCE)
async def advance_runs(
    tx: Transaction, graphs: Graphs, pictures: Pictures, turn: Turn, capacity: Capacity, look: Look | None
) -> Advanced:
    """The short way, for successes whose consequences are planned."""
    return await advance(tx, graphs, pictures, turn, capacity, look)


@frozen(kw_only=True)
class RecordOutcomes:
    """Batches grow with the load: while one transaction runs, reports gather for the next."""

    store: Store
    graphs: Graphs
    pictures: Pictures
    executor: Executor
    dispatch: Dispatch
    batching: Batching
    at_most: int = 500
    pace = Pace(seconds=5)
    wakes_on = (Topic.OUTCOME_REPORTED,)

    async def step(self) -> Progress:
        if self.executor.outcomes.peek(1):
            await self.batching.gather()
        reports = self.executor.outcomes.peek(self.at_most)
        if not reports:
            return Progress.IDLE
        begun = trio.current_time()
        unique = {report.token: report for report in reports}
        known = self.dispatch.whereabouts
        quick = {token: report for token, report in unique.items() if may_advance(report, known)}
        answers: dict[str, Verdict] = dict(await self._advance(quick)) if quick else {}
        rest = [report for token, report in unique.items() if token not in answers]
        if rest:
            slowly = await self.store.transact(end_attempts, self.graphs, rest)
            answers.update(slowly)
        self.executor.outcomes.remove(reports)
        self.executor.acknowledge(list(answers))
        self.batching.took(trio.current_time() - begun)
        for token in answers:
            known.pop(token, None)
        if rest:
            self.store.poke(Topic.SLOT_FREED)  # the worker has room again, whatever became of the reports
        return Progress.MORE

    async def _advance(self, quick: Mapping[str, Outcome]) -> Mapping[str, Verdict]:
        whereabouts = self.dispatch.whereabouts
        strange = unknown(self.pictures, quick, whereabouts)
        if strange:
            self.pictures.keep(await self.store.read(look_at, self.graphs, strange))
        turn = prepare(self.pictures, quick, whereabouts)
        if not turn.plans:
            return {}
        look = Look() if self.dispatch.somebody_waits else None
        with self.dispatch.admission():
            capacity = self.dispatch.capacity()
            done = await self.store.transact(advance_runs, self.graphs, self.pictures, turn, capacity, look)
            self.pictures.forget(done.stale)
            self.pictures.keep(done.pictures, finished=done.finished)
            self.dispatch.give_back(done)
            await self.dispatch.hand_over(done.placed)
        return done.answers
