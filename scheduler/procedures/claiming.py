"""What a transaction that moves runs on is about: who waits, and the locks on runs and on the owners of limits.

Locks: DAG_RUN (skipping); POOL (skipping for record_outcomes; not at all where no more slots are taken than come back).
"""

from collections.abc import Collection, Sequence, Set

from attrs import frozen

from scheduler.procedures.granting import Ready
from scheduler.procedures.turn import Turn
from scheduler.store import pools, runs, tasks
from scheduler.store.pools import EVERYTHING
from scheduler.store.writer import Transaction

PAGE = 500
"""Waiting tasks looked at in one transaction, at most."""
BEYOND = 100
"""How many more than there are slots for: some will be passed over, for their run or their pool is full."""


@frozen(kw_only=True)
class Look:
    """Look at those who wait, past the runs and pools that are known to be full."""

    full_runs: Collection[int] = ()
    full_pools: Collection[str] = ()


@frozen(kw_only=True)
class Claimed:
    """What this transaction is about, with its runs and the owners of its limits locked."""

    turn: Turn
    """Of the runs that were free."""
    waiting: Sequence[Ready]
    """Scheduled tasks, of any run."""
    page_is_full: bool
    """More may wait than were looked at."""
    wanted: int
    """Runs that it wanted."""
    runs: Sequence[int]
    """Runs that it got."""
    pools: Set[str]
    """Pools of all that may get a slot."""
    counted: bool
    """The pools are held."""


async def claim(tx: Transaction, turn: Turn, look: Look | None, *, slots: int, waits: bool) -> Claimed:
    """Lock what can be locked at once of the runs of this turn and of those who wait, then the pools they need.

    `waits`: for the pools, if somebody holds them.
    """
    page = min(PAGE, slots + BEYOND)
    waiting = await _waiting(tx, look, page) if look is not None and slots > 0 else []
    wanted = turn.plans.keys() | {one.run_pk for one in waiting}
    held = await tx.lock(runs.CLAIM_RUNNING, keys=sorted(wanted)) if wanted else []
    turn = turn.of([key for key in held if key in turn.plans])
    names: set[str] = set()
    if slots > 0:
        names = {turn.graph(key).tasks[i].pool for key, i in turn.ready()} | {one.pool for one in waiting}
    counted = await _lock_pools(tx, turn, names, look, waits=waits) if names else False
    return Claimed(
        turn=turn,
        waiting=waiting,
        page_is_full=len(waiting) == page,
        wanted=len(wanted),
        runs=held,
        pools=names,
        counted=counted,
    )


async def _lock_pools(tx: Transaction, turn: Turn, names: Collection[str], look: Look | None, *, waits: bool) -> bool:
    """Lock the owners of the limits, if slots may be taken beyond those that come back; are they held?

    If not: somebody else gives slots away at this moment, and whoever has attempts to end does not wait for him. He
    passes on what comes back; what finds no slot among that is left to enqueue_tasks, which waits, and takes all that
    has gathered by then.
    """
    keys = sorted({*names, EVERYTHING})
    if waits:
        await tx.lock(pools.LOCK_NAMED, names=keys)
        return True
    if look is None and turn.takes_no_more_than_it_gives():
        return False
    return len(await tx.lock(pools.CLAIM_NAMED, names=keys)) == len(keys)


async def _waiting(tx: Transaction, look: Look, at_most: int) -> list[Ready]:
    rows = await tasks.ready(tx, full_runs=look.full_runs, full_pools=look.full_pools, at_most=at_most)
    return [
        Ready(
            key=row["id"],
            run_pk=row["run_pk"],
            pool=row["pool"],
            pool_slots=row["pool_slots"],
            precedence=(-row["priority"], row["ready_order"], row["task_index"], row["id"]),
        )
        for row in rows
    ]
