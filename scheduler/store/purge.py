"""Delete what is old. Everything that deletes rows others refer to takes FOR UPDATE from its first lock on."""

from collections.abc import Collection

import sqlalchemy as sa

from scheduler.model import RunState
from scheduler.store import tables as t
from scheduler.store.locks import Lock, Mode, Wait, keys_param, locking
from scheduler.store.writer import Transaction

_instant = sa.DateTime(timezone=True)

CLAIM_OLD_RUNS = locking(
    Lock.DAG_RUN,
    sa.and_(
        t.dag_run.c.state.in_([RunState.SUCCESS, RunState.FAILED]),
        t.dag_run.c.end_date < sa.bindparam("before", type_=_instant),
    ),
    wait=Wait.SKIP,
    mode=Mode.UPDATE,
    limit=True,
)
LOCK_INSTANCES = locking(
    Lock.TASK_INSTANCE,
    t.task_instance.c.run_pk == sa.any_(keys_param("runs")),
    wait=Wait.WAIT,
    mode=Mode.UPDATE,
)
CLAIM_OLD_SEATS = locking(
    Lock.SEAT,
    sa.and_(
        t.seat.c.lease_until < sa.bindparam("before", type_=_instant),
        ~sa.exists().where(t.attempt.c.worker == t.seat.c.uuid, t.attempt.c.state == "running"),
        ~sa.exists().where(t.attempt.c.daemon == t.seat.c.uuid, t.attempt.c.state == "queued"),
    ),
    wait=Wait.SKIP,
    mode=Mode.UPDATE,
    limit=True,
)

_EVENTS = sa.text("DELETE FROM event WHERE run_pk = ANY(:keys)")
_XCOMS = sa.text("DELETE FROM xcom WHERE ti_id = ANY(:keys)")
_ATTEMPTS = sa.text("DELETE FROM attempt WHERE ti_id = ANY(:keys)")
_INSTANCES = sa.text("DELETE FROM task_instance WHERE id = ANY(:keys)")
_RUNS = sa.text("DELETE FROM dag_run WHERE id = ANY(:keys)")
_SEATS = sa.text("DELETE FROM seat WHERE id = ANY(:keys)")


async def delete_runs(tx: Transaction, runs: Collection[int], instances: Collection[int]) -> None:
    """Delete held runs with all their held instances and what belongs to them, children first."""
    of_runs, of_instances = {"keys": sorted(runs)}, {"keys": sorted(instances)}
    await tx.consume(t.event, runs, _EVENTS, of_runs)
    await tx.write_satellite(t.xcom, instances, _XCOMS, of_instances)
    await tx.write_satellite(t.attempt, instances, _ATTEMPTS, of_instances)
    await tx.write(Lock.TASK_INSTANCE, instances, _INSTANCES, of_instances)
    await tx.write(Lock.DAG_RUN, runs, _RUNS, of_runs)


async def delete_seats(tx: Transaction, seats: Collection[int]) -> None:
    """Delete held seats."""
    await tx.write(Lock.SEAT, seats, _SEATS, {"keys": sorted(seats)})
