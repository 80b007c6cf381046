"""Pools and their slots; usage.py counts how many are taken. The row named "*" owns the limit of the installation."""

import sqlalchemy as sa

from scheduler.store import tables as t
from scheduler.store.locks import Lock, Mode, Wait, locking
from scheduler.store.topics import Topic
from scheduler.store.writer import Transaction, writer

EVERYTHING = "*"

_named = t.pool.c.name == sa.any_(sa.bindparam("names", type_=sa.ARRAY(sa.Text)))
LOCK_NAMED = locking(Lock.POOL, _named, wait=Wait.WAIT)
CLAIM_NAMED = locking(Lock.POOL, _named, wait=Wait.SKIP)
LOCK_FOR_DELETION = locking(Lock.POOL, _named, wait=Wait.WAIT, mode=Mode.UPDATE)

_INSERT = sa.text(
    "INSERT INTO pool (name, slots, description) VALUES (:name, :slots, :description)"
    " ON CONFLICT DO NOTHING RETURNING id"
)
_UPDATE = sa.text(
    "UPDATE pool SET slots = :slots, description = coalesce(:description, description) WHERE id = ANY(:keys)"
)
_DELETE = sa.text("DELETE FROM pool WHERE id = ANY(:keys)")


@writer(Lock.POOL, inserts=(Lock.POOL,))
async def write_pool(tx: Transaction, name: str, slots: int, description: str | None) -> bool:
    """Create a pool or change it; True if it is new. Lowering the slots stops nothing that runs."""
    keys = await tx.lock(LOCK_NAMED, names=[name])
    tx.announce(Topic.SLOT_FREED)  # there may be more room now, or a pool that tasks have waited for
    parameters = {"name": name, "slots": slots, "description": description, "keys": keys}
    if keys:
        await tx.write(Lock.POOL, keys, _UPDATE, parameters)
        return False
    rows = await tx.insert(Lock.POOL, _INSERT, parameters | {"description": description or ""})
    return bool(rows)


_WAITING = sa.text(
    "SELECT count(*) AS n FROM task_instance ti JOIN dag_run r ON r.id = ti.run_pk AND r.state IN ('queued', 'running')"
    " WHERE ti.pool = :name AND ti.state IN ('none', 'scheduled', 'queued', 'running', 'restarting', 'up_for_retry')"
)


@writer(Lock.POOL, mode=Mode.UPDATE)
async def drop_pool(tx: Transaction, name: str) -> int | None:
    """Delete a pool; None: no such pool. Returns how many unfinished tasks need it, and then deletes nothing."""
    keys = await tx.lock(LOCK_FOR_DELETION, names=[name])
    if not keys:
        return None
    (row,) = await tx.fetch(_WAITING, {"name": name})
    if row["n"] == 0:
        await tx.write(Lock.POOL, keys, _DELETE, {"keys": keys})
    return int(row["n"])
