"""`runs clear|mark` and `tasks clear|mark`: what is asked of the daemon, what is printed, how it exits."""

from typing import Any

import pytest

from scheduler.control.protocol import Code, ControlError
from tests.cli.support import CommandLine, Daemon

RUN = {"dag_id": "etl", "run_id": "manual__1"}
LOAD = {"task_id": "load", "map_index": -1, "before": "failed", "after": "none", "is_stopped_first": False}
SLOW = LOAD | {"task_id": "slow", "before": "running", "is_stopped_first": True}
CLEARED = {
    "dry_run": False,
    "counts": {"runs": 1, "tasks": 2},
    "runs": [RUN | {"before": "failed", "after": "queued", "refused": None, "tasks": [LOAD, SLOW]}],
}
NOTHING: dict[str, Any] = {"dry_run": False, "counts": {"runs": 0, "tasks": 0}, "runs": []}
DEFAULTS = {"past": False, "future": False, "dry_run": False}
AROUND = {"upstream": False, "downstream": False}


@pytest.mark.parametrize(
    ("words", "op", "asked"),
    [
        (["runs", "clear", "etl"], "runs.clear", {"run": "etl", "only": None}),
        (
            ["runs", "clear", "etl", "--only-failed", "--past", "--dry-run"],
            "runs.clear",
            {"run": "etl", "only": ["failed", "upstream_failed"], "past": True, "dry_run": True},
        ),
        (["tasks", "clear", "etl/a", "etl/b"], "tasks.clear", {"tasks": ["etl/a", "etl/b"], "only": None} | AROUND),
        (
            ["tasks", "clear", "etl/a", "-u", "-d", "--future", "--only-running"],
            "tasks.clear",
            {"tasks": ["etl/a"], "upstream": True, "downstream": True, "future": True, "only": ["running"]},
        ),
        (["tasks", "mark", "skipped", "etl/a"], "tasks.mark", {"state": "skipped", "tasks": ["etl/a"]} | AROUND),
    ],
)
def test_what_is_asked_of_the_daemon(
    asyncsched: CommandLine, daemon: Daemon, words: list[str], op: str, asked: dict[str, Any]
) -> None:
    daemon.answers[op] = CLEARED
    done = asyncsched(*words, "--json")
    assert (done.status, done.json) == (0, CLEARED)
    ((name, arguments),) = daemon.requests
    assert name == op
    assert {key: value for key, value in arguments.items() if value is not None} == {
        key: value for key, value in (DEFAULTS | asked).items() if value is not None
    }


def test_changes_in_a_pipe_are_bare_columns_and_the_rest_is_said_aside(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers["tasks.clear"] = CLEARED
    done = asyncsched("tasks", "clear", "etl/load", "etl/slow")
    assert done.out.splitlines() == [
        "etl/manual__1\tload\tfailed\tnone\t",
        "etl/manual__1\tslow\trunning\tnone\twhen its attempt has been stopped",
    ]
    assert done.err == "etl/manual__1: failed, now queued.\n"


def test_changes_on_a_terminal_are_a_table(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers["runs.clear"] = CLEARED | {"dry_run": True}
    said = asyncsched.on_terminal("runs", "clear", "etl", "--dry-run", NO_COLOR="1").out
    assert "Becomes" in said
    assert "when its attempt has been stopped" in said
    assert "failed, would be queued" in said
    assert "Nothing was changed; it would be 2 tasks of 1 run." in said


def test_nothing_to_change_is_said(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers["runs.clear"] = NOTHING
    assert "Nothing to change" in asyncsched.on_terminal("runs", "clear", "etl").out
    assert asyncsched("runs", "clear", "etl").out == ""


def test_runs_that_are_left_alone_are_named_with_the_reason(asyncsched: CommandLine, daemon: Daemon) -> None:
    left = RUN | {"before": "running", "after": "running", "refused": "it is being ended: timeout", "tasks": []}
    daemon.answers["runs.clear"] = CLEARED | {"runs": [left]}
    assert "etl/manual__1 is left alone: it is being ended: timeout." in asyncsched("runs", "clear", "etl").err


@pytest.mark.parametrize(("state", "status"), [("success", 0), ("failed", 1), ("running", 7)])
def test_waiting_exits_as_the_run_ends(asyncsched: CommandLine, daemon: Daemon, state: str, status: int) -> None:
    daemon.answers["tasks.clear"] = CLEARED
    daemon.answers["runs.wait"] = RUN | {"state": state, "counts": {}}
    done = asyncsched("tasks", "clear", "etl/load", "--wait", "--timeout", "0.05")
    assert done.status == status
    assert [op for op, _ in daemon.requests][:2] == ["tasks.clear", "runs.wait"]


def test_a_run_is_marked(asyncsched: CommandLine, daemon: Daemon) -> None:
    marked = RUN | {"before": "running", "state": "success"}
    daemon.answers["runs.mark"] = marked
    done = asyncsched("runs", "mark", "success", "etl")
    assert (done.status, done.out) == (0, "etl/manual__1\n")
    assert "It ends as success once its running tasks have been stopped" in done.err
    assert daemon.requests == [("runs.mark", {"run": "etl", "state": "success"})]
    assert asyncsched("runs", "mark", "failed", "etl", "--json").json == marked


@pytest.mark.parametrize("words", [["runs", "mark", "skipped", "etl"], ["tasks", "mark", "running", "etl/load"]])
def test_a_state_that_cannot_be_given_is_wrong_usage(asyncsched: CommandLine, daemon: Daemon, words: list[str]) -> None:
    done = asyncsched(*words)
    assert done.status == 2
    assert daemon.requests == []


@pytest.mark.parametrize(("code", "status"), [(Code.CONFLICT, 4), (Code.NOT_FOUND, 3), (Code.USAGE, 2)])
def test_refusals_become_exit_codes(asyncsched: CommandLine, daemon: Daemon, code: Code, status: int) -> None:
    daemon.answers["runs.clear"] = ControlError(code, "no")
    assert asyncsched("runs", "clear", "etl").status == status
