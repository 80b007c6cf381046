"""`dags check PATH`: DAG files are parsed here, in real child processes, without a daemon."""

from pathlib import Path

import pytest

from tests.cli.support import CommandLine

GOOD = """
from scheduler import dag, task

@dag(schedule=None)
def {name}():
    @task
    def only() -> int:
        return 1
    only()

{name}()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.py").write_text(GOOD.format(name="good"))
    return tmp_path


def test_what_init_writes_loads(asyncsched: CommandLine, tmp_path: Path) -> None:
    asyncsched("init", str(tmp_path))
    checked = asyncsched("dags", "check", str(tmp_path), "--json")
    assert (checked.status, checked.json) == (0, [])


def test_good_files_are_silent_in_a_pipe_and_counted_on_a_terminal(asyncsched: CommandLine, folder: Path) -> None:
    checked = asyncsched("dags", "check", str(folder))
    assert (checked.status, checked.out, checked.err) == (0, "", "")
    assert "1 file, 1 DAG" in asyncsched.on_terminal("dags", "check", str(folder)).out


def test_a_broken_file_is_named_with_its_line_and_the_status_is_8(asyncsched: CommandLine, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "broken.py").write_text("x = 1\ny = (\n")
    checked = asyncsched("dags", "check", str(folder), "--json")
    assert checked.status == 8
    (error,) = checked.json
    assert error["file"] == "sub/broken.py"
    assert error["line"] == 2
    assert set(error) == {"file", "line", "message"}
    assert asyncsched("dags", "check", str(folder)).out.startswith("sub/broken.py\t2\t")


def test_one_file_alone_can_be_checked(asyncsched: CommandLine, folder: Path) -> None:
    (folder / "broken.py").write_text("import no_such_module_here\n")
    assert asyncsched("dags", "check", str(folder / "good.py")).status == 0
    checked = asyncsched("dags", "check", str(folder / "broken.py"), "--json")
    assert checked.status == 8
    assert checked.json[0]["line"] == 1
    assert "no_such_module_here" in checked.json[0]["message"]


def test_an_id_in_two_files_is_an_error_of_the_second(asyncsched: CommandLine, folder: Path) -> None:
    (folder / "other.py").write_text(GOOD.format(name="good"))
    (error,) = asyncsched("dags", "check", str(folder), "--json").json
    assert error["file"] == "other.py"
    assert "good.py" in error["message"]


def test_a_path_that_is_not_there_exits_3(asyncsched: CommandLine, tmp_path: Path) -> None:
    assert asyncsched("dags", "check", str(tmp_path / "nothing")).status == 3
