"""N23: what is imported when, and what is never imported."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import nurseries

PACKAGE = Path(nurseries.__file__).parent


def modules_after(statement: str) -> set[str]:
    """The modules loaded by a fresh interpreter that runs this statement."""
    program = f"{statement}\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["processes", "supervisor", "shutdown", "watchdog", "testing"])
def test_n23_only_the_bridge_brings_asyncio(module: str) -> None:
    loaded = modules_after(f"import nurseries.{module}")
    assert "trio" in loaded
    assert not loaded & {"trio_asyncio", "sqlalchemy"}


@pytest.mark.parametrize("module", ["lifeline", "notify", "clock", "errors", "routine"])
def test_n23_what_children_import_is_light(module: str) -> None:
    assert not modules_after(f"import nurseries, nurseries.{module}") & {"trio", "trio_asyncio", "asyncio"}


def test_n23_nothing_here_imports_what_it_supervises_and_one_file_imports_asyncio() -> None:
    """And nothing ever asks the kernel for a parent-death signal: use a keeper or a lifeline."""
    for path in PACKAGE.glob("*.py"):
        text = path.read_text()
        assert not re.search(r"^\s*(from|import) scheduler", text, re.MULTILINE), path.name
        assert path.name == "bridge.py" or not re.search(r"^\s*(from|import) (trio_)?asyncio", text, re.MULTILINE)
        assert not re.search(r"prctl\([^)]*(PDEATHSIG|\b1\b, *\w*SIG)", text), path.name


def test_n23_every_public_name_can_be_had_from_the_package() -> None:
    for name in nurseries.__all__:
        assert getattr(nurseries, name).__name__ == name
    with pytest.raises(AttributeError):
        nurseries.no_such_name  # noqa: B018


def test_every_promise_has_a_test_that_names_it() -> None:
    promised = set(re.findall(r"^\* \*\*N(\d+)\*\*", (PACKAGE / "README.md").read_text(), re.MULTILINE))
    tests = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    tested = set(re.findall(r"def test_n(\d+)_", tests))
    assert promised
    assert promised == tested
