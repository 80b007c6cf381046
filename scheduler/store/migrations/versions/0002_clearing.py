"""Clearing and marking: the state `restarting` holds a token, marks may wait, runs count their clears."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE dag_run ADD COLUMN clear_count integer NOT NULL DEFAULT 0")
    op.execute(
        "ALTER TABLE task_instance ADD COLUMN imposed text"
        " CONSTRAINT task_instance_imposed CHECK (imposed IN ('success', 'failed', 'skipped'))"
    )
    op.execute("ALTER TABLE task_instance DROP CONSTRAINT task_instance_active_ones_hold_a_token")
    op.execute(
        "ALTER TABLE task_instance ADD CONSTRAINT task_instance_active_ones_hold_a_token"
        " CHECK ((state IN ('queued', 'running', 'restarting')) = (token IS NOT NULL))"
    )
    op.execute(
        "ALTER TABLE task_instance ADD CONSTRAINT task_instance_only_what_runs_waits_for_a_mark"
        " CHECK (imposed IS NULL OR state IN ('running', 'restarting'))"
    )
    op.execute("DROP INDEX task_instance_active")
    op.execute(
        "CREATE INDEX task_instance_active ON task_instance (run_pk) WHERE state IN ('queued', 'running', 'restarting')"
    )
