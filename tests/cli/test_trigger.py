"""`trigger`: what is sent, how the waiting ends."""

from pathlib import Path
from typing import Any

import pytest

from scheduler.control.protocol import Code, ControlError
from tests.cli.support import CommandLine, Daemon

QUEUED = {"dag_id": "etl", "run_id": "manual__1", "state": "queued"}


def ending(state: str, *, after: int = 0) -> Any:
    """Answers of `runs.wait`: running some times, then the state."""
    left = [after]

    def answer() -> Any:
        left[0] -= 1
        return QUEUED | {"state": "running" if left[0] >= 0 else state, "counts": {"success": 1, "running": 1}}

    return answer


@pytest.mark.parametrize(("state", "status"), [("success", 0), ("failed", 1)])
@pytest.mark.parametrize("rounds", [0, 2])
def test_wait_prints_run_id_and_state_and_exits_by_it(
    asyncsched: CommandLine, daemon: Daemon, state: str, status: int, rounds: int
) -> None:
    daemon.answers |= {"runs.trigger": QUEUED, "runs.wait": ending(state, after=rounds)}
    ended = asyncsched("trigger", "etl", "--wait", "--json")
    assert ended.status == status
    assert ended.json == {"run_id": "manual__1", "state": state}
    assert [op for op, _ in daemon.requests] == ["runs.trigger", *["runs.wait"] * (rounds + 1)]
    assert daemon.requests[1][1]["run"] == "etl/manual__1"


def test_without_wait_it_prints_the_new_run_and_succeeds(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers["runs.trigger"] = QUEUED
    assert asyncsched("trigger", "etl", "--json").json == {"run_id": "manual__1", "state": "queued"}
    assert asyncsched("trigger", "etl").out == "manual__1\tqueued\n"
    assert asyncsched("trigger", "etl", "-q").out == "manual__1\n"


def test_a_timeout_exits_7_and_says_that_the_run_goes_on(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers |= {"runs.trigger": QUEUED, "runs.wait": ending("success", after=1000)}
    ended = asyncsched("trigger", "etl", "--wait", "--timeout", "0", "--json")
    assert ended.status == 7
    assert ended.json["state"] == "running"
    assert "goes on" in ended.err


def test_a_terminal_sees_progress_and_the_result(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers |= {"runs.trigger": QUEUED, "runs.wait": ending("success", after=3)}
    shown = asyncsched.on_terminal("trigger", "etl", "--wait")
    assert shown.status == 0
    assert "1 of 2 tasks done" in shown.out
    assert "✔ success" in shown.out


@pytest.mark.parametrize(
    ("words", "conf"),
    [
        (["--conf", '{"a": 1}'], {"a": 1}),
        (["-p", "a=1", "-p", "b=Oslo", "-p", "c=[1, 2]", "-p", "d="], {"a": 1, "b": "Oslo", "c": [1, 2], "d": ""}),
        (["--conf", '{"a": 1, "b": 2}', "-p", "a=3"], {"a": 3, "b": 2}),
        (["-p", "x=y=z"], {"x": "y=z"}),
    ],
)
def test_conf_is_sent(asyncsched: CommandLine, daemon: Daemon, words: list[str], conf: Any) -> None:
    daemon.answers["runs.trigger"] = QUEUED
    assert asyncsched("trigger", "etl", *words).status == 0
    assert daemon.requests == [("runs.trigger", {"dag_id": "etl", "conf": conf})]


def test_conf_may_come_from_a_file_or_stdin(asyncsched: CommandLine, daemon: Daemon, tmp_path: Path) -> None:
    daemon.answers["runs.trigger"] = QUEUED
    path = tmp_path / "conf.json"
    path.write_text('{"a": 1}')
    assert asyncsched("trigger", "etl", "--conf", f"@{path}").status == 0
    assert asyncsched("trigger", "etl", "--conf", "-", stdin='{"a": 1}').status == 0
    assert [args["conf"] for _, args in daemon.requests] == [{"a": 1}, {"a": 1}]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--conf", "{"], "not JSON"),
        (["--conf", "[1]"], "JSON object"),
        (["--conf", '{"a": NaN}'], "NaN"),
        (["--conf", "@/no/such/file"], "/no/such/file"),
        (["-p", "nothing"], "KEY=VALUE"),
        (["-p", "=x"], "KEY=VALUE"),
    ],
)
def test_conf_that_makes_no_sense_is_a_usage_error_and_sends_nothing(
    asyncsched: CommandLine, daemon: Daemon, words: list[str], says: str
) -> None:
    ended = asyncsched("trigger", "etl", *words)
    assert ended.status == 2
    assert says in ended.err
    assert daemon.requests == []


def test_the_logical_date_is_sent_as_written(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers["runs.trigger"] = QUEUED
    asyncsched("trigger", "etl", "--logical-date", "2026-01-01T00:00:00Z", "--run-id", "mine")
    assert daemon.requests[0][1] == {"dag_id": "etl", "logical_date": "2026-01-01T00:00:00Z", "run_id": "mine"}


def test_an_unknown_dag_exits_3(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers["runs.trigger"] = ControlError(Code.NOT_FOUND, "there is no dag 'etl'")
    ended = asyncsched("trigger", "etl", "--wait", "--json")
    assert (ended.status, ended.out) == (3, "")
