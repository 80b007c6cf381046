"""`logs`: what is printed of which file, how following ends, what is said of a log that is not there."""

from pathlib import Path
from typing import Any

import pytest

from scheduler.cli.log_reader import clean
from tests.cli.support import CommandLine, Daemon


def log(path: Path | str, task_id: str = "extract", *, state: str = "success", try_number: int = 1) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "map_index": -1,
        "try_number": try_number,
        "state": state,
        "start_date": "2026-01-01T00:00:00.000000Z",
        "end_date": None if state == "running" else "2026-01-01T00:00:01.000000Z",
        "hostname": "elsewhere",
        "message": "killed by SIGKILL" if state == "failed" else None,
        "path": str(path),
    }


def located(*logs: dict[str, Any], unfinished: bool = False) -> dict[str, Any]:
    return {
        "dag_id": "etl",
        "run_id": "manual__1",
        "state": "running" if unfinished else "success",
        "unfinished": unfinished,
        "logs": list(logs),
    }


def test_one_log_is_printed_as_it_is(asyncsched: CommandLine, daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "1.log"
    path.write_bytes(b"one\ntwo \xc3\xa4\n")
    daemon.answers["logs.locate"] = located(log(path))
    assert asyncsched("logs", "manual__1/extract#1").out == "one\ntwo ä\n"
    assert daemon.requests == [("logs.locate", {"of": "manual__1/extract#1"})]


def test_several_logs_have_headings(asyncsched: CommandLine, daemon: Daemon, tmp_path: Path) -> None:
    first, second = tmp_path / "1.log", tmp_path / "2.log"
    first.write_text("one\n")
    second.write_text("two\n")
    daemon.answers["logs.locate"] = located(log(first), log(second, "load", try_number=2))
    assert asyncsched("logs", "manual__1").out == "==> extract#1 <==\none\n\n==> load#2 <==\ntwo\n"


@pytest.mark.parametrize(
    ("content", "count", "last"),
    [
        (b"1\n2\n3\n", 2, b"2\n3\n"),
        (b"1\n2\n3", 2, b"2\n3"),
        (b"1\n2\n3\n", 0, b""),
        (b"1\n2\n", 5, b"1\n2\n"),
        (b"", 5, b""),
        (b"\n\n\n", 2, b"\n\n"),
        (b"a" * 70_000 + b"\n" + b"b" * 70_000 + b"\n", 1, b"b" * 70_000 + b"\n"),
        (b"x\n" * 100_000, 40_000, b"x\n" * 40_000),
    ],
)
def test_only_the_last_lines_are_printed(
    asyncsched: CommandLine, daemon: Daemon, tmp_path: Path, content: bytes, count: int, last: bytes
) -> None:
    path = tmp_path / "1.log"
    path.write_bytes(content)
    daemon.answers["logs.locate"] = located(log(path))
    assert asyncsched("logs", "manual__1", "-n", str(count)).out.encode() == last


def test_following_prints_what_is_written_meanwhile_and_ends_with_the_run(
    asyncsched: CommandLine, daemon: Daemon, tmp_path: Path
) -> None:
    path = tmp_path / "1.log"
    looks = iter(range(100))

    def locate() -> Any:
        look = next(looks)
        if look == 0:
            return located(unfinished=True)
        with path.open("a") as stream:
            stream.write(f"line {look}\n")
        return located(log(path, state="running" if look < 3 else "success"), unfinished=look < 3)

    daemon.answers["logs.locate"] = locate
    ended = asyncsched("logs", "-f", "etl")
    assert (ended.status, ended.out) == (0, "==> extract#1 <==\nline 1\nline 2\nline 3\n")
    # After the first look it keeps to the run it began with.
    assert [args["of"] for _, args in daemon.requests] == ["etl", *["etl/manual__1"] * 3]


@pytest.mark.parametrize(
    ("asked", "exact"),
    [
        ("manual__1/extract", "etl/manual__1/extract"),
        ("etl/extract#2", "etl/manual__1/extract#2"),
        ("etl/manual__1", "etl/manual__1"),
        ("etl/manual__1/extract#1", "etl/manual__1/extract#1"),
    ],
)
def test_following_spells_the_task_out(asyncsched: CommandLine, daemon: Daemon, asked: str, exact: str) -> None:
    looks = iter([located(unfinished=True), located()])
    daemon.answers["logs.locate"] = lambda: next(looks)
    asyncsched("logs", "-f", asked)
    assert [args["of"] for _, args in daemon.requests] == [asked, exact]


@pytest.mark.parametrize(
    ("state", "says"),
    [("failed", "killed by SIGKILL"), ("success", "elsewhere"), ("running", "written nothing yet")],
)
def test_a_log_that_is_missing_is_explained(
    asyncsched: CommandLine, daemon: Daemon, tmp_path: Path, state: str, says: str
) -> None:
    daemon.answers["logs.locate"] = located(log(tmp_path / "gone.log", state=state))
    ended = asyncsched("logs", "manual__1")
    assert (ended.status, ended.out) == (0, "")
    assert says in ended.err


def test_a_run_that_has_not_begun_has_no_log_yet(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers["logs.locate"] = located(unfinished=True)
    assert "no log" in asyncsched("logs", "manual__1").err


def test_json_lists_the_files(asyncsched: CommandLine, daemon: Daemon, tmp_path: Path) -> None:
    daemon.answers["logs.locate"] = located(log(tmp_path / "1.log"))
    assert asyncsched("logs", "manual__1", "--json").json == [log(tmp_path / "1.log")]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"\x1b[31mred\x1b[0m\n", b"\x1b[31mred\x1b[0m\n"),
        (b"\x1b[2J\x1b[Hgone", b"gone"),
        (b"\x1b]0;title\x07x", b"x"),
        (b"\x1b]52;c;ZXZpbA==\x1b\\x", b"x"),
        (b"\x1bP1$r\x1b\\x", b"x"),
        (b"\x1bcx", b"x"),
        (b"a\x08b\x00c\x7f\td\r\n", b"abc\td\n"),
        ("ä\u009b2Jb".encode(), "ä2Jb".encode()),
        (b"\x1b", b""),
    ],
)
def test_only_colours_reach_a_terminal(written: bytes, shown: bytes) -> None:
    assert clean(written) == shown


def test_a_terminal_gets_clean_logs(asyncsched: CommandLine, daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "1.log"
    path.write_bytes(b"\x1b[32mok\x1b[0m \x1b]0;title\x07done\n")
    daemon.answers["logs.locate"] = located(log(path))
    assert asyncsched.on_terminal("logs", "manual__1").out == "\x1b[32mok\x1b[0m done\n"
