"""Limits of every kind are kept, and what is told to end, ends: with its processes."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.daemon import Daemon, running, until

DAGS = """
import json, os, signal, subprocess, sys, time
from datetime import timedelta
from pathlib import Path
from scheduler import dag, get_context, task

NOTES = Path(__file__).with_name("notes")

def note(what):
    with (NOTES).open("a") as file:
        file.write(json.dumps([get_context().run_id, get_context().task_id, what, time.monotonic()]) + "\\n")

def spend(name):
    note("start")
    end = time.monotonic() + 0.15
    while time.monotonic() < end:
        time.sleep(0.01)
    note("end")

def hold():
    note("holding")
    gate = NOTES.with_name("gate-" + get_context().run_id.replace(":", "_"))
    while not gate.exists():
        time.sleep(0.02)

@dag()
def narrow():
    @task(pool="two")
    def spend_in_pool():
        spend("pool")
    for _ in range(6):
        spend_in_pool()
narrow()

@dag(max_active_tasks=1)
def single_file():
    @task
    def one_at_a_time():
        spend("dag")
    for _ in range(4):
        one_at_a_time()
single_file()

@dag(max_active_runs=1)
def one_run():
    @task
    def wait():
        hold()
    wait()
one_run()

@dag()
def sleeping():
    @task
    def sleep():
        child = subprocess.Popen(["sleep", "600"])
        note(child.pid)
        child.wait()
    @task
    def after():
        pass
    sleep() >> after()
sleeping()

@dag()
def stubborn():
    @task
    def ignore():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        note(os.getpid())
        while True:
            time.sleep(1)
    ignore()
stubborn()

@dag()
def slow():
    @task(execution_timeout=0.3)
    def too_slow():
        time.sleep(60)
    @task(execution_timeout=0.3)
    async def too_slow_async():
        import trio
        await trio.sleep(60)
    @task(execution_timeout=0.3)
    def deaf():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        note(os.getpid())
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
    task.bash("sleep 60", task_id="shell", execution_timeout=0.3)
    too_slow(); too_slow_async(); deaf()
slow()

@dag(dagrun_timeout=0.5)
def late():
    @task
    def sleep():
        note(os.getpid())
        time.sleep(60)
    sleep()
late()

@dag(schedule=timedelta(seconds=1), is_paused_upon_creation=True)
def paused():
    @task
    def nothing():
        pass
    nothing()
paused()

@dag()
def weighty():
    @task(pool="one", priority_weight=1)
    def light():
        note("light")
    @task(pool="one", priority_weight=10)
    def heavy():
        note("heavy")
    light(); heavy()
weighty()
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("limits"), {"all.py": DAGS}) as daemon:
        yield daemon
        assert daemon.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = 'asyncsched'") == [["0"]]


def notes(daemon: Daemon, run: str) -> list[tuple[str, object, float]]:
    """What the tasks of a run have noted: (task, what, when)."""
    path = daemon.dags / "notes"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(task, what, when) for run_id, task, what, when in lines if run_id == run.partition("/")[2]]


def most_at_once(seen: list[tuple[str, object, float]]) -> int:
    """The largest number of tasks between their start and their end."""
    now = most = 0
    for _, what, _ in sorted(seen, key=lambda one: one[2]):
        now += 1 if what == "start" else -1
        most = max(most, now)
    return most


def noted_pid(daemon: Daemon, run: str) -> int:
    """The pid that a task noted, once it has."""
    ((_, pid, _),) = until("the task has noted a pid", lambda: notes(daemon, run))
    assert isinstance(pid, int)
    assert is_alive(pid)
    return pid


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_pool_is_never_overfilled(daemon: Daemon) -> None:
    assert daemon.command("pools", "set", "two", "2").status == 0
    run = daemon.trigger("narrow")
    assert daemon.state(run) == "success"
    assert len(notes(daemon, run)) == 12
    assert most_at_once(notes(daemon, run)) == 2
    (pool,) = [one for one in daemon.command("pools", "list", "--json").json if one["name"] == "two"]
    assert (pool["slots"], pool["used"], pool["waiting"]) == (2, 0, 0)


def test_a_pool_without_slots_lets_nothing_in_until_it_has_some(daemon: Daemon) -> None:
    daemon.ask("pools.set", name="one", slots=0)
    run = daemon.trigger("weighty")
    until("both wait", lambda: {one["state"] for one in daemon.tasks(run).values()} == {"scheduled"})
    daemon.ask("pools.set", name="one", slots=1)
    assert daemon.state(run) == "success"
    assert [what for _, what, _ in notes(daemon, run)] == ["heavy", "light"]


def test_max_active_tasks_of_a_run_is_kept(daemon: Daemon) -> None:
    run = daemon.trigger("single_file")
    assert daemon.state(run) == "success"
    assert most_at_once(notes(daemon, run)) == 1


def test_max_active_runs_lets_one_run_after_the_other(daemon: Daemon) -> None:
    first, second = daemon.trigger("one_run"), daemon.trigger("one_run")
    until("the first run holds", lambda: notes(daemon, first))
    assert [run["state"] for run in daemon.ask("runs.list", dag_id="one_run")["items"]] == ["queued", "running"]
    assert notes(daemon, second) == []
    for run in (first, second):
        (daemon.dags / ("gate-" + run.partition("/")[2].replace(":", "_"))).touch()
    assert (daemon.state(first), daemon.state(second)) == ("success", "success")
    ended, started = (daemon.ask("runs.show", run=run)["run"] for run in (first, second))
    assert ended["end_date"] <= started["start_date"]


def test_a_cancelled_run_ends_with_all_its_processes(daemon: Daemon) -> None:
    run = daemon.trigger("sleeping")
    grandchild = noted_pid(daemon, run)
    ended = daemon.command("runs", "cancel", run)
    assert (ended.status, ended.out.strip()) == (0, run)
    assert daemon.state(run) == "failed"
    assert not is_alive(grandchild)
    tasks = daemon.tasks(run)
    assert (tasks["sleep"]["state"], tasks["after"]["state"]) == ("failed", "skipped")
    assert tasks["sleep"]["reason"] == "cancelled"
    assert daemon.ask("runs.show", run=run)["detail"]["verdict"] == "cancelled"


def test_a_task_that_ignores_sigterm_is_killed(daemon: Daemon) -> None:
    run = daemon.trigger("stubborn")
    pid = noted_pid(daemon, run)
    daemon.ask("runs.cancel", run=run)
    assert daemon.state(run) == "failed"
    assert not is_alive(pid)


@pytest.mark.parametrize("task_id", ["too_slow", "too_slow_async", "shell", "deaf"])
def test_a_task_beyond_its_timeout_is_ended(daemon: Daemon, task_id: str) -> None:
    if not daemon.ask("runs.list", dag_id="slow")["items"]:
        daemon.trigger("slow")
    assert daemon.state("slow") == "failed"
    seen = daemon.tasks("slow")[task_id]
    assert (seen["state"], seen["reason"]) == ("failed", "timeout"), seen
    assert "0.3 s" in seen["message"]


def test_a_run_beyond_its_timeout_is_ended(daemon: Daemon) -> None:
    started = time.monotonic()
    run = daemon.trigger("late")
    pid = noted_pid(daemon, run)
    assert daemon.state(run) == "failed"
    assert time.monotonic() - started < 20
    assert not is_alive(pid)
    assert daemon.ask("runs.show", run=run)["detail"]["verdict"] == "timeout"


def test_a_paused_dag_makes_no_runs_until_it_is_resumed(daemon: Daemon) -> None:
    (seen,) = [one for one in daemon.command("dags", "list", "--json").json if one["dag_id"] == "paused"]
    assert (seen["paused"], seen["next_run"]) == (True, None)
    assert daemon.ask("runs.list", dag_id="paused")["items"] == []
    mark = len(daemon.records)
    assert daemon.command("dags", "unpause", "paused").status == 0
    created = daemon.fact("run created", since=mark, dag_id="paused")
    assert daemon.state(f"paused/{created['run_id']}") == "success"
    assert daemon.ask("runs.show", run=f"paused/{created['run_id']}")["run"]["run_type"] == "scheduled"
    assert daemon.command("dags", "pause", "paused").status == 0
    (seen,) = [one for one in daemon.command("dags", "list", "--json").json if one["dag_id"] == "paused"]
    assert (seen["paused"], seen["next_run"]) == (True, None)
