"""Is anything left to do?"""

import sqlalchemy as sa

from scheduler.store.writer import Reading

_WORK = sa.text(
    "SELECT EXISTS (SELECT FROM dag_run r JOIN dag d ON d.id = r.dag_pk"
    "  WHERE r.state = 'running' OR (r.state = 'queued' AND NOT d.is_paused))"
    " OR EXISTS (SELECT FROM dag WHERE is_present AND NOT is_paused AND next_due <= :now) AS work"
)


async def is_there_work(tx: Reading) -> bool:
    """A run that is running or may start, or a slot that is due."""
    (row,) = await tx.fetch(_WORK, {"now": tx.now})
    return bool(row["work"])
