"""Take back attempts that nobody will report on: their worker is dead, or they were never handed over.

Lost while running: the worker's lease has ended. The task is scheduled again as the same try, twice; the third
loss fails it. Never started: queued for too long, or by a daemon that is gone; taken back at once, since its
start can no longer be won. Judged on the database's clock, by any daemon.

Started and never handed over: the daemon that admitted it was killed, or its commit went unanswered, before the
worker heard of it. The daemon which that worker is connected to sees that it does not have the attempt, waits for its
own admissions that are under way, gives up what they have not brought (from then on it cannot be handed over any more)
and only then declares it lost. That is at once after an admission that failed; what the server commits even later is
found at this routine's pace.

After a start or an outage of the database nobody is thought dead for one lease: they could not renew it either.
"""

from collections.abc import Collection, Mapping, Sequence

import trio
from attrs import field, frozen

from nurseries.routine import Pace, Progress
from scheduler.model import Outcome, OutcomeKind
from scheduler.procedures.dispatch import Dispatch
from scheduler.procedures.settle import SHUTDOWN, Verdict, settle
from scheduler.procedures.steadiness import Steadiness
from scheduler.store import tasks
from scheduler.store.documents import Graphs
from scheduler.store.locks import Lock
from scheduler.store.topics import Topic
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction, writer

PATIENCE_SECONDS = 20.0
"""How long an attempt may be queued without being started."""
WAIT_SECONDS = 5.0
"""How long this waits for admissions that are under way, before it comes back later."""


@writer(Lock.SEAT, Lock.TASK_INSTANCE)
async def rescue_lost(tx: Transaction, graphs: Graphs, at_most: int) -> int:
    """End the running attempts of workers whose lease has ended. Returns how many were lost."""
    seats = await tx.lock(tasks.CLAIM_EXPIRED_WORKERS, now=tx.now, at_most=at_most)
    tokens = await tasks.tokens_lost_with(tx, seats, at_most=at_most)
    return await _lose(tx, graphs, tokens, reason="lease", message="the worker's lease has ended")


@frozen(kw_only=True)
class Stuck:
    """What one look has found."""

    taken_back: int
    started: Mapping[str, str] = field(factory=dict)
    """By token, the worker of each attempt that runs at one of the workers asked for, or is on its way there, or never
    gets there."""


@writer(Lock.TASK_INSTANCE)
async def rescue_stuck(tx: Transaction, graphs: Graphs, workers: Collection[str], at_most: int) -> Stuck:
    """Take back attempts that were claimed and never started, and see what these workers should have."""
    tokens = await tasks.tokens_stuck(tx, patience=PATIENCE_SECONDS, at_most=at_most)
    started = await tasks.running_at(tx, workers) if workers else {}
    taken_back = await _lose(tx, graphs, tokens, reason=SHUTDOWN, message="it was never started")
    return Stuck(taken_back=taken_back, started=started)


@writer(Lock.TASK_INSTANCE)
async def rescue_missing(tx: Transaction, graphs: Graphs, tokens: Sequence[str]) -> int:
    """End started attempts that their worker has not got, and that can no longer reach it. Returns how many.

    No loss is charged to their tasks: no user code has run.
    """
    return await _lose(tx, graphs, tokens, reason=SHUTDOWN, message="it never reached its worker")


async def _lose(tx: Transaction, graphs: Graphs, tokens: Sequence[str], *, reason: str, message: str) -> int:
    if not tokens:
        return 0
    await tx.lock(tasks.LOCK_OF_TOKENS, tokens=sorted(tokens))
    lost = [Outcome(token=token, kind=OutcomeKind.LOST, reason=reason, message=message) for token in tokens]
    answers = await settle(tx, graphs, lost)
    return sum(1 for verdict in answers.values() if verdict is Verdict.ACCEPTED)


@frozen(kw_only=True)
class Rescue:
    """Bounded batches; who is skipped, because somebody holds its row, is found again by look_out."""

    store: Store
    graphs: Graphs
    steadiness: Steadiness
    dispatch: Dispatch
    at_most: int = 200
    pace = Pace(seconds=PATIENCE_SECONDS)
    wakes_on = (Topic.WORKER_CHANGED, Topic.ATTEMPT_LOST)

    async def step(self) -> Progress:
        workers = [worker.worker_id for worker in self.dispatch.executor.workers()]
        seen = await self.store.transact(rescue_stuck, self.graphs, workers, self.at_most)
        found = seen.taken_back
        if self.steadiness.is_long_enough:
            found += await self.store.transact(rescue_lost, self.graphs, self.at_most)
        with trio.move_on_after(WAIT_SECONDS) as patience:
            await self.dispatch.all_handed_over()
        if patience.cancelled_caught:
            return Progress.again(1.0)
        missing = await self._missing(workers, seen.started)
        if missing:
            self.dispatch.give_up(missing)
            found += await self.store.transact(rescue_missing, self.graphs, missing)
        return Progress.MORE if found >= self.at_most else Progress.IDLE

    async def _missing(self, workers: Collection[str], started: Mapping[str, str]) -> list[str]:
        """Those of the started attempts that never reach their worker. What ended meanwhile runs no more."""
        missing = self.dispatch.missing(started)
        if not missing:
            return []
        running = await self.store.read(tasks.running_at, workers)
        return sorted(missing & self.dispatch.missing(running))[: self.at_most]
