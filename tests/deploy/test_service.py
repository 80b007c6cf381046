"""Both units started as systemd would start them: their commands, directories, messages and hardest restrictions.

There is no systemd here to do it, so a small stand-in sets the environment, listens on the notify socket, and
asks the kernel for the restrictions that a process can put on itself.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from scheduler.home import Home
from tests.deploy.unit import SCHEDULER, WORKER, arguments, settings

LIMIT_S = 60.0
ROOT = Path(__file__).parents[2]
NO_NEW_PRIVS, SET_MDWE = 38, 65

DAG = """
from datetime import datetime
from pathlib import Path
from time import sleep
from scheduler import dag, task

PLACE = Path({place!r})

@dag(dag_id="units", schedule=None, start_date=datetime(2026, 1, 1))
def units():
    @task
    def one() -> int:
        return 1

    @task
    def two(value: int) -> int:
        return value + 1

    two(one())

units()

@dag(dag_id="patient", schedule=None, start_date=datetime(2026, 1, 1))
def patient():
    @task
    def wait() -> str:
        with (PLACE / "started").open("a") as stream:
            stream.write("x")
        while not (PLACE / "go").exists():
            sleep(0.05)
        return "went"

    wait()

patient()
"""


class ServiceManager:
    """The directories of one machine, and the socket that services report to."""

    def __init__(self, root: Path) -> None:
        self.state, self.runtime, self.configuration = root / "state", root / "run", root / "etc"
        for directory, mode in ((self.state, 0o700), (self.runtime, 0o750), (self.configuration, 0o755)):
            directory.mkdir(mode=mode)
        self.dags = root / "dags"
        self.dags.mkdir()
        (self.configuration / "asyncsched.toml").write_text(f'[scheduler]\ndags_dir = "{self.dags}"\n')
        self.messages: list[dict[str, str]] = []
        self.senders: set[int] = set()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(str(root / "notify"))
        self.log = (root / "log").open("ab+")
        self.path = root / "notify"

    def environment(self, unit: Path) -> dict[str, str]:
        known = settings(unit)
        environment = {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ}
        environment["STATE_DIRECTORY"] = str(self.state)
        environment["CONFIGURATION_DIRECTORY"] = str(self.configuration)
        if "RuntimeDirectory" in known:
            environment["RUNTIME_DIRECTORY"] = str(self.runtime)
        if known["Type"] == ["notify"]:
            environment["NOTIFY_SOCKET"] = str(self.path)
            environment["WATCHDOG_USEC"] = "3000000"
        return environment

    @contextmanager
    def service(self, unit: Path):
        known = settings(unit)
        libc = ctypes.CDLL(None)

        def restrict() -> None:
            os.umask(int(known["UMask"][0], 8))
            libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
            if known.get("MemoryDenyWriteExecute") == ["yes"]:
                libc.prctl(SET_MDWE, 1, 0, 0, 0)  # kernels before 6.3 do not know it

        process = subprocess.Popen(
            [sys.executable, "-c", "from scheduler.cli import main; main()", *arguments(unit)],
            env={**self.environment(unit), "PYTHONPATH": str(ROOT)},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            preexec_fn=restrict,
        )
        try:
            yield process
        finally:
            # KillMode=mixed: whatever is left in the end.
            left = tree(process.pid)
            for pid in left:
                with_suppressed_kill(pid)
            process.wait()

    def hear(self, wanted: str, *, again: int = 1) -> list[dict[str, str]]:
        """Receive until a message with this key has come `again` times; return all since the start."""
        deadline = time.monotonic() + LIMIT_S
        while sum(wanted in message for message in self.messages) < again:
            assert wanted == "ERRNO" or not any("ERRNO" in message for message in self.messages), self.said()
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                text, ancillary, _, _ = self.socket.recvmsg(8192, 128)
            except TimeoutError:
                raise AssertionError(f"no {wanted}: {self.messages}\n{self.said()}") from None
            self.senders.add(int.from_bytes(ancillary[0][2][:4], sys.byteorder))
            self.messages.append(dict(line.split("=", 1) for line in text.decode().splitlines()))
        return self.messages

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "scheduler.cli", *command, "--home", str(self.state)],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("ASYNCSCHED_")},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )

    def close(self) -> None:
        self.socket.close()
        self.log.close()


def tree(pid: int) -> list[int]:
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def with_suppressed_kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.fixture
def manager(tmp_path):
    manager = ServiceManager(tmp_path)
    (manager.dags / "units.py").write_text(DAG.format(place=str(tmp_path)))
    yield manager
    manager.close()


def end(manager, process):
    """SIGTERM, as systemd sends it to the main process; all that the service started must be gone with it."""
    everything = tree(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0, manager.said()
    assert [pid for pid in everything if psutil.pid_exists(pid)] == []


def test_the_units_work_together_and_end_in_order(manager):
    with manager.service(SCHEDULER) as scheduler:
        manager.hear("READY")
        assert Home(manager.state).run == manager.runtime
        with manager.service(WORKER) as worker:
            await_dag(manager, "units")
            done = manager.ask("trigger", "units", "--wait", "--timeout", "40", "--json")
            assert done.returncode == 0, done.stdout + done.stderr + manager.said()
            manager.hear("WATCHDOG", again=2)
            end(manager, worker)
        end(manager, scheduler)
        manager.hear("STOPPING")
    order = [key for message in manager.messages for key in message if key in ("READY", "STOPPING")]
    assert order == ["READY", "STOPPING"]
    assert manager.senders == {scheduler.pid}


def test_a_restart_of_the_scheduler_never_touches_a_running_task(manager, tmp_path):
    started = tmp_path / "started"
    with manager.service(SCHEDULER) as scheduler, manager.service(WORKER) as worker:
        manager.hear("READY")
        await_dag(manager, "patient")
        run = json.loads(manager.ask("trigger", "patient", "--json").stdout)["run_id"]
        await_fact(started.exists)
        end(manager, scheduler)
        assert worker.poll() is None
        with manager.service(SCHEDULER) as following:
            manager.hear("READY", again=2)
            [known] = await_fact(lambda: workers(manager))
            # A worker that was told to drain would end its tasks when their grace is over, and take no new ones.
            assert not known["draining"]
            (tmp_path / "go").touch()

            def is_over():
                shown = json.loads(manager.ask("runs", "show", run, "--json").stdout)
                return shown["state"] in ("success", "failed") and shown

            shown = await_fact(is_over)
            assert shown["state"] == "success"
            assert [each["try_number"] for each in shown["tasks"]] == [1]
            assert started.read_text() == "x"
            end(manager, worker)
            end(manager, following)


def workers(manager):
    return json.loads(manager.ask("status", "--json").stdout).get("workers")


def await_dag(manager, dag_id):
    """Ready means that routines work; files are read right after that."""
    await_fact(lambda: dag_id in manager.ask("dags", "list", "--json").stdout)


def await_fact(fact):
    """Return the first true value of `fact()`; the pause only spares the processor."""
    deadline = time.monotonic() + LIMIT_S
    while not (value := fact()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
    return value


def test_a_wrong_configuration_ends_with_the_status_that_is_not_tried_again(manager):
    (manager.configuration / "asyncsched.toml").write_text("[scheduler]\nparalelism = 3\n")
    with manager.service(SCHEDULER) as scheduler:
        assert scheduler.wait(LIMIT_S) == 78
    assert "scheduler.paralelism" in manager.said()
    assert "78" in settings(SCHEDULER)["RestartPreventExitStatus"][0].split()
