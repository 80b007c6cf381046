"""Admission: give slots to scheduled tasks by priority, within every limit, and hand them to the executor.

scheduled -> running, or -> queued where the start is asked for (procedures/placement.py), with an attempt and its
claim token. The owner of each limit is locked before its use is counted: the run (max_active_tasks), the pools, and
the row that owns the limit of the installation. Handed over after the commit; if this process dies in between,
rescue finds the attempt and takes it back.
"""

from attrs import frozen

from nurseries.routine import Pace, Progress
from scheduler.procedures.advance import Advanced, advance
from scheduler.procedures.claiming import Look
from scheduler.procedures.dispatch import Dispatch
from scheduler.procedures.pictures import Pictures
from scheduler.procedures.placement import Capacity
from scheduler.procedures.turn import Turn
from scheduler.store.documents import Graphs
from scheduler.store.locks import Lock
from scheduler.store.topics import Topic
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction, writer

PAGES = 20
"""Pages in one step: past tasks whose run or pool is full, to those that can be admitted."""


@writer(Lock.DAG_RUN, Lock.POOL, Lock.TASK_INSTANCE)
async def admit_scheduled(
    tx: Transaction, graphs: Graphs, pictures: Pictures, capacity: Capacity, look: Look
) -> Advanced:
    """Admit as many tasks as there is capacity for; those for which there is a berth are started, too."""
    return await advance(tx, graphs, pictures, Turn(), capacity, look, waits=True)


@frozen(kw_only=True)
class EnqueueTasks:
    """Who revisits a run that was skipped because somebody held it: this routine, 20 ms later."""

    store: Store
    graphs: Graphs
    pictures: Pictures
    dispatch: Dispatch
    pace = Pace(seconds=60)
    wakes_on = (Topic.TASK_SCHEDULED, Topic.SLOT_FREED, Topic.WORKER_CHANGED)

    async def step(self) -> Progress:
        full_runs: frozenset[int] = frozenset()
        full_pools: frozenset[str] = frozenset()
        skipped = waits = False
        freed = self.dispatch.freed
        self.dispatch.somebody_waits = True
        for _ in range(PAGES):
            capacity = self.dispatch.capacity()
            if capacity.slots <= 0:
                return Progress.MORE if self.dispatch.freed != freed else Progress.IDLE
            look = Look(full_runs=full_runs, full_pools=full_pools)
            with self.dispatch.admission():
                done = await self.store.transact(admit_scheduled, self.graphs, self.pictures, capacity, look)
                self.pictures.keep(done.pictures)
                await self.dispatch.hand_over(done.placed)
            skipped = skipped or done.skipped
            looked_past = len(full_runs) + len(full_pools)
            full_runs |= done.full_runs
            full_pools |= done.full_pools
            nobody = not done.placed.workloads and len(full_runs) + len(full_pools) == looked_past
            if not done.page_is_full or nobody:
                waits = done.passed_over or bool(full_runs or full_pools)
                break
        else:
            waits = True
        if self.dispatch.freed != freed:
            return Progress.MORE  # slots came free while this looked, and whoever freed them may not have seen it wait
        self.dispatch.somebody_waits = waits
        return Progress.again(0.02) if skipped else Progress.IDLE
