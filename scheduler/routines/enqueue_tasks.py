"""Admission: give slots to scheduled tasks by priority, within every limit, and hand them to the executor.

scheduled -> queued, with an attempt and its claim token. The owner of each limit is locked before its use is
counted: the run (max_active_tasks), the pools, and the row that owns the limit of the installation. Handed over
after the commit; if this process dies in between, rescue finds the attempt and takes it back.
"""

from collections.abc import Collection, Mapping

from attrs import field, frozen

from nurseries.routine import Pace, Progress
from scheduler.decisions.admission import Candidate, Room, admit, free, in_order
from scheduler.model import Workload
from scheduler.procedures.advance import Whereabouts
from scheduler.procedures.dispatch import Dispatch
from scheduler.procedures.placement import Admittee, Place, place
from scheduler.store import pools, runs, tasks
from scheduler.store.documents import Graphs
from scheduler.store.locks import Lock
from scheduler.store.pools import EVERYTHING
from scheduler.store.topics import Topic
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction, writer

PAGE = 500
"""Candidates looked at in one transaction."""
PAGES = 20
"""Pages in one step: past tasks whose run or pool is full, to those that can be admitted."""


@frozen(kw_only=True)
class Admitted:
    """What one transaction did."""

    workloads: tuple[Workload, ...] = ()
    whereabouts: Mapping[str, Whereabouts] = field(factory=dict)
    """By token."""
    seen: int = 0
    full_runs: frozenset[int] = frozenset()
    full_pools: frozenset[str] = frozenset()
    skipped: bool = False


@writer(Lock.DAG_RUN, Lock.POOL, Lock.TASK_INSTANCE)
async def admit_scheduled(
    tx: Transaction,
    graphs: Graphs,
    where: Place,
    slots: int,
    full_runs: Collection[int],
    full_pools: Collection[str],
) -> Admitted:
    """Admit up to `slots` tasks, looking past the runs and pools that are known to be full."""
    ready = await tasks.ready(tx, full_runs=full_runs, full_pools=full_pools, at_most=PAGE)
    if not ready:
        return Admitted()
    candidates = [
        Candidate(key=row["id"], run_pk=row["run_pk"], pool=row["pool"], pool_slots=row["pool_slots"]) for row in ready
    ]
    wanted_runs = {one.run_pk for one in candidates}
    held = await tx.lock(runs.CLAIM_RUNNING, keys=sorted(wanted_runs))
    names = {one.pool for one in candidates}
    await tx.lock(pools.LOCK_NAMED, names=sorted(names | {EVERYTHING}))
    facts = await tasks.run_facts(tx, held)
    known = await graphs.load(tx, {row["version_id"] for row in facts.values()})
    use = {row["name"]: free(row["slots"], int(row["used"])) for row in await pools.use(tx, names)}
    total = use.pop(EVERYTHING)
    room = Room(
        total=slots if total < 0 else min(slots, total),
        runs={key: max(0, known[row["version_id"]].dag.max_active_tasks - row["active"]) for key, row in facts.items()},
        pools=use,
    )
    decision = admit(candidates, room)
    taken = await tx.lock(tasks.LOCK_SCHEDULED, keys=sorted(decision.admitted))
    instances = await tasks.admitted(tx, taken)
    chosen = in_order([one for one in candidates if one.key in instances], decision.admitted)
    workloads, claims = [], []
    whereabouts = {}
    for one in chosen:
        row, run = instances[one.key], facts[one.run_pk]
        admittee = Admittee(
            key=one.key,
            task_index=row["task_index"],
            try_number=row["try_number"],
            max_tries=row["max_tries"],
            map_index=row["map_index"],
        )
        workload, claim = place(admittee, run, known[run["version_id"]], where)
        workloads.append(workload)
        claims.append(claim)
        whereabouts[claim.token] = Whereabouts(run_pk=one.run_pk, key=one.key, task_index=row["task_index"])
    if claims:
        await tasks.admit(tx, claims, daemon=where.daemon)
    return Admitted(
        workloads=tuple(workloads),
        whereabouts=whereabouts,
        seen=len(ready),
        full_runs=decision.full_runs,
        full_pools=decision.full_pools | (names - use.keys()),
        skipped=len(held) < len(wanted_runs),
    )


@frozen(kw_only=True)
class EnqueueTasks:
    """Who revisits a run that was skipped because somebody held it: this routine, 20 ms later."""

    store: Store
    graphs: Graphs
    dispatch: Dispatch
    pace = Pace(seconds=60)
    wakes_on = (Topic.TASK_SCHEDULED, Topic.SLOT_FREED, Topic.WORKER_CHANGED)

    async def step(self) -> Progress:
        full_runs: frozenset[int] = frozenset()
        full_pools: frozenset[str] = frozenset()
        skipped = False
        freed = self.dispatch.freed
        self.dispatch.somebody_waits = True
        for _ in range(PAGES):
            slots = self.dispatch.free_slots()
            if slots <= 0:
                return Progress.MORE if self.dispatch.freed != freed else Progress.IDLE
            done = await self.store.transact(
                admit_scheduled, self.graphs, self.dispatch.place, slots, full_runs, full_pools
            )
            await self.dispatch.hand_over(done.workloads, done.whereabouts)
            skipped = skipped or done.skipped
            looked_past = len(full_runs) + len(full_pools)
            full_runs |= done.full_runs
            full_pools |= done.full_pools
            if done.seen < PAGE or (not done.workloads and len(full_runs) + len(full_pools) == looked_past):
                self.dispatch.somebody_waits = done.seen > len(done.workloads) or bool(full_runs or full_pools)
                break
        if self.dispatch.somebody_waits and self.dispatch.freed != freed:
            return Progress.MORE  # slots came free while this looked, and whoever freed them may not have seen it wait
        return Progress.again(0.02) if skipped else Progress.IDLE
