"""A second migration, for tests: there is only one in production yet."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scheduler.store import migrate

SECOND = '''"""A change of the schema, for a test."""

from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in {statements!r}:
        op.execute(statement)
'''


@contextmanager
def further_migration(folder: Path, *changes: str) -> Iterator[list[str]]:
    """Within the block this version of asyncsched has one more migration for each of `changes`; their revisions."""
    scripts, before = folder / "migrations", migrate.head()
    if not scripts.exists():
        shutil.copytree(migrate.SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    revisions = [f"{int(before) + n + 1:04}" for n in range(len(changes))]
    for revision, last, change in zip(revisions, [before, *revisions], changes, strict=False):
        text = SECOND.format(revision=revision, before=last, statements=change.split("; "))
        (scripts / "versions" / f"{revision}_more.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "SCRIPTS", scripts)
        yield revisions
