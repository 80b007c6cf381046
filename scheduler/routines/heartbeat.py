"""Renew the leases of this daemon and of the workers that are connected and alive."""

from attrs import define, field

from nurseries.clock import Clock
from nurseries.routine import Pace, Progress
from scheduler.executors.base import Executor
from scheduler.store import seats
from scheduler.store.seats import BEAT_SECONDS, LEASE_SECONDS, Seat
from scheduler.store.topics import Topic
from scheduler.store.transaction import Store


@define(kw_only=True, eq=False)
class Heartbeat:
    """One statement on one row for each seat, on connections no burst of work can take."""

    store: Store
    executor: Executor
    clock: Clock
    seat: Seat
    pace = Pace(seconds=BEAT_SECONDS)
    wakes_on = (Topic.WORKER_CHANGED,)
    _known: set[str] = field(factory=set, init=False)

    async def step(self) -> Progress:
        await seats.beat(self.store, self.seat.uuid)
        now = self.clock.monotonic()
        workers = self.executor.workers()
        for worker in workers:
            if now - worker.last_heard > LEASE_SECONDS:
                continue  # silent: its lease may end
            if worker.worker_id not in self._known or not await seats.beat(self.store, worker.worker_id):
                await seats.register(
                    self.store,
                    Seat(
                        uuid=worker.worker_id,
                        kind="worker",
                        hostname=worker.hostname,
                        pid=worker.pid,
                        home=self.seat.home,
                    ),
                )
        self._known = {worker.worker_id for worker in workers}
        return Progress.IDLE
