"""Rules that matter, as tests whose messages name the replacement."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = sorted([*(ROOT / "scheduler").rglob("*.py"), *(ROOT / "nurseries").rglob("*.py")])
ROUTINES = sorted(path for path in (ROOT / "scheduler" / "routines").glob("*.py") if path.name != "__init__.py")


def without_prose(source: str) -> str:
    """The code without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            bare = [one for one in body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
            node.body = bare or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def offenders(pattern: str, *, allowed: set[str], within: list[Path] = CODE) -> list[str]:
    found = []
    for path in within:
        name = str(path.relative_to(ROOT))
        if name not in allowed:
            lines = without_prose(path.read_text()).splitlines()
            found += [f"{name}: {line.strip()}" for line in lines if re.search(pattern, line)]
    return found


LOCKS, TRANSACTION = "scheduler/store/locks.py", "scheduler/store/transaction.py"


def test_locking_clauses_live_in_one_module() -> None:
    pattern = r"with_for_update|FOR (NO KEY )?UPDATE|FOR (KEY )?SHARE|LOCK TABLE|advisory_(xact_)?lock\("
    assert not offenders(pattern, allowed={LOCKS}), "use tx.lock with a statement made by locks.locking"


def test_commits_live_in_one_module() -> None:
    pattern = r"\.(commit|rollback|begin|begin_nested)\("
    assert not offenders(pattern, allowed={TRANSACTION}), "use store.transact"


def test_writers_live_where_the_proof_looks_for_them() -> None:
    rooms = ("scheduler/store/", "scheduler/procedures/", "scheduler/commands/", "scheduler/routines/")
    elsewhere = [path for path in CODE if not str(path.relative_to(ROOT)).startswith(rooms)]
    pattern = r"@writer\b|\bWriter\("
    assert not offenders(pattern, allowed=set(), within=elsewhere), f"a writer belongs to one of {rooms}"
    assert not offenders(r"\bWriter\(", allowed={"scheduler/store/writer.py"}), "register it: @writer(locks...)"


def test_transactions_of_one_statement_live_in_one_module() -> None:
    assert not offenders(r"\.single\(", allowed={"scheduler/store/seats.py"}), "use store.transact with a writer"


def test_time_is_taken_from_a_clock_or_from_the_transaction() -> None:
    deciding = [path for path in CODE if set(path.parts) & {"decisions", "timetables", "model", "procedures"}]
    pattern = r"datetime\.(now|utcnow)|time\.time\(|date\.today|random\."
    assert not offenders(pattern, allowed=set(), within=deciding), "take `now` as an argument"


def test_routines_neither_loop_nor_sleep_nor_catch_everything() -> None:
    pattern = r"while True:|trio\.sleep|except Exception|except BaseException|import logging"
    assert not offenders(pattern, allowed=set(), within=ROUTINES), "the supervisor does this"


def test_each_routine_is_one_class_with_a_step_and_the_daemon_lists_it() -> None:
    listed = "".join((ROOT / "scheduler" / name).read_text() for name in ("assembly.py", "daemon.py"))
    for path in ROUTINES:
        tree = ast.parse(path.read_text())
        steps = [
            node.name
            for node in tree.body
            if isinstance(node, ast.ClassDef)
            and any(isinstance(part, ast.AsyncFunctionDef) and part.name == "step" for part in node.body)
        ]
        assert len(steps) == 1, f"{path.name}: one class with a step, not {steps}"
        assert f"{steps[0]}(" in listed, f"{steps[0]} is not in the daemon's list of routines"


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, "begin with a sentence that says what this module is for"


def test_parent_death_signals_are_not_used() -> None:
    found = offenders(r"PDEATHSIG|pdeathsig", allowed=set())
    assert not found, "trio starts processes from threads that end: use a lifeline (nurseries/lifeline.py)"


def test_nothing_of_this_machine_is_in_the_tree() -> None:
    pattern = re.compile(r"/(root|home/[a-z]+|work|tmp/venv)/")
    for path in [*CODE, *(ROOT / "tests").rglob("*.py"), *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        if path.name != "test_tidy.py":
            assert not pattern.search(path.read_text()), (
                f"{path.relative_to(ROOT)}: an absolute path of somebody's machine"
            )
