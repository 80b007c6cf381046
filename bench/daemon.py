"""A daemon as users start it, on a home of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

from bench.machine import ROOT
from nurseries.testing import NotifySink
from scheduler.control.client import ControlClient, connect_unix
from scheduler.home import Home

START_LIMIT_S = 120.0
STOP_LIMIT_S = 60.0
WAIT_S = 30.0


class Failed(Exception):
    """A measurement could not be made; the message says why."""


@define(eq=False)
class Daemon:
    """`asyncsched run` in a process of its own; everything it says is in `log`."""

    home: Home
    dags_dir: Path
    scratch: Path
    settings: dict[str, str] = field(factory=dict)
    """Environment, on top of an environment without any setting of ours."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.scratch / "daemon.log"

    @property
    def pid(self) -> int:
        assert self.process is not None, "the daemon runs"
        return self.process.pid

    def start(self) -> float:
        """Start it; return the seconds until READY. Raises Failed."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ASYNCSCHED_")}
        with NotifySink(self.scratch) as sink, self.log.open("ab") as log:
            began = time.monotonic()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scheduler.cli", "run", str(self.dags_dir), "--home", str(self.home.path)],
                env=environment | self.settings | {"NOTIFY_SOCKET": str(sink.path), "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            trio.run(self._wait_ready, sink)
            return time.monotonic() - began

    async def _wait_ready(self, sink: NotifySink) -> None:
        process = self.process
        assert process is not None, "it has just been started"
        ready = False
        with trio.move_on_after(START_LIMIT_S):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def watch() -> None:
                    while process.poll() is None:
                        await trio.sleep(0.05)
                    nursery.cancel_scope.cancel()

                await sink.wait_for("READY=1")
                ready = True
                nursery.cancel_scope.cancel()
        if not ready:
            what = "was not ready in time" if process.poll() is None else f"ended with {process.returncode}"
            raise Failed(f"the daemon {what}: {self.log.read_text()[-2000:]}")

    def stop(self) -> float:
        """SIGTERM; return the seconds until it has ended. Raises Failed when it does not, or not with 0."""
        process = self.process
        assert process is not None, "the daemon runs"
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"the daemon did not end within {STOP_LIMIT_S:.0f} s") from None
        seconds = time.monotonic() - began
        self.process = None
        if status != 0:
            raise Failed(f"the daemon ended with {status}: {self.log.read_text()[-2000:]}")
        return seconds

    def end(self) -> None:
        """However it stands: nothing is left afterwards."""
        process, self.process = self.process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()  # its children end by themselves when their lifeline closes
                process.wait()

    @contextmanager
    def client(self) -> Iterator[ControlClient]:
        path = self.home.control_socket
        with ControlClient(lambda: connect_unix(path, home=self.home.path)) as client:
            yield client

    def wait_for_dags(self, dag_ids: list[str]) -> None:
        """Return when all of these are loaded. Raises Failed."""
        with self.client() as client:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                loaded = {one["dag_id"] for one in client.call("dags.list")}
                if loaded >= set(dag_ids):
                    return
                time.sleep(0.05)
            raise Failed(f"not loaded: {set(dag_ids) - loaded}; import errors: {client.call('dags.check')}")


def wait_for_success(client: ControlClient, dag_id: str, run_id: str, *, limit_s: float = 300.0) -> dict[str, Any]:
    """Return the run when it has ended. Raises Failed when it failed, or has not ended in time."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        seen: dict[str, Any] = client.call("runs.wait", wait_seconds=WAIT_S, run=f"{dag_id}/{run_id}", seconds=WAIT_S)
        if seen["state"] == "success":
            return seen
        if seen["state"] == "failed":
            raise Failed(f"{dag_id} {run_id} failed: {seen['counts']}")
    raise Failed(f"{dag_id} {run_id} has not ended after {limit_s:.0f} s")
