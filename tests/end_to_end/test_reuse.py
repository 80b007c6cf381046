"""Runs whose tasks share processes, and what becomes of them when those die."""

import os
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL

import pytest

from tests.end_to_end.daemon import Daemon, running, until

DAGS = """
import os, time
from pathlib import Path
from scheduler import DAG, dag, get_context, task

seen = []

@dag(isolation="reuse")
def chain():
    @task
    def link(pids):
        seen.append(get_context().task_id)
        return [*(pids or []), os.getpid()]
    @task(isolation="process")
    def alone(pids):
        return [os.getpid(), len(seen)]
    @task
    async def last(pids, other):
        import trio
        await trio.sleep(0)
        print("the last one of", len(pids))
        return [len(set(pids)), len(seen), other[0] in pids, other[1]]
    pids = None
    for _ in range(12):
        pids = link(pids)
    last(pids, alone(pids))
chain()

@dag(isolation="reuse", max_active_tasks=100)
def crowd():
    @task(retries=1, retry_delay=0)
    def crashes_once(i):
        if i % 10 == 0 and get_context().try_number == 1:
            os.kill(os.getpid(), 9)
        return i
    @task
    def add(numbers):
        return sum(numbers)
    add([crashes_once(i) for i in range(40)])
crowd()

@dag(isolation="reuse")
def held():
    @task
    def waits():
        Path(get_context().params["pid"]).write_text(str(os.getpid()))
        while not Path(get_context().params["go"]).exists():
            time.sleep(0.02)
        return "went"
    waits()
held()
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("reuse"), {"reuse.py": DAGS}) as daemon:
        yield daemon
        assert daemon.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = 'asyncsched'") == [["0"]]


def test_a_chain_runs_in_one_process_and_passes_its_results_on(daemon: Daemon) -> None:
    run = daemon.trigger("chain")
    assert daemon.state(run) == "success"
    processes, seen, among_them, seen_alone = daemon.result(run, "last")
    assert processes == 1
    assert seen == 12  # they share a module with the last one
    assert (among_them, seen_alone) == (False, 0)
    assert "the last one of 12" in daemon.command("logs", f"{run}/last").out
    assert daemon.command("logs", f"{run}/link").status == 0  # it wrote nothing, and has no file


def test_a_crash_costs_its_own_task_a_try_and_no_other_task(daemon: Daemon) -> None:
    run = daemon.trigger("crowd")
    assert daemon.state(run) == "success"
    assert daemon.result(run, "add") == sum(range(40))
    tries = {name: one["try_number"] for name, one in daemon.tasks(run).items() if name != "add"}
    crashed = {name for name, count in tries.items() if count == 2}
    assert len(tries) == 40
    assert crashed == {"crashes_once", "crashes_once__10", "crashes_once__20", "crashes_once__30"}


def test_a_cancelled_run_ends_its_process(daemon: Daemon, tmp_path: Path) -> None:
    run, pid = hold(daemon, tmp_path)
    daemon.ask("runs.cancel", run=run)
    assert daemon.state(run) == "failed"
    until("the runner is gone", lambda: not Path(f"/proc/{pid}").exists())


def test_a_runner_survives_its_daemon_and_the_next_one_takes_in_its_outcome(daemon: Daemon, tmp_path: Path) -> None:
    run, pid = hold(daemon, tmp_path)
    daemon.kill()
    daemon.start()
    assert Path(f"/proc/{pid}").exists()
    (tmp_path / "go").touch()
    assert daemon.state(run) == "success"
    assert daemon.result(run, "waits") == "went"


def test_a_killed_runner_fails_its_task(daemon: Daemon, tmp_path: Path) -> None:
    run, pid = hold(daemon, tmp_path)
    os.kill(pid, SIGKILL)
    assert daemon.state(run) == "failed"
    assert daemon.task(run, "waits")["state"] == "failed"


def hold(daemon: Daemon, folder: Path) -> tuple[str, int]:
    """A run whose task waits for `folder`/go, and the pid it runs in."""
    pid = folder / "pid"
    run = daemon.trigger("held", conf={"pid": str(pid), "go": str(folder / "go")})
    until("the task runs", lambda: pid.exists() and pid.read_text())
    return run, int(pid.read_text())
