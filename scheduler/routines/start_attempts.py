"""Let attempts start that were only queued: the compare-and-set that comes before the first line of user code.

queued -> running, by claim token. The answer, sent after the commit, carries the results of upstream tasks. A
start that was committed but not answered is asked for again, by the same worker, and accepted again.
"""

from collections.abc import Sequence

from attrs import frozen

from nurseries.routine import Pace, Progress
from scheduler.executors.base import Executor
from scheduler.model import AttemptState, StartAnswer, StartRequest, TaskState
from scheduler.model.facts import FactKind
from scheduler.procedures.placement import upstream_results
from scheduler.procedures.settle import is_unwanted
from scheduler.store import attempts, tasks
from scheduler.store.documents import Graphs
from scheduler.store.locks import Lock
from scheduler.store.topics import Topic
from scheduler.store.transaction import Store
from scheduler.store.writer import Row, Transaction, writer


@writer(Lock.TASK_INSTANCE)
async def start_claimed(tx: Transaction, graphs: Graphs, requests: Sequence[StartRequest]) -> list[StartAnswer]:
    """Win or refuse each start.

    An attempt that is asked for again and was cleared or marked meanwhile gets no answer: it is asked to end, and its
    report is what its task waits for. A refusal would let it leave without one.
    """
    asked = {request.token: request for request in requests}
    await tx.lock(tasks.LOCK_OF_TOKENS, tokens=sorted(asked))
    rows = await attempts.by_token(tx, asked)
    unwanted = {token for token, row in rows.items() if is_unwanted(row)}
    if unwanted:
        tx.announce(Topic.CANCEL_REQUESTED)
        asked = {token: request for token, request in asked.items() if token not in unwanted}
    refusals = {token: _refusal(rows.get(token), request) for token, request in asked.items()}
    accepted = {token: rows[token] for token, refusal in refusals.items() if not refusal}
    starting = {token: row for token, row in accepted.items() if row["attempt_state"] == AttemptState.QUEUED}
    if starting:
        await attempts.start(
            tx,
            [
                attempts.Start(
                    key=row["ti_id"],
                    token=token,
                    worker=asked[token].worker_id,
                    hostname=asked[token].hostname,
                    pid=asked[token].pid,
                )
                for token, row in starting.items()
            ],
        )
        for row in starting.values():
            about = {key: row[key] for key in ("dag_id", "run_id", "task_id", "try_number")}
            tx.tell(FactKind.TASK_STARTED, **about)
        again = [row["ti_id"] for row in starting.values() if row["try_number"] > 1 or row["losses"]]
        if again:
            await tasks.forget_results(tx, again)
    known = await graphs.load(tx, {row["version_id"] for row in accepted.values()})
    needs = [
        (row["run_pk"], graph, graph.tasks[row["task_index"]])
        for row in accepted.values()
        for graph in (known[row["version_id"]],)
    ]
    inputs = dict(zip(accepted, await upstream_results(tx, needs), strict=True))
    return [
        StartAnswer(token=token, accepted=not refusal, reason=refusal, inputs=inputs.get(token, {}))
        for token, refusal in refusals.items()
    ]


def _refusal(row: Row | None, request: StartRequest) -> str:
    """Why this start is refused; empty if it is not."""
    if row is None:
        return "there is no such attempt"
    if not row["live"]:
        return "the attempt is history: its task was claimed anew, or ended"
    if row["state"] == TaskState.RUNNING and row["worker"] is not None and str(row["worker"]) != request.worker_id:
        return "the attempt was started by another worker"
    if row["attempt_state"] not in (AttemptState.QUEUED, AttemptState.RUNNING):
        return f"the attempt is {row['attempt_state']}"
    return ""


@frozen(kw_only=True)
class StartAttempts:
    """Requests stay in the executor's inbox until their answers are committed."""

    store: Store
    graphs: Graphs
    executor: Executor
    at_most: int = 200
    pace = Pace(seconds=5)
    wakes_on = (Topic.START_REQUESTED,)

    async def step(self) -> Progress:
        requests = self.executor.starts.peek(self.at_most)
        if not requests:
            return Progress.IDLE
        unique = list({request.token: request for request in requests}.values())
        answers = await self.store.transact(start_claimed, self.graphs, unique)
        self.executor.starts.remove(requests)
        self.executor.answer(answers)
        return Progress.MORE
