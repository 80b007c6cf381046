"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dag",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("dag_id", sa.Text(), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("is_present", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("is_paused", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("is_continuous", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("version_id", sa.BigInteger(), nullable=True),
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("max_active_runs", sa.Integer(), nullable=False),
        sa.Column("cursor", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_due", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("dag_pkey")),
        sa.UniqueConstraint("dag_id", name=op.f("dag_dag_id_key")),
        comment="cursor: the last slot handled; next_due: when create_runs must look at this dag again",
    )
    op.create_index(
        "dag_due", "dag", ["next_due"], unique=False, postgresql_where=sa.text("is_present AND NOT is_paused")
    )
    op.create_table(
        "dag_file",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("source_hash", sa.Text(), nullable=True),
        sa.Column("error_line", sa.Integer(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("error_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("loaded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("dag_file_pkey")),
        sa.UniqueConstraint("path", name=op.f("dag_file_path_key")),
        comment="A DAG file as last seen; error_* are set while it does not import",
    )
    op.create_table(
        "event",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("run_pk", sa.BigInteger(), nullable=False),
        sa.Column("ti_id", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("event_pkey")),
        comment="Work for schedule_tasks, consumed under the run's lock; a due_at in the future makes it a timer",
    )
    op.create_index("event_due", "event", ["due_at", "run_pk"], unique=False)
    op.create_index("event_run", "event", ["run_pk"], unique=False)
    op.create_table(
        "pool",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pool_pkey")),
        sa.UniqueConstraint("name", name=op.f("pool_name_key")),
        comment="slots -1: unlimited. The row named '*' owns the limit of the whole installation",
    )
    op.create_table(
        "seat",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("uuid", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("home", sa.Text(), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("seat_pkey")),
        sa.UniqueConstraint("uuid", name=op.f("seat_uuid_key")),
        comment="A daemon or a worker that is, or was, alive: judged by its lease and the database's clock",
    )
    op.create_table(
        "dag_run",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("dag_pk", sa.BigInteger(), nullable=False),
        sa.Column("version_id", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("run_type", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("logical_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("data_interval_start", sa.DateTime(timezone=True), nullable=True),
        sa.Column("data_interval_end", sa.DateTime(timezone=True), nullable=True),
        sa.Column("run_after", sa.DateTime(timezone=True), nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("start_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("conf", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "(state in ('success', 'failed')) = (end_date is not null)", name=op.f("dag_run_finished_runs_have_an_end")
        ),
        sa.ForeignKeyConstraint(["dag_pk"], ["dag.id"], name=op.f("dag_run_dag_pk_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("dag_run_pkey")),
        sa.UniqueConstraint("dag_pk", "logical_date", name=op.f("dag_run_dag_pk_logical_date_key")),
        sa.UniqueConstraint("dag_pk", "run_id", name=op.f("dag_run_dag_pk_run_id_key")),
        comment="seq counts the transactions that changed this run's instances under its lock",
    )
    op.create_index("dag_run_newest", "dag_run", ["dag_pk", "id"], unique=False)
    op.create_index("dag_run_end_date", "dag_run", ["end_date"], unique=False)
    op.create_index(
        "dag_run_unfinished",
        "dag_run",
        ["dag_pk", "state"],
        unique=False,
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_table(
        "dag_version",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("dag_pk", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_hash", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["dag_pk"], ["dag.id"], name=op.f("dag_version_dag_pk_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("dag_version_pkey")),
        sa.UniqueConstraint("dag_pk", "number", name=op.f("dag_version_dag_pk_number_key")),
        comment="Immutable: the canonical document and the text of the file it came from",
    )
    op.create_index("dag_version_source", "dag_version", ["source_hash"], unique=False)
    op.create_table(
        "task_instance",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("run_pk", sa.BigInteger(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("map_index", sa.Integer(), server_default="-1", nullable=False),
        sa.Column("task_index", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("try_number", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_tries", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), server_default="0", nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("pool_slots", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("ready_order", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("token", sa.UUID(as_uuid=False), nullable=True),
        sa.Column("decision", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("start_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_date", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state in ('queued', 'running')) = (token is not null)",
            name=op.f("task_instance_active_ones_hold_a_token"),
        ),
        sa.ForeignKeyConstraint(["run_pk"], ["dag_run.id"], name=op.f("task_instance_run_pk_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("task_instance_pkey")),
        sa.UniqueConstraint(
            "run_pk", "task_index", "map_index", name=op.f("task_instance_run_pk_task_index_map_index_key")
        ),
        comment="One task in one run; keeps its key for life",
    )
    op.create_index(
        "task_instance_active",
        "task_instance",
        ["run_pk"],
        unique=False,
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_index(
        "task_instance_ready",
        "task_instance",
        [sa.literal_column("priority DESC"), "ready_order", "task_index", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'scheduled'"),
    )
    op.create_table(
        "attempt",
        sa.Column("token", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("ti_id", sa.BigInteger(), nullable=False),
        sa.Column("try_number", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("daemon", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("worker", sa.UUID(as_uuid=False), nullable=True),
        sa.Column("hostname", sa.Text(), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_reason", sa.Text(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("report", sa.Text(), nullable=True),
        sa.Column("log_path", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["ti_id"], ["task_instance.id"], name=op.f("attempt_ti_id_fkey")),
        sa.PrimaryKeyConstraint("token", name=op.f("attempt_pkey")),
        comment="A satellite of its task instance: written only under that row's lock",
    )
    op.create_index(
        "attempt_live", "attempt", ["worker"], unique=False, postgresql_where=sa.text("state IN ('queued', 'running')")
    )
    op.create_index("attempt_ti", "attempt", ["ti_id", "queued_at"], unique=False)
    op.create_table(
        "xcom",
        sa.Column("ti_id", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["ti_id"], ["task_instance.id"], name=op.f("xcom_ti_id_fkey")),
        sa.PrimaryKeyConstraint("ti_id", "key", name=op.f("xcom_pkey")),
        comment="JSON text; a satellite of its task instance",
    )
    # room on the page for the next versions of a row that changes state four times in its life
    op.execute("ALTER TABLE task_instance SET (fillfactor = 80)")
    op.execute("ALTER TABLE attempt SET (fillfactor = 80)")
    # queue-like tables: vacuumed by what has died, whatever their size
    for table in ("event", "task_instance", "attempt", "dag", "seat"):
        op.execute(
            f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000)"
        )
    op.execute("INSERT INTO pool (name, slots, description) VALUES ('*', 32, 'the whole installation')")
    op.execute("INSERT INTO pool (name, slots, description) VALUES ('default_pool', 128, 'tasks that name no other')")
