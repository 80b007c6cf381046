"""The daemon on the user's own PostgreSQL: started by somebody else, reached by its address."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.database import Server, running_server
from tests.end_to_end.daemon import LIMIT_S, Daemon, opened, running, until

DAGS = """
import time
from pathlib import Path
from datetime import timedelta
from scheduler import dag, get_context, task

@dag()
def fan():
    @task
    def split():
        return list(range(5))
    @task(retries=1, retry_delay=0)
    def work(numbers, i):
        if i == 3 and get_context().try_number == 1:
            raise RuntimeError("once")
        return numbers[i] + 1
    @task
    def add(parts):
        return sum(parts)
    numbers = split()
    add([work(numbers, i) for i in range(5)])
fan()

@dag(schedule=timedelta(seconds=1), is_paused_upon_creation=True)
def ticking():
    @task
    def tick():
        return str(get_context().logical_date)
    tick()
ticking()

@dag()
def gated():
    @task
    def hold():
        while not Path(__file__).with_name("gate").exists():
            time.sleep(0.02)
    hold()
gated()
"""


def newest_system_bindir() -> Path | None:
    """Where this machine's own PostgreSQL is, if it has one that is new enough."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    versions = sorted((int(path.parent.name), path) for path in found if path.parent.name.isdigit())
    return versions[-1][1] if versions and versions[-1][0] >= 14 else None


@contextmanager
def on_database(directory: Path, dsn: str) -> Iterator[Daemon]:
    # As a user would write it: without the name of our driver.
    address = dsn.replace("postgresql+asyncpg://", "postgresql://")
    with running(directory, {"all.py": DAGS}, "--database", address) as daemon:
        yield daemon


@pytest.fixture(scope="module", params=["wheel", "system"])
def database(request: pytest.FixtureRequest, server: Server) -> Iterator[Server]:
    """The tests' own server, and the machine's."""
    if request.param == "wheel":
        yield server
        return
    bindir = newest_system_bindir()
    if bindir is None:
        pytest.skip("no PostgreSQL of 14 or later in /usr/lib/postgresql")
    os.environ["ASYNCSCHED_TEST_BINDIR"], before = str(bindir), os.environ.get("ASYNCSCHED_TEST_BINDIR")
    try:
        with running_server(bindir=bindir) as system:
            yield system
    finally:
        del os.environ["ASYNCSCHED_TEST_BINDIR"]
        if before is not None:
            os.environ["ASYNCSCHED_TEST_BINDIR"] = before


@pytest.fixture(scope="module")
def daemon(database: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with (
        database.database(template="template0") as dsn,
        on_database(tmp_path_factory.mktemp("own"), dsn) as daemon,
    ):
        yield daemon
        name = dsn.split("?")[0].rpartition("/")[2]
        assert database.sql(f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{name}'") == "0"
        idle = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
        assert database.sql(idle) == "0"
        assert daemon.stop() == 0
        left = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"
        until("its sessions have ended", lambda: database.sql(left) == "0")


def test_tasks_run_and_pass_results_on(daemon: Daemon) -> None:
    run = daemon.trigger("fan")
    assert daemon.state(run) == "success"
    assert daemon.result(run, "add") == 15
    assert daemon.tasks(run)["work__3"]["try_number"] == 2


def test_schedules_make_runs(daemon: Daemon) -> None:
    daemon.ask("dags.pause", dag_id="ticking", paused=False)
    until(
        "two ticks have ended", lambda: len(daemon.ask("runs.list", dag_id="ticking", states=["success"])["items"]) > 1
    )
    daemon.ask("dags.pause", dag_id="ticking", paused=True)
    dates = [run["logical_date"] for run in daemon.ask("runs.list", dag_id="ticking")["items"]]
    assert len(set(dates)) == len(dates)


def test_no_server_of_its_own_is_started(daemon: Daemon) -> None:
    assert not any("postgres" in command.split()[0] for command in daemon.processes().values())
    assert daemon.ask("status")["database"].startswith("postgresql://")
    assert daemon.ask("db.check")["is_current"] is True


def test_a_killed_daemon_finds_everything_again(daemon: Daemon) -> None:
    run = daemon.trigger("gated")
    until("the task is running", lambda: daemon.tasks(run)["hold"]["state"] == "running")
    daemon.kill()
    daemon.start()
    (daemon.dags / "gate").touch()
    assert daemon.state(run) == "success"
    assert daemon.task(run, "hold")["try_number"] == 1


def test_two_daemons_that_start_at_once_on_an_empty_database_both_run(server: Server, tmp_path: Path) -> None:
    with server.database(template="template0") as dsn, ExitStack() as stack:
        address = dsn.replace("postgresql+asyncpg://", "postgresql://")
        both = [
            stack.enter_context(opened(tmp_path / name, {"all.py": DAGS}, "--database", address)) for name in ("a", "b")
        ]
        for daemon in both:
            daemon.launch()
        for daemon in both:
            daemon.hear("ready: ")
            until("its DAGs are known", lambda daemon=daemon: daemon.ask("dags.list"))
        for daemon in both:
            assert daemon.state(daemon.trigger("fan")) == "success"


def test_a_server_that_is_restarted_is_waited_for(tmp_path: Path) -> None:
    durable = {"synchronous_commit": "on"}  # else the server itself forgets what it has confirmed
    with running_server(settings=durable) as ours, ours.database() as dsn, on_database(tmp_path, dsn) as daemon:
        run = daemon.trigger("gated")
        until("the task is running", lambda: daemon.tasks(run)["hold"]["state"] == "running")
        mark = len(daemon.records)
        control(ours, "-m", "immediate", "stop")
        daemon.hear("waiting until it is back", since=mark)
        (daemon.dags / "gate").touch()
        assert daemon.ask("status")["database_away"] is not None
        control(ours, "-w", "-l", str(ours.socket_dir / "log"), "start")
        assert daemon.state(run) == "success"
        assert [one["state"] for one in daemon.task(run, "hold")["attempts"]] == ["success"]
        daemon.send(signal.SIGTERM)
        assert daemon.wait() == 0


def control(server: Server, *words: str) -> None:
    """pg_ctl, as the server's user."""
    prefix = ["setpriv", f"--reuid={server.user}", "--clear-groups"] if os.geteuid() == 0 else []
    command = [*prefix, str(server.bindir / "pg_ctl"), "-D", str(server.data), "-s", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", timeout=LIMIT_S)
