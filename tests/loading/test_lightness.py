"""What every process near user code imports must be small: no event loop, no database, no command line."""

import subprocess
import sys

import pytest

HEAVY = ("trio", "asyncio", "sqlalchemy", "asyncpg", "typer", "rich", "alembic", "trio_asyncio")


@pytest.mark.parametrize(
    "start",
    [
        "import scheduler",
        "from scheduler import dag, task, DAG, TaskGroup, get_context",
        "import scheduler.loading.child",
    ],
)
def test_nothing_heavy_is_imported(start: str) -> None:
    script = f"import sys; {start}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(done.stdout.split())


def test_importing_the_package_alone_imports_nothing_of_it() -> None:
    script = "import sys, scheduler; print(*[name for name in sys.modules if name.startswith('scheduler.')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    done = subprocess.run([sys.executable, "-c", "from scheduler import nothing"], capture_output=True, text=True)
    assert "ImportError: cannot import name 'nothing'" in done.stderr
