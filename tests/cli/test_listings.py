"""What listings print: promised JSON, bare columns in a pipe, dressed tables on a terminal."""

from typing import Any

import pytest

from scheduler.control.protocol import Code, ControlError
from tests.cli.support import CommandLine, Daemon

WHEN = "2026-01-01T00:00:00.000000Z"
LATER = "2026-01-01T00:00:01.500000Z"

DAG = {
    "dag_id": "etl",
    "schedule": "0 3 * * *",
    "paused": False,
    "file": "etl.py",
    "next_run": WHEN,
    "present": True,
    "unfinished_runs": 1,
    "last_run_id": "manual__1",
    "last_state": "running",
    "last_start_date": WHEN,
    "last_end_date": None,
}
RUN = {
    "dag_id": "etl",
    "run_id": "manual__1",
    "run_type": "manual",
    "state": "failed",
    "logical_date": None,
    "start_date": WHEN,
    "end_date": LATER,
}
TASK = {
    "task_id": "extract",
    "map_index": -1,
    "state": "failed",
    "try_number": 2,
    "start_date": WHEN,
    "end_date": LATER,
}
DETAIL = {
    "verdict": None,
    "conf": {"city": "Oslo"},
    "version": 3,
    "run_after": WHEN,
    "queued_at": WHEN,
    "data_interval_start": None,
    "data_interval_end": None,
}
SHOWN_RUN = {"run": RUN | {"tasks": [TASK]}, "detail": DETAIL, "messages": ["ValueError: no\ttabs\nhere"]}
TASK_LINE = TASK | {
    "max_tries": 1,
    "pool": "default_pool",
    "pool_slots": 1,
    "priority": 1,
    "retry_at": None,
    "hostname": "here",
    "reason": "exception",
    "message": "ValueError: no",
}
SHOWN_TASK = (
    {"dag_id": "etl", "run_id": "manual__1"}
    | TASK_LINE
    | {
        "results": {"return_value": {"rows": 3}},
        "attempts": [
            {
                "token": "9f1b6c1e-0000-4000-8000-000000000000",
                "try_number": 2,
                "state": "failed",
                "queued_at": WHEN,
                "start_date": WHEN,
                "end_date": LATER,
                "hostname": "here",
                "pid": 4242,
                "exit_code": -9,
                "reason": "signal",
                "message": "killed by SIGKILL",
                "log_path": "/logs/1/2.log",
            }
        ],
    }
)
POOL = {"name": "http", "slots": 4, "used": 1, "waiting": 2, "description": "the API"}
ERROR = {"file": "broken.py", "line": 3, "message": "SyntaxError: invalid syntax"}
STATUS = {
    "protocol": "asyncsched/control/v1",
    "version": "0.1.0",
    "pid": 77,
    "home": "/srv/home",
    "dags_dir": "/srv/dags",
    "database": "embedded PostgreSQL 18.6",
    "started_at": WHEN,
    "ready": True,
    "workers": [{"worker_id": "w", "pid": 78, "hostname": "here", "slots": 32, "running": 3, "draining": False}],
    "routines": {},
    "database_away": None,
    "dags": {"total": 4, "paused": 1, "import_errors": 1},
    "runs": {"running": 2},
    "tasks": {"running": 3, "queued": 1},
    "next": [{"dag_id": "etl", "next_run": WHEN}],
    "failed": [RUN],
}


def test_dags_list_json_is_exactly_as_promised(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers["dags.list"] = [DAG]
    promised = {"dag_id": "etl", "schedule": "0 3 * * *", "paused": False, "file": "etl.py", "next_run": WHEN}
    assert asyncsched("dags", "list", "--json").json == [promised]


def test_runs_show_json_is_exactly_as_promised(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers["runs.show"] = SHOWN_RUN
    shown = asyncsched("runs", "show", "manual__1", "--json").json
    assert shown == RUN | {"tasks": [TASK]}
    assert list(shown) == [*RUN, "tasks"]
    assert daemon.requests == [("runs.show", {"run": "manual__1"})]


def test_dags_check_json_is_exactly_as_promised_and_errors_exit_8(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers["dags.check"] = [ERROR]
    checked = asyncsched("dags", "check", "--json")
    assert (checked.status, checked.json) == (8, [ERROR])
    daemon.answers["dags.check"] = []
    checked = asyncsched("dags", "check", "--json")
    assert (checked.status, checked.json) == (0, [])


@pytest.mark.parametrize(
    ("words", "op", "answer", "printed"),
    [
        (["runs", "list"], "runs.list", {"items": [RUN], "next": None}, [RUN]),
        (["tasks", "list", "etl"], "tasks.list", [TASK_LINE], [TASK_LINE]),
        (["tasks", "show", "etl/extract"], "tasks.show", [SHOWN_TASK], [SHOWN_TASK]),
        (["pools", "list"], "pools.list", [POOL], [POOL]),
        (["status"], "status", STATUS, STATUS),
        (["dags", "next", "etl"], "dags.next", [], []),
        (["dags", "pause", "etl"], "dags.pause", {"dag_id": "etl", "paused": True}, {"dag_id": "etl", "paused": True}),
        (["pools", "set", "x", "-1"], "pools.set", {"name": "x", "slots": -1}, {"name": "x", "slots": -1}),
        (["pools", "delete", "x"], "pools.delete", {"name": "x"}, {"name": "x"}),
        (["runs", "cancel", "r"], "runs.cancel", {"dag_id": "d", "run_id": "r"}, {"dag_id": "d", "run_id": "r"}),
        (
            ["db", "check"],
            "db.check",
            {"current": "1", "head": "1", "is_current": True},
            {"current": "1", "head": "1", "is_current": True},
        ),
    ],
)
def test_json_is_one_document_on_stdout(
    asyncsched: CommandLine, daemon: Daemon, words: list[str], op: str, answer: Any, printed: Any
) -> None:
    daemon.answers[op] = answer
    ended = asyncsched(*words, "--json")
    assert ended.status == 0, ended.err
    assert ended.json == printed
    assert ended.err == ""


def test_a_pipe_gets_tab_separated_columns_without_decoration(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers["dags.list"] = [DAG]
    assert asyncsched("dags", "list").out == f"etl\tactive\t0 3 * * *\t{WHEN}\trunning\t{WHEN}\tetl.py\n"
    daemon.answers["runs.list"] = {"items": [RUN], "next": None}
    assert asyncsched("runs", "list").out == f"etl\tmanual__1\tfailed\t{WHEN}\t1.500000\n"


def test_a_value_never_adds_a_column_or_a_row_or_an_escape(asyncsched: CommandLine, daemon: Daemon) -> None:
    hostile = SHOWN_RUN | {"messages": ["a\tb\nc \x1b]0;title\x07"]}
    daemon.answers["runs.show"] = hostile
    piped = asyncsched("runs", "show", "manual__1").out
    assert piped.count("\n") == 1
    assert piped.count("\t") == 5
    assert "\x1b" not in piped
    assert "\x1b]" not in asyncsched.on_terminal("runs", "show", "manual__1").out


def test_nothing_to_list_prints_nothing_in_a_pipe_and_a_hint_on_a_terminal(
    asyncsched: CommandLine, daemon: Daemon
) -> None:
    daemon.answers["dags.list"] = []
    assert asyncsched("dags", "list").out == ""
    assert "No DAGs yet" in asyncsched.on_terminal("dags", "list").out


def test_a_terminal_gets_states_in_colour_with_an_icon_and_relative_times(
    asyncsched: CommandLine, daemon: Daemon
) -> None:
    daemon.answers["runs.list"] = {"items": [RUN], "next": 17}
    shown = asyncsched.on_terminal("runs", "list").out
    assert "\x1b[1;31m✖ failed" in shown
    assert "ago" in shown
    assert "1.5 s" in shown
    assert "--before 17" in shown


def test_colour_can_be_switched_off_and_forced(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers["runs.list"] = {"items": [RUN], "next": None}
    assert "31m" not in asyncsched.on_terminal("runs", "list", NO_COLOR="1").out
    assert "✖ failed" in asyncsched.on_terminal("runs", "list", NO_COLOR="1").out
    assert "31m✖ failed" in asyncsched("runs", "list", CLICOLOR_FORCE="1").out
    assert "31m✖ failed" in asyncsched("--color", "always", "runs", "list").out


def test_a_terminal_without_unicode_gets_letters(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers["runs.list"] = {"items": [RUN], "next": None}
    shown = asyncsched.on_terminal("runs", "list", PYTHONUTF8="0", PYTHONIOENCODING="ascii", LC_ALL="C").out
    assert "x failed" in shown
    assert shown.isascii()


@pytest.mark.parametrize(
    ("words", "op", "answer", "says"),
    [
        (
            ["status"],
            "status",
            STATUS,
            ["ready", "pid 77", "3 running", "1 paused", "does not import", "Failed in 24 h"],
        ),
        (["dags", "list"], "dags.list", [DAG, DAG | {"paused": True}, DAG | {"present": False}], ["paused", "gone"]),
        (["runs", "show", "r"], "runs.show", SHOWN_RUN, ["etl/manual__1", '{"city": "Oslo"}', "extract", "ValueError"]),
        (["tasks", "list", "r"], "tasks.list", [TASK_LINE], ["extract", "2/2", "default_pool"]),
        (
            ["tasks", "show", "r/t"],
            "tasks.show",
            [SHOWN_TASK],
            ["extract", '{"rows": 3}', "4242", "killed by", "2.log"],
        ),
        (["pools", "list"], "pools.list", [POOL, POOL | {"name": "*", "slots": -1}], ["http", "no limit", "the API"]),
        (["dags", "check"], "dags.check", [ERROR], ["broken.py", "3", "SyntaxError"]),
        (["dags", "check"], "dags.check", [], ["All DAG files import"]),
    ],
)
def test_a_terminal_is_told_what_matters(
    asyncsched: CommandLine, daemon: Daemon, words: list[str], op: str, answer: Any, says: list[str]
) -> None:
    daemon.answers[op] = answer
    shown = asyncsched.on_terminal(*words, COLUMNS="160", NO_COLOR="1").out
    for each in says:
        assert each in shown, shown


def test_quiet_prints_identifiers_only(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers |= {"dags.list": [DAG], "runs.list": {"items": [RUN], "next": None}, "pools.list": [POOL]}
    assert asyncsched("dags", "list", "-q").out == "etl\n"
    assert asyncsched("runs", "list", "-q").out == "etl/manual__1\n"
    assert asyncsched("pools", "list", "-q").out == "http\n"


def test_filters_reach_the_daemon(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers["runs.list"] = {"items": [], "next": None}
    asyncsched("runs", "list", "etl", "--state", "failed", "--state", "running", "-n", "3", "--before", "17")
    wanted = {"dag_id": "etl", "states": ["failed", "running"], "limit": 3, "before": 17}
    assert daemon.requests == [("runs.list", wanted)]


def test_more_runs_than_asked_for_are_mentioned_on_stderr(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers["runs.list"] = {"items": [RUN], "next": 17}
    listed = asyncsched("runs", "list", "--json")
    assert listed.json == [RUN]
    assert "--before 17" in listed.err


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.USAGE, 2),
        (Code.NOT_FOUND, 3),
        (Code.CONFLICT, 4),
        (Code.UNREACHABLE, 5),
        (Code.DENIED, 6),
        (Code.INTERNAL, 1),
    ],
)
def test_refusals_become_exit_statuses_and_sentences(
    asyncsched: CommandLine, daemon: Daemon, code: Code, status: int
) -> None:
    daemon.answers["runs.show"] = ControlError(code, "because of the weather")
    ended = asyncsched("runs", "show", "r", "--json")
    assert (ended.status, ended.out) == (status, "")
    assert ended.err == "error: because of the weather\n"


def test_a_daemon_without_its_database_still_has_a_status(asyncsched: CommandLine, daemon: Daemon) -> None:
    known = {key: STATUS[key] for key in ("version", "pid", "home", "workers", "ready")}
    daemon.answers["status"] = known | {"database_away": "connection refused"}
    ended = asyncsched("status")
    assert ended.status == 5
    assert "pid\t77" in ended.out
    assert "connection refused" in ended.err


def test_a_reader_that_has_had_enough_is_no_error(asyncsched: CommandLine, daemon: Daemon) -> None:
    import subprocess
    import sys

    daemon.answers["dags.list"] = [DAG] * 20_000
    command = [sys.executable, "-m", "scheduler.cli", "dags", "list"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=asyncsched.environment({}), text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 1
