"""The end of a session whose tests ran in two workers."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

TEST = """
import os
import re

from tests.interleavings.lockdep import LOCKDEP, Node, Taken
from tests.interleavings.report import part
from tests.stress.report import SEED, tell


def test_one_order_in_each_worker():
    number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    first, second = [Node("dag"), Node("pool")][:: 1 if number == 0 or not {circle} else -1]
    took = [Taken(node, "update", "a_writer", "a statement", "") for node in (first, second)]
    LOCKDEP.edges[first, second, "update", "update"] = tuple(took)
    LOCKDEP.modes.update({{first: {{"update"}}, second: {{"update"}}}})
    LOCKDEP.check()
    part("a part").count(plays=3)
    tell("a section", f"seed {{SEED}}")
"""


def session(folder: Path, *, circle: bool) -> tuple[int, str]:
    """Run the test in both of two workers; return the exit code, and what is printed."""
    (folder / "test_it.py").write_text(TEST.format(circle=circle))
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-n", "2", "--dist", "each", "--rootdir", folder]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ASYNCSCHED_STRESS_SEED": ""}
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(
        [*command, "-c", "/dev/null", folder], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


def test_figures_are_added_up_and_the_seed_is_one(tmp_path: Path) -> None:
    code, said = session(tmp_path, circle=False)
    assert code == 0, said
    assert "a part: 6 plays" in said
    assert "1 edges without a circle" in said
    told = re.findall(r"ASYNCSCHED_STRESS_SEED=(\d+)", said)
    assert len(told) == 3, "before the tests, and over each part of the report"
    (seed,) = set(told)
    assert said.count(f"a section: seed {seed}\n") == 2, said


def test_orders_that_make_a_circle_together_fail_the_session(tmp_path: Path) -> None:
    code, said = session(tmp_path, circle=True)
    assert "2 passed" in said
    assert "locks are taken in a circle: " in said
    assert code == 1, said
