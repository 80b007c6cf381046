"""Columns of states hold known words only: the tables have always said so, the migrations had not."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # one ALTER for a table: it is read once
    op.execute("ALTER TABLE seat ADD CONSTRAINT seat_kind CHECK (kind IN ('daemon', 'worker'))")
    op.execute(
        "ALTER TABLE dag_run"
        " ADD CONSTRAINT dag_run_type CHECK (run_type IN ('scheduled', 'manual')),"
        " ADD CONSTRAINT dag_run_state CHECK (state IN ('queued', 'running', 'success', 'failed')),"
        " ADD CONSTRAINT dag_run_verdict CHECK (verdict IN ('timeout', 'cancelled', 'marked success', 'marked failed'))"
    )
    op.execute("ALTER TABLE pool ADD CONSTRAINT pool_slots CHECK (slots >= -1)")
    op.execute(
        "ALTER TABLE task_instance ADD CONSTRAINT task_instance_state CHECK (state IN ('none', 'scheduled', 'queued',"
        " 'running', 'restarting', 'up_for_retry', 'success', 'failed', 'skipped', 'upstream_failed', 'removed'))"
    )
    op.execute(
        "ALTER TABLE attempt ADD CONSTRAINT attempt_state CHECK (state IN"
        " ('queued', 'running', 'success', 'failed', 'skipped', 'lost', 'revoked'))"
    )
