"""`init`: a first DAG file that is really there and really runs."""

import ast
from pathlib import Path

from tests.cli.support import CommandLine


def test_it_writes_a_file_and_says_what_to_type_next(asyncsched: CommandLine, tmp_path: Path) -> None:
    made = asyncsched("init", str(tmp_path / "my" / "dags"))
    assert made.status == 0
    assert made.out == f"{tmp_path}/my/dags/hello.py\n"
    assert f"asyncsched run {tmp_path}/my/dags" in made.err
    ast.parse((tmp_path / "my" / "dags" / "hello.py").read_text())


def test_it_never_overwrites(asyncsched: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("mine")
    refused = asyncsched("init", str(tmp_path))
    assert refused.status == 4
    assert "left as it is" in refused.err
    assert (tmp_path / "hello.py").read_text() == "mine"


def test_a_file_in_the_way_is_named(asyncsched: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "dags").write_text("a file")
    refused = asyncsched("init", str(tmp_path / "dags"))
    assert refused.status == 4
    assert str(tmp_path / "dags") in refused.err
