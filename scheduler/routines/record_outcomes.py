"""Record what workers report of their attempts, in batches, and acknowledge it after the commit.

queued, running -> success, failed, skipped, up_for_retry, scheduled (after a loss). Each end leaves an event for
its run. Reports stay in the executor's inbox until they are committed, and at the worker until they are
acknowledged: killed at any instant, this routine loses nothing, and a report that comes twice changes nothing.
"""

from attrs import frozen

from nurseries.routine import Pace, Progress
from scheduler.executors.base import Executor
from scheduler.model import Outcome
from scheduler.procedures.settle import Verdict, settle
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


@frozen(kw_only=True)
class RecordOutcomes:
    """Batches grow with the load: while one transaction runs, reports gather for the next."""

    store: Store
    graphs: Graphs
    executor: Executor
    at_most: int = 200
    pace = Pace(seconds=5)
    wakes_on = (Topic.OUTCOME_REPORTED,)

    async def step(self) -> Progress:
        reports = self.executor.outcomes.peek(self.at_most)
        if not reports:
            return Progress.IDLE
        unique = list({report.token: report for report in reports}.values())
        answers = await self.store.transact(end_attempts, self.graphs, unique)
        self.executor.outcomes.remove(reports)
        self.executor.acknowledge(list(answers))
        return Progress.MORE
