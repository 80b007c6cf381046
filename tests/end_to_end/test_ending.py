"""How the daemon ends: signals, draining, and what the service manager hears of it."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from nurseries.testing import NotifySink
from tests.end_to_end.daemon import Daemon, opened, running, until

DAGS = """
import os, signal, time
from pathlib import Path
from scheduler import dag, get_context, task

HERE = Path(__file__).parent

@dag()
def gated():
    @task
    def hold():
        with (HERE / "tries").open("a") as file:
            file.write(f"{get_context().try_number} {os.getpid()}\\n")
        while not (HERE / "gate").exists():
            time.sleep(0.02)
        return "through"
    @task
    def after(word):
        return word
    after(hold())
gated()

@dag()
def deaf():
    @task
    def hold():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (HERE / "deaf").write_text(str(os.getpid()))
        while True:
            time.sleep(1)
    hold()
deaf()
"""

IDLE_END_LIMIT_S = 3.0
"""The promise is one second on an idle machine; tests share theirs."""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path, {"all.py": DAGS}) as daemon:
        yield daemon


def held(daemon: Daemon) -> str:
    """Trigger `gated` and wait until user code runs; return the run."""
    run = daemon.trigger("gated")
    until("the task holds", lambda: tries(daemon))
    return run


def tries(daemon: Daemon) -> list[str]:
    path = daemon.dags / "tries"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_daemon_ends_at_once(daemon: Daemon, number: signal.Signals) -> None:
    before = time.monotonic()
    assert daemon.stop(number) == 0
    assert time.monotonic() - before < IDLE_END_LIMIT_S
    assert not daemon.processes()


def test_running_tasks_are_waited_for_and_no_new_ones_begin(daemon: Daemon) -> None:
    run = held(daemon)
    mark = len(daemon.records)
    daemon.send(signal.SIGTERM)
    daemon.hear("ending within", since=mark)
    (daemon.dags / "gate").touch()
    assert daemon.wait() == 0
    assert daemon.fact("task ended", since=mark, task_id="hold")["state"] == "success"
    assert not any(record.get("about", {}).get("task_id") == "after" for record in daemon.records)
    daemon.start()
    assert daemon.state(run) == "success"
    assert daemon.result(run, "after") == "through"
    assert tries(daemon) == ["1"]


def test_a_task_beyond_the_grace_is_stopped_and_its_try_runs_again(tmp_path: Path) -> None:
    with running(tmp_path, {"all.py": DAGS}, "--grace", "0.3") as daemon:
        run = held(daemon)
        assert daemon.stop() == 0
        assert not daemon.processes()
        (daemon.dags / "gate").touch()
        daemon.start()
        assert daemon.state(run) == "success"
        assert tries(daemon) == ["1", "1"]
        seen = daemon.task(run, "hold")
        assert seen["try_number"] == 1
        assert [one["state"] for one in seen["attempts"]] == ["lost", "success"]


def test_a_second_signal_ends_everything_now(tmp_path: Path) -> None:
    with running(tmp_path, {"all.py": DAGS}) as daemon:
        run = held(daemon)
        mark = len(daemon.records)
        daemon.send(signal.SIGINT)
        daemon.hear("ending within", since=mark)
        before = time.monotonic()
        daemon.send(signal.SIGINT)
        assert daemon.wait() == 130
        assert time.monotonic() - before < 10  # SIGTERM to the tasks, one second, SIGKILL, the database's checkpoint
        until("nothing is left", lambda: not daemon.processes())
        (daemon.dags / "gate").touch()
        daemon.start()
        assert daemon.state(run) == "success"
        assert daemon.task(run, "hold")["try_number"] == 1


def test_a_task_that_ignores_every_request_does_not_keep_the_daemon(tmp_path: Path) -> None:
    with running(tmp_path, {"all.py": DAGS}, "--grace", "0") as daemon:
        daemon.trigger("deaf")
        until("it has closed its ears", (daemon.dags / "deaf").exists)
        before = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - before < 10
        assert not daemon.processes()


def test_other_signals_change_nothing(daemon: Daemon) -> None:
    for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGWINCH):
        daemon.send(number)
    assert daemon.ask("status")["ready"] is True


def test_the_service_manager_is_told_in_order(tmp_path: Path) -> None:
    with NotifySink(tmp_path) as sink:
        settings = {"NOTIFY_SOCKET": str(sink.path), "WATCHDOG_USEC": "600000"}
        with opened(tmp_path, {"all.py": DAGS}, settings=settings) as daemon:

            async def hear(message: str) -> None:
                with trio.fail_after(30):
                    await sink.wait_for(message)

            daemon.launch()
            trio.run(hear, "READY=1")
            assert daemon.ask("status")["ready"] is True
            until("it is fed", lambda: "WATCHDOG=1" in sink.collect()[sink.messages.index("READY=1") :])
            assert daemon.stop() == 0
            said = [message.partition("=")[0] for message in sink.collect()]
            assert said.count("READY") == 1
            assert said.count("STOPPING") == 1
            ready, stopping = said.index("READY"), said.index("STOPPING")
            assert "STATUS" in said[:ready], "nothing was said about the start"
            assert "WATCHDOG" in said[ready:stopping]
            assert set(sink.senders) == {sink.senders[0]}
            statuses = [message for message in sink.messages if message.startswith("STATUS=")]
            assert any("PostgreSQL" in status for status in statuses)
            daemon.start()
            assert "NOTIFY_SOCKET" not in Path(f"/proc/{daemon.worker}/environ").read_text()


def test_a_failing_start_is_told_to_the_service_manager(tmp_path: Path) -> None:
    with NotifySink(tmp_path) as sink:
        settings = {"NOTIFY_SOCKET": str(sink.path)}
        with opened(tmp_path, {}, config="[database]\nbindir = '/nowhere'\n", settings=settings) as daemon:
            daemon.launch()
            code = daemon.wait()
            assert code != 0
            assert f"EXIT_STATUS={code}" in sink.collect()
            assert "READY=1" not in sink.messages
            assert "/nowhere" in daemon.records[-1]["message"]


def test_a_daemon_that_was_stopped_and_goes_on_has_lost_nothing(daemon: Daemon) -> None:
    """SIGSTOP for longer than a lease is what a suspended laptop looks like; shorter, what a busy machine does."""
    run = held(daemon)
    os.kill(daemon.pid, signal.SIGSTOP)
    (daemon.dags / "gate").touch()
    until("the task has ended meanwhile", lambda: not _task_lives(daemon))
    os.kill(daemon.pid, signal.SIGCONT)
    assert daemon.state(run) == "success"
    assert tries(daemon) == ["1"]


def _task_lives(daemon: Daemon) -> bool:
    pid = int((daemon.dags / "tries").read_text().split()[1])
    return pid in daemon.processes()


@pytest.mark.parametrize(
    "moment", ["lock", "postgres/*/PG_VERSION", "postgres/socket", "run/control.sock", "run/worker.sock"]
)
def test_a_start_can_be_given_up_at_any_moment(tmp_path: Path, moment: str) -> None:
    with opened(tmp_path, {"all.py": DAGS}) as daemon:
        daemon.launch()
        until("it has come so far", lambda: any(daemon.home.glob(moment)), seconds=20)
        before = time.monotonic()
        assert daemon.stop() in (0, -signal.SIGTERM)  # the latter before it has learnt to listen
        assert time.monotonic() - before < IDLE_END_LIMIT_S
        until("nothing is left", lambda: not daemon.processes())
        daemon.start()
        assert daemon.ask("status")["ready"] is True
