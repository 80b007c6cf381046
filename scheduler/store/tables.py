"""The tables, as SQLAlchemy Core. Which rows are locked in which order is in `locks.py` and LOCKING.md.

Every lockable table has an immutable bigint primary key. Foreign keys exist only where the writer of the child
holds the parent's row, or inserted it, in the same transaction (LOCKING.md, "Foreign keys"); the others carry
a key without a constraint and say so. Nothing cascades.

A CHECK is there for what only it can tell, such as that an active instance has a token. That a state is one of the
known words is left to the code: PostgreSQL prepares all CHECKs of a table anew for every statement that writes to it,
and five more of them made a hop from task to task 12 % longer.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, UUID

metadata = sa.MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)

_instant = sa.DateTime(timezone=True)


def _pk() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True)


seat = sa.Table(
    "seat",
    metadata,
    _pk(),
    sa.Column("uuid", UUID(as_uuid=False), nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("hostname", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("home", sa.Text, nullable=False),
    sa.Column("started_at", _instant, nullable=False, server_default=sa.text("clock_timestamp()")),
    sa.Column("lease_until", _instant, nullable=False),
    comment="A daemon or a worker that is, or was, alive: judged by its lease and the database's clock",
)

dag_file = sa.Table(
    "dag_file",
    metadata,
    _pk(),
    sa.Column("path", sa.Text, nullable=False, unique=True),
    sa.Column("source_hash", sa.Text),
    sa.Column("error_line", sa.Integer),
    sa.Column("error_message", sa.Text),
    sa.Column("error_at", _instant),
    sa.Column("loaded_at", _instant, nullable=False),
    comment="A DAG file as last seen; error_* are set while it does not import",
)

dag = sa.Table(
    "dag",
    metadata,
    _pk(),
    sa.Column("dag_id", sa.Text, nullable=False, unique=True),
    sa.Column("file", sa.Text, nullable=False),
    sa.Column("is_present", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("is_paused", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("is_continuous", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("version_id", sa.BigInteger),  # dag_version, written under this row's lock: no constraint needed
    sa.Column("schedule", sa.Text, nullable=False),
    sa.Column("max_active_runs", sa.Integer, nullable=False),
    sa.Column("cursor", _instant),
    sa.Column("next_due", _instant),
    sa.Column("created_at", _instant, nullable=False, server_default=sa.text("clock_timestamp()")),
    comment="cursor: the last slot handled; next_due: when create_runs must look at this dag again",
)
sa.Index("dag_due", dag.c.next_due, postgresql_where=sa.and_(dag.c.is_present, sa.not_(dag.c.is_paused)))
sa.Index(
    "dag_continuous",
    dag.c.id,
    postgresql_where=sa.and_(dag.c.is_continuous, dag.c.is_present, sa.not_(dag.c.is_paused)),
)

dag_version = sa.Table(
    "dag_version",
    metadata,
    _pk(),
    sa.Column("dag_pk", sa.ForeignKey("dag.id"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("source_hash", sa.Text, nullable=False),
    sa.Column("created_at", _instant, nullable=False, server_default=sa.text("clock_timestamp()")),
    sa.UniqueConstraint("dag_pk", "number"),
    comment="Immutable: the canonical document and the text of the file it came from",
)
sa.Index("dag_version_source", dag_version.c.source_hash)

dag_run = sa.Table(
    "dag_run",
    metadata,
    _pk(),
    sa.Column("dag_pk", sa.ForeignKey("dag.id"), nullable=False),
    sa.Column("version_id", sa.BigInteger, nullable=False),  # dag_version: read under the dag's lock
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("run_type", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("verdict", sa.Text),
    sa.Column("logical_date", _instant),
    sa.Column("data_interval_start", _instant),
    sa.Column("data_interval_end", _instant),
    sa.Column("run_after", _instant, nullable=False),
    sa.Column("queued_at", _instant, nullable=False),
    sa.Column("start_date", _instant),
    sa.Column("end_date", _instant),
    sa.Column("conf", JSONB(none_as_null=True)),
    sa.Column("seq", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("clear_count", sa.Integer, nullable=False, server_default="0"),
    sa.UniqueConstraint("dag_pk", "run_id"),
    sa.UniqueConstraint("dag_pk", "logical_date"),
    sa.CheckConstraint("(state in ('success', 'failed')) = (end_date is not null)", name="finished_runs_have_an_end"),
    comment="seq counts the transactions that changed this run's instances under its lock",
)
sa.Index(
    "dag_run_unfinished",
    dag_run.c.dag_pk,
    dag_run.c.state,
    postgresql_where=dag_run.c.state.in_(["queued", "running"]),
)
sa.Index("dag_run_newest", dag_run.c.dag_pk, dag_run.c.id)
sa.Index("dag_run_end_date", dag_run.c.end_date)
sa.Index("dag_run_failed", dag_run.c.id, postgresql_where=dag_run.c.state == "failed")

pool = sa.Table(
    "pool",
    metadata,
    _pk(),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("slots", sa.Integer, nullable=False),
    sa.Column("description", sa.Text, nullable=False, server_default=""),
    comment="slots -1: unlimited. The row named '*' owns the limit of the whole installation",
)

task_instance = sa.Table(
    "task_instance",
    metadata,
    _pk(),
    sa.Column("run_pk", sa.ForeignKey("dag_run.id"), nullable=False),
    sa.Column("task_id", sa.Text, nullable=False),
    sa.Column("map_index", sa.Integer, nullable=False, server_default="-1"),
    sa.Column("task_index", sa.Integer, nullable=False),  # position in the version's topological order
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("try_number", sa.Integer, nullable=False, server_default="0"),
    sa.Column("max_tries", sa.Integer, nullable=False),
    sa.Column("losses", sa.Integer, nullable=False, server_default="0"),
    sa.Column("pool", sa.Text, nullable=False),
    sa.Column("pool_slots", sa.Integer, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("ready_order", _instant),  # the run's logical date, or its run_after: ties of priority
    sa.Column("retry_at", _instant),
    sa.Column("token", UUID(as_uuid=False)),  # of the live attempt; attempt.ti_id points here, never both ways
    sa.Column("decision", JSONB(none_as_null=True)),
    # marked while it ran: the state that comes when its attempt is proved to have ended
    sa.Column("imposed", sa.Text, sa.CheckConstraint("imposed in ('success', 'failed', 'skipped')", name="imposed")),
    sa.Column("start_date", _instant),
    sa.Column("end_date", _instant),
    sa.UniqueConstraint("run_pk", "task_index", "map_index"),
    sa.CheckConstraint(
        "(state in ('queued', 'running', 'restarting')) = (token is not null)", name="active_ones_hold_a_token"
    ),
    sa.CheckConstraint("imposed is null or state in ('running', 'restarting')", name="only_what_runs_waits_for_a_mark"),
    comment="One task in one run; keeps its key for life",
)
sa.Index(
    "task_instance_ready",
    task_instance.c.priority.desc(),
    task_instance.c.ready_order,
    task_instance.c.task_index,
    task_instance.c.id,
    postgresql_where=task_instance.c.state == "scheduled",
)
sa.Index(
    "task_instance_active",
    task_instance.c.run_pk,
    postgresql_where=task_instance.c.state.in_(["queued", "running", "restarting"]),
)

attempt = sa.Table(
    "attempt",
    metadata,
    sa.Column("token", UUID(as_uuid=False), primary_key=True),
    sa.Column("ti_id", sa.ForeignKey("task_instance.id"), nullable=False),
    sa.Column("try_number", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("daemon", UUID(as_uuid=False), nullable=False),  # seat.uuid of the daemon that admitted it
    sa.Column("worker", UUID(as_uuid=False)),  # seat.uuid of the worker that started it
    sa.Column("hostname", sa.Text),
    sa.Column("pid", sa.Integer),
    sa.Column("queued_at", _instant, nullable=False),
    sa.Column("started_at", _instant),
    sa.Column("ended_at", _instant),
    sa.Column("cancel_requested_at", _instant),
    sa.Column("cancel_reason", sa.Text),
    sa.Column("exit_code", sa.Integer),
    sa.Column("reason", sa.Text),
    sa.Column("message", sa.Text),
    sa.Column("report", sa.Text),  # digest of the accepted outcome: the same report again is accepted again
    sa.Column("log_path", sa.Text, nullable=False),
    comment="A satellite of its task instance: written only under that row's lock",
)
sa.Index("attempt_ti", attempt.c.ti_id, attempt.c.queued_at)
sa.Index("attempt_live", attempt.c.worker, postgresql_where=attempt.c.state.in_(["queued", "running"]))

xcom = sa.Table(
    "xcom",
    metadata,
    sa.Column("ti_id", sa.ForeignKey("task_instance.id"), primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    comment="JSON text; a satellite of its task instance",
)

event = sa.Table(
    "event",
    metadata,
    _pk(),
    sa.Column("run_pk", sa.BigInteger, nullable=False),  # no constraint: its writer holds only the instance
    sa.Column("ti_id", sa.BigInteger),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("due_at", _instant, nullable=False),
    comment="Work for schedule_tasks, consumed under the run's lock; a due_at in the future makes it a timer",
)
sa.Index("event_due", event.c.due_at, event.c.run_pk)
sa.Index("event_run", event.c.run_pk)
