"""DAG files come, change, break and go; whatever one of them does, the others go on."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.daemon import Daemon, running, until

LIVE_WITHIN_S = 2.0

GOOD = """
from scheduler import dag, task

@dag()
def {dag_id}():
    @task
    def answer():
        return {value}
    answer()
{dag_id}()
"""

ENDLESS = "import time\nwhile True:\n    pass\n"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    files = {"steady.py": GOOD.format(dag_id="steady", value=1)}
    with running(tmp_path_factory.mktemp("files"), files, config="[loading]\ntimeout_s = 1.0\n") as daemon:
        yield daemon


def live_after(daemon: Daemon, file: str, text: str) -> float:
    """Write a file; return the seconds until the daemon has taken it in."""
    mark, before = len(daemon.records), time.monotonic()
    daemon.put(file, text)
    daemon.hear_of(file, since=mark)
    return time.monotonic() - before


def runs_to(daemon: Daemon, dag_id: str) -> Any:
    """Trigger, wait for success, return the result."""
    run = daemon.trigger(dag_id)
    assert daemon.state(run) == "success"
    return daemon.result(run, "answer")


def errors(daemon: Daemon) -> dict[str, tuple[int | None, str]]:
    """Import errors by file: line and message."""
    return {one["file"]: (one["line"], one["message"]) for one in daemon.ask("dags.check")}


def test_a_new_file_is_live_within_two_seconds(daemon: Daemon) -> None:
    took = live_after(daemon, "sub/new.py", GOOD.format(dag_id="new", value=41))
    assert runs_to(daemon, "new") == 41
    assert took < LIVE_WITHIN_S


def test_a_changed_file_is_live_within_two_seconds(daemon: Daemon) -> None:
    live_after(daemon, "changing.py", GOOD.format(dag_id="changing", value=1))
    assert runs_to(daemon, "changing") == 1
    took = live_after(daemon, "changing.py", GOOD.format(dag_id="changing", value=2))
    assert runs_to(daemon, "changing") == 2
    assert took < LIVE_WITHIN_S
    assert daemon.ask("dags.show", dag_id="changing")["version"] == 2


def test_a_run_keeps_the_version_it_began_with(daemon: Daemon) -> None:
    text = """
from pathlib import Path
from scheduler import dag, task
import time

@dag()
def pinned():
    @task
    def hold():
        while not Path({gate!r}).exists():
            time.sleep(0.02)
    @task
    def answer():
        return "{word}"
    hold() >> answer()
pinned()
"""
    gate = str(daemon.dags / "gate")
    live_after(daemon, "pinned.py", text.format(gate=gate, word="old"))
    run = daemon.trigger("pinned")
    daemon_sees_running(daemon, run, "hold")
    live_after(daemon, "pinned.py", text.format(gate=gate, word="new"))
    Path(gate).touch()
    assert daemon.state(run) == "success"
    assert daemon.result(run, "answer") == "old"
    assert runs_to(daemon, "pinned") == "new"


def daemon_sees_running(daemon: Daemon, run: str, task_id: str) -> None:
    until(f"{task_id} is running", lambda: daemon.tasks(run)[task_id]["state"] == "running")


def test_a_removed_file_takes_its_dags_along(daemon: Daemon) -> None:
    live_after(daemon, "leaving.py", GOOD.format(dag_id="leaving", value=1))
    assert runs_to(daemon, "leaving") == 1
    (daemon.dags / "leaving.py").unlink()
    until(
        "the dag is gone from the list",
        lambda: "leaving" not in {one["dag_id"] for one in daemon.ask("dags.list")},
    )
    ended = daemon.command("trigger", "leaving")
    assert ended.status in (3, 4)
    assert "leaving" in ended.err
    assert daemon.ask("runs.list", dag_id="leaving")["items"][0]["state"] == "success"  # history stays
    live_after(daemon, "leaving.py", GOOD.format(dag_id="leaving", value=2))
    assert runs_to(daemon, "leaving") == 2


BROKEN = {
    "syntax": ("from scheduler import dag\n\ndef f(:\n    pass\n", 3, ["syntax"]),
    "raises": ("x = 1\n\nraise RuntimeError('at home')\n", 3, ["RuntimeError", "at home"]),
    "exits": ("import sys\n\nsys.exit('bye')\n", 3, ["exit"]),
    "vanishes": ("import os\nos._exit(0)\n", None, ["exit"]),
    "suicide": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", None, ["SIGKILL"]),
    "endless": (ENDLESS, None, ["1 s"]),
    "greedy": ("x = bytearray(8 * 2**30)\n", 1, ["memory"]),
    "missing": ("import nothing_of_that_name\n", 1, ["nothing_of_that_name"]),
    "cycle": (
        "from scheduler import DAG, task\n"
        "with DAG('cycle'):\n"
        "    a, b = task.empty('a'), task.empty('b')\n"
        "    a >> b\n"
        "    b >> a\n",
        5,
        ["cycle", "a", "b"],
    ),
    "twice": (
        "from scheduler import DAG, task\nwith DAG('twice'):\n    task.empty('same')\n    task.empty('same')\n",
        4,
        ["same"],
    ),
    "hostile": ("from scheduler import DAG\n\nDAG('../../etc/passwd')\n", 3, ["../../etc/passwd"]),
    "emoji": ("from scheduler import DAG\n\nDAG('caf\\u00e9')\n", 3, ["caf"]),
    "steady_again": (GOOD.format(dag_id="steady", value=666), None, ["steady", "steady.py"]),
}


@pytest.fixture(scope="module")
def broken(daemon: Daemon) -> dict[str, tuple[int | None, str]]:
    """Put all the broken files there at once; the import errors that come of it."""
    mark = len(daemon.records)
    for name, (text, _, _) in BROKEN.items():
        daemon.put(f"broken/{name}.py", text)
    daemon.hear_of(*(f"broken/{name}.py" for name in BROKEN), since=mark)
    return errors(daemon)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_an_import_error_with_its_place(broken: dict[str, tuple[int | None, str]], name: str) -> None:
    _, line, words = BROKEN[name]
    found_line, message = broken[f"broken/{name}.py"]
    assert all(word.lower() in message.lower() for word in words), message
    if line is not None:
        assert found_line == line, message
    assert "Traceback" not in message.splitlines()[0]


def test_broken_files_leave_the_others_alone(daemon: Daemon, broken: dict[str, tuple[int | None, str]]) -> None:
    assert set(broken) == {f"broken/{name}.py" for name in BROKEN}
    assert runs_to(daemon, "steady") == 1
    assert live_after(daemon, "beside.py", GOOD.format(dag_id="beside", value=3)) < LIVE_WITHIN_S
    assert runs_to(daemon, "beside") == 3


def test_import_errors_are_shown_as_json(daemon: Daemon, broken: dict[str, tuple[int | None, str]]) -> None:
    checked = daemon.command("dags", "check", "--json")
    assert checked.status == 8
    assert all(list(one) == ["file", "line", "message"] for one in checked.json)
    assert {one["file"] for one in checked.json} == set(broken)
    offline = daemon.command("dags", "check", str(daemon.dags / "broken" / "cycle.py"), "--json")
    assert (offline.status, offline.json[0]["line"]) == (8, 5)


def test_a_file_that_breaks_keeps_its_last_good_version(daemon: Daemon) -> None:
    live_after(daemon, "wavering.py", GOOD.format(dag_id="wavering", value=1))
    live_after(daemon, "wavering.py", "def f(:\n")
    assert errors(daemon)["wavering.py"][0] == 1
    assert daemon.ask("dags.show", dag_id="wavering")["import_error"]["line"] == 1
    assert runs_to(daemon, "wavering") == 1
    live_after(daemon, "wavering.py", GOOD.format(dag_id="wavering", value=2))
    assert "wavering.py" not in errors(daemon)
    assert runs_to(daemon, "wavering") == 2
