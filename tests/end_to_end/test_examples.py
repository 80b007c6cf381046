"""The examples do what they say, as a user who has typed `asyncsched run examples` would see it."""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.end_to_end.daemon import Daemon, opened

EXAMPLES = Path(__file__).parents[2] / "examples"

AT_ONCE = ("echo_latency", "time_zones")
"""Those whose schedule makes a run as soon as they are seen: @once, and a daily one whose last day is over."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("examples")
    files = {path.name: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py")}
    with opened(directory, files, settings={"EXAMPLES_OUT": str(directory / "out")}) as daemon:
        daemon.start()
        daemon.hear_of(*files)
        yield daemon


@pytest.fixture(scope="module")
def out(daemon: Daemon) -> Path:
    return daemon.home.with_name("out")


def first_run(daemon: Daemon, dag_id: str) -> str:
    """The dag's own first run, or one that is asked for; ended in success."""
    if not daemon.ask("runs.list", dag_id=dag_id)["items"]:
        daemon.trigger(dag_id)
    run = f"{dag_id}/{daemon.ask('runs.list', dag_id=dag_id)['items'][-1]['run_id']}"
    assert daemon.state(run) == "success", daemon.ask("tasks.list", run=run)
    return run


def test_every_example_is_loaded(daemon: Daemon) -> None:
    assert daemon.ask("dags.check") == []
    assert {one["file"] for one in daemon.ask("dags.list")} == {path.name for path in EXAMPLES.glob("*.py")}
    assert len(daemon.ask("dags.list")) >= 4


def test_their_schedules_make_runs_at_once(daemon: Daemon) -> None:
    for dag_id in AT_ONCE:
        assert daemon.fact("run created", dag_id=dag_id)["run_id"].startswith("scheduled__")


def test_every_example_ends_in_success(daemon: Daemon) -> None:
    for dag_id in sorted(one["dag_id"] for one in daemon.ask("dags.list")):
        first_run(daemon, dag_id)


def test_the_table_and_the_report_of_the_time_zones(daemon: Daemon, out: Path) -> None:
    run = first_run(daemon, "time_zones")
    with closing(sqlite3.connect(out / "time_zones.sqlite")) as table:
        rows = dict(table.execute("SELECT name, clock_changes FROM time_zone"))
    assert len(rows) == daemon.result(run, "check") > 200
    assert (rows["Europe/Berlin"], rows["Asia/Tokyo"]) == (2, 0)
    report = (out / "time_zones.md").read_text(encoding="utf-8")
    assert f"**{len(rows)}**" in report
    assert "Asia/Kathmandu" in report
    assert "# Time zones of the world" in daemon.command("logs", f"{run}/report").out


def test_the_primes_are_counted_right_in_parallel(daemon: Daemon) -> None:
    run = first_run(daemon, "prime_numbers")
    assert daemon.result(run, "add") == 78_498
    pids = {daemon.task(run, name)["attempts"][0]["pid"] for name in daemon.tasks(run)}
    assert len(pids) == 9


def test_the_disk_is_measured_at_the_second_try_and_one_branch_taken(daemon: Daemon) -> None:
    run = first_run(daemon, "disk_watch")
    tasks = daemon.tasks(run)
    assert tasks["measure"]["try_number"] == 2
    assert sorted(tasks[name]["state"] for name in ("warn", "all_is_well")) == ["skipped", "success"]
    assert "% full" in daemon.command("logs", f"{run}/tell").out


def test_the_echo_comes_back(daemon: Daemon) -> None:
    run = first_run(daemon, "echo_latency")
    assert daemon.result(run, "measure")["messages"] == 1000


def test_old_results_are_removed(daemon: Daemon, out: Path) -> None:
    first_run(daemon, "time_zones")
    os.utime(out / "time_zones.md", (0, 0))
    ended = daemon.command("trigger", "tidy_up", "--conf", json.dumps({"keep_days": 300}), "--wait", "--json")
    assert ended.json["state"] == "success"
    assert not (out / "time_zones.md").exists()
    assert (out / "time_zones.sqlite").exists()
