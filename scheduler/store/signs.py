"""Signs that there is work, for many routines in one question: cheaper than each of them looking for itself.

Each sign is what the routine of its topic looks for, or wider: a sign too many costs one step that finds nothing,
a sign too few would leave work lying until that routine's own pace.
"""

import sqlalchemy as sa
from attrs import frozen

from scheduler.store.topics import Topic
from scheduler.store.writer import Reading

_UNFINISHED = "(SELECT count(*) FROM dag_run u WHERE u.dag_pk = d.id AND u.state IN ('queued', 'running'))"
_SIGNS = {
    Topic.EVENT_APPENDED: "SELECT FROM event WHERE due_at <= :now AND kind <> 'timeout'",
    Topic.TIMER_SET: "SELECT FROM event WHERE due_at <= :now AND kind = 'timeout'",
    Topic.TASK_SCHEDULED: (
        "SELECT FROM task_instance ti"
        " JOIN dag_run r ON r.id = ti.run_pk AND r.state = 'running' AND r.verdict IS NULL"
        " JOIN dag d ON d.id = r.dag_pk AND NOT d.is_paused WHERE ti.state = 'scheduled'"
    ),
    Topic.RUN_QUEUED: (
        "SELECT FROM dag d JOIN dag_run r ON r.dag_pk = d.id AND r.state = 'queued'"
        " WHERE NOT d.is_paused AND r.run_after <= :now AND d.max_active_runs >"
        " (SELECT count(*) FROM dag_run a WHERE a.dag_pk = d.id AND a.state = 'running')"
    ),
    Topic.DAG_DUE: (
        "SELECT FROM dag d WHERE d.is_present AND NOT d.is_paused"
        f" AND ((d.next_due <= :now AND {_UNFINISHED} < d.max_active_runs)"
        f" OR (d.is_continuous AND {_UNFINISHED} = 0))"
    ),
    Topic.ATTEMPT_LOST: (
        "SELECT FROM attempt a LEFT JOIN seat s ON s.uuid = a.daemon WHERE a.state = 'queued'"
        " AND (a.queued_at < CAST(:now AS timestamptz) - make_interval(secs => :patience)"
        " OR s.lease_until IS NULL OR s.lease_until < :now)"
        " UNION ALL SELECT FROM seat s WHERE s.kind = 'worker' AND s.lease_until < :now"
        " AND EXISTS (SELECT FROM attempt a WHERE a.worker = s.uuid AND a.state = 'running')"
    ),
}
_COMPANY = "SELECT FROM seat WHERE kind = 'daemon' AND lease_until > :now AND uuid <> CAST(:daemon AS uuid)"
_LOOK = sa.text(
    "SELECT "
    + ", ".join(f"EXISTS ({query}) AS {topic}" for topic, query in _SIGNS.items())
    + f", EXISTS ({_COMPANY}) AS has_company"
)


@frozen(kw_only=True)
class Signs:
    """What was seen at one moment."""

    topics: tuple[Topic, ...]
    """Those for which there is something to do."""
    has_company: bool
    """Other daemons work on this database."""


async def look(tx: Reading, *, daemon: str, patience: float) -> Signs:
    """Look for the daemon of this uuid. `patience`: how long an attempt may be queued, in seconds."""
    (row,) = await tx.fetch(_LOOK, {"now": tx.now, "daemon": daemon, "patience": patience})
    return Signs(topics=tuple(topic for topic in _SIGNS if row[topic]), has_company=row["has_company"])
