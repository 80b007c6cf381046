"""Tell workers which of their attempts are to be stopped. Asked for again until they have ended."""

from attrs import frozen

from nurseries.routine import Pace, Progress
from scheduler.executors.base import Executor
from scheduler.store import tasks
from scheduler.store.topics import Topic
from scheduler.store.transaction import Store


@frozen(kw_only=True)
class CancelAttempts:
    """Reads only: the request is in the attempt's row, and the report that it ended comes from the worker."""

    store: Store
    executor: Executor
    pace = Pace(seconds=5)
    wakes_on = (Topic.CANCEL_REQUESTED, Topic.WORKER_CHANGED)

    async def step(self) -> Progress:
        workers = [worker for worker in self.executor.workers() if worker.running]
        if workers:
            for token, reason in await self.store.read(tasks.cancels, [worker.worker_id for worker in workers]):
                self.executor.cancel(token, reason)
        return Progress.IDLE
