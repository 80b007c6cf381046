"""Clear and mark with a real daemon: when the cause is mended, while a task runs, across the death of a daemon."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.daemon import Daemon, running, until

DAGS = """
import os, time
from pathlib import Path
from scheduler import dag, get_context, task

here = Path({here!r})

def wait_for(name):
    while not (here / name).exists():
        time.sleep(0.01)

@dag()
def shop():
    @task
    def extract():
        return [1, 2, 3]
    @task
    def load(rows):
        if not (here / "mended").exists():
            raise RuntimeError("the table is missing")
        return len(rows)
    @task
    def report(n):
        return f"{{n}} rows"
    report(load(extract()))
shop()

def alone(name):
    # a second one beside the first cannot make the file
    os.close(os.open(here / name, os.O_CREAT | os.O_EXCL))
    n = get_context().try_number
    (here / f"{{name}}-began-{{n}}").touch()
    try:
        wait_for(f"{{name}}-may-end-{{n}}")
    finally:
        time.sleep(0.1)
        (here / name).unlink()
    return n

for name in ("cleared", "marked", "ended", "orphaned"):
    @dag(name)
    def one(name=name):
        @task
        def work(name):
            return alone(name)
        @task
        def after(n):
            assert not (here / "overlapped").exists()
            return n
        after(work(name))
    one()

@dag()
def stubborn():
    @task
    def work():
        n = get_context().try_number
        (here / f"stubborn-began-{{n}}").touch()
        try:
            wait_for(f"stubborn-may-end-{{n}}")
        except BaseException:
            return "of the old one"
        return "of the new one"
    work()
stubborn()
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("signs")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, here: Path) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("clearing"), {"all.py": DAGS.format(here=str(here))}) as daemon:
        yield daemon
        assert daemon.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = 'asyncsched'") == [["0"]]


def begun(daemon: Daemon, here: Path, name: str, number: int = 1) -> None:
    until(f"try {number} of {name} has begun", (here / f"{name}-began-{number}").exists)


def test_a_failed_run_is_cleared_after_the_cause_was_mended(daemon: Daemon, here: Path) -> None:
    run = daemon.trigger("shop")
    assert daemon.state(run) == "failed"
    (here / "mended").touch()
    cleared = daemon.command("runs", "clear", run, "--only-failed", "--wait", "--json")
    assert cleared.status == 0, cleared
    assert daemon.state(run) == "success"
    assert daemon.result(run, "report") == "3 rows"
    tries = {name: [one["try_number"] for one in daemon.task(run, name)["attempts"]] for name in daemon.tasks(run)}
    assert tries == {"extract": [1], "load": [1, 2], "report": [1]}


def test_a_running_task_that_is_cleared_is_stopped_and_then_run_again(daemon: Daemon, here: Path) -> None:
    run = daemon.trigger("cleared")
    begun(daemon, here, "cleared")
    (changed,) = daemon.ask("tasks.clear", tasks=[f"{run}/work"])["runs"]
    assert changed["tasks"][0]["is_stopped_first"]
    begun(daemon, here, "cleared", 2)
    (here / "cleared-may-end-2").touch()
    assert daemon.state(run) == "success"
    assert daemon.result(run, "after") == 2
    assert [one["state"] for one in daemon.task(run, "work")["attempts"]] == ["revoked", "success"]


def test_what_a_cleared_attempt_reports_is_not_heard(daemon: Daemon, here: Path) -> None:
    run = daemon.trigger("stubborn")
    begun(daemon, here, "stubborn")
    daemon.ask("runs.clear", run=run)
    begun(daemon, here, "stubborn", 2)
    assert daemon.task(run, "work")["results"] == {}
    (here / "stubborn-may-end-2").touch()
    assert daemon.state(run) == "success"
    assert daemon.result(run, "work") == "of the new one"


def test_a_running_task_that_is_marked_is_stopped_before_what_is_below_it_begins(daemon: Daemon, here: Path) -> None:
    run = daemon.trigger("marked")
    begun(daemon, here, "marked")
    daemon.ask("tasks.mark", tasks=[f"{run}/work"], state="failed")
    assert daemon.state(run) == "failed"
    assert not (here / "marked").exists(), "its attempt had left everything in order"
    states = {name: one["state"] for name, one in daemon.tasks(run).items()}
    assert states == {"work": "failed", "after": "upstream_failed"}
    marked = daemon.command("tasks", "mark", "skipped", f"{run}/work", "--json")
    assert marked.status == 0
    assert daemon.state(run) == "success"
    assert daemon.tasks(run)["after"]["state"] == "skipped"


def test_a_running_run_is_marked_as_success(daemon: Daemon, here: Path) -> None:
    run = daemon.trigger("ended")
    begun(daemon, here, "ended")
    assert daemon.command("runs", "mark", "success", run).status == 0
    assert daemon.state(run) == "success"
    assert daemon.tasks(run)["after"]["state"] == "skipped"


def test_a_successor_clears_what_it_has_adopted(tmp_path: Path, here: Path) -> None:
    """The worker outlives its daemon; the next one inherits the attempt, stops it and runs the task again."""
    with running(tmp_path, {"all.py": DAGS.format(here=str(here))}) as daemon:
        run = daemon.trigger("orphaned")
        begun(daemon, here, "orphaned")
        before = daemon.task(run, "work")["attempts"][0]["pid"]
        daemon.kill()
        daemon.start()
        assert daemon.task(run, "work")["state"] == "running"
        assert daemon.task(run, "work")["attempts"][0]["pid"] == before
        daemon.ask("runs.clear", run=run)
        begun(daemon, here, "orphaned", 2)
        (here / "orphaned-may-end-2").touch()
        assert daemon.state(run) == "success"
        assert [one["state"] for one in daemon.task(run, "work")["attempts"]] == ["revoked", "success"]
