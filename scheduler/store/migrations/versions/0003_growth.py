"""Indexes for what a long history, or thousands of dags, made slow: failed runs, and which dag is due."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX dag_run_failed ON dag_run (id) WHERE state = 'failed'")
    op.execute("CREATE INDEX dag_continuous ON dag (id) WHERE is_continuous AND is_present AND NOT is_paused")
