"""Ctrl-C ends a command that waits, quietly and with the status shells expect."""

import signal
import subprocess
import sys
import threading
from typing import Any

from tests.cli.support import CommandLine, Daemon

QUEUED = {"dag_id": "etl", "run_id": "manual__1", "state": "queued"}


def test_ctrl_c_while_waiting_exits_130(asyncsched: CommandLine, daemon: Daemon) -> None:
    asked, release = threading.Event(), threading.Event()

    def answer() -> Any:
        asked.set()
        release.wait(30)
        return QUEUED | {"counts": {}}

    daemon.answers |= {"runs.trigger": QUEUED, "runs.wait": answer}
    command = [sys.executable, "-m", "scheduler.cli", "trigger", "etl", "--wait"]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=asyncsched.environment({}),
        # a shell starts what it puts into the background with Ctrl-C ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert asked.wait(30)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        finally:
            release.set()
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in said
