"""Delete finished runs, their logs and dead seats once they are older than they need to be."""

import shutil
from datetime import timedelta
from functools import partial
from pathlib import Path

import trio
from attrs import frozen

from nurseries.routine import Pace, Progress
from scheduler.store import purge
from scheduler.store.locks import Lock, Mode
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction, writer

SEATS_KEPT = timedelta(days=1)


@writer(Lock.DAG_RUN, Lock.TASK_INSTANCE, mode=Mode.UPDATE)
async def purge_runs(tx: Transaction, keep: timedelta, at_most: int) -> list[int]:
    """Delete some runs that ended longer ago than `keep`, with all that belongs to them; return their keys."""
    runs = await tx.lock(purge.CLAIM_OLD_RUNS, before=tx.now - keep, at_most=at_most)
    if runs:
        instances = await tx.lock(purge.LOCK_INSTANCES, runs=runs)
        await purge.delete_runs(tx, runs, instances)
    return runs


@writer(Lock.SEAT, mode=Mode.UPDATE)
async def purge_seats(tx: Transaction, at_most: int) -> int:
    """Delete seats whose lease ended long ago and on which no attempt hangs."""
    seats = await tx.lock(purge.CLAIM_OLD_SEATS, before=tx.now - SEATS_KEPT, at_most=at_most)
    if seats:
        await purge.delete_seats(tx, seats)
    return len(seats)


@frozen(kw_only=True)
class Prune:
    """Small batches: a purge never holds much for long. Skipped runs are found at the next pace."""

    store: Store
    logs: Path
    keep: timedelta
    at_most: int = 50
    pace = Pace(seconds=600)
    wakes_on = ()

    async def step(self) -> Progress:
        runs = await self.store.transact(purge_runs, self.keep, self.at_most)
        for run_pk in runs:
            remove = partial(shutil.rmtree, self.logs / str(run_pk), ignore_errors=True)
            await trio.to_thread.run_sync(remove)
        seats = await self.store.transact(purge_seats, self.at_most)
        return Progress.MORE if self.at_most in (len(runs), seats) else Progress.IDLE
