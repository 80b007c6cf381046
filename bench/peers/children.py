"""The processes of a peer: started together, watched while something is awaited, and gone afterwards."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
from attrs import define, field

from bench.daemon import Failed

PROGRAMS = Path(__file__).parent / "programs"
STOP_LIMIT_S = 20.0
_OURS = ("ASYNCSCHED_", "AIRFLOW", "PREFECT_", "PYTHON", "VIRTUAL_ENV", "PG")


def environment(home: Path, place: Path, more: Mapping[str, str]) -> dict[str, str]:
    """Nothing of the caller's that would configure a peer; `home` is its virtual environment, `place` its HOME."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return kept | {"PATH": f"{home / 'bin'}:{kept.get('PATH', os.defpath)}", "HOME": str(place), "TZ": "UTC"} | more


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@define
class Children:
    """Started in `place`, each with a log of its own there."""

    place: Path
    environment: Mapping[str, str]
    running: dict[str, psutil.Popen] = field(factory=dict)

    def run(self, name: str, command: Sequence[str], *, limit_s: float = 120.0) -> str:
        """Run to the end and return what it printed. Raises Failed."""
        with self._log(name).open("ab") as log:
            try:
                done = subprocess.run(
                    command,
                    env=self.environment,
                    cwd=self.place,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    timeout=limit_s,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise Failed(f"{name} took more than {limit_s:.0f} s") from None
            log.write(done.stdout)
        if done.returncode != 0:
            raise Failed(f"{name} ended with {done.returncode}: {self.tail(name)}")
        return done.stdout.decode()

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start it; it is to run until `end`."""
        with self._log(name).open("ab") as log:
            self.running[name] = psutil.Popen(
                command,
                env=self.environment,
                cwd=self.place,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise Failed if one of them has ended."""
        for name, process in self.running.items():
            if process.poll() is not None:
                raise Failed(f"{name} ended with {process.returncode}: {self.tail(name)}")

    def pids(self) -> list[int]:
        return [process.pid for process in self.running.values()]

    def tail(self, name: str) -> str:
        """The end of its log, for a message."""
        lines = self._log(name).read_text(errors="replace").splitlines()
        return " | ".join(line for line in lines[-6:] if line.strip())[-600:]

    def end(self) -> None:
        """Ask them to end, then make sure of it, descendants included, in whatever session they are."""
        everybody: set[psutil.Process] = set()
        for process in self.running.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                everybody |= {process, *process.children(recursive=True)}
                process.terminate()
        psutil.wait_procs(self.running.values(), timeout=STOP_LIMIT_S)  # most end their children themselves
        alive = list(everybody)
        for ask in (psutil.Process.terminate, psutil.Process.kill):
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    ask(process)
            _, alive = psutil.wait_procs(alive, timeout=5.0)
        self.running.clear()

    def _log(self, name: str) -> Path:
        return self.place / f"{name}.log"


def wait_until(what: str, limit_s: float, ready: Callable[[], bool], alive: Callable[[], None]) -> None:
    """Poll until it is so. Raises Failed."""
    deadline = time.monotonic() + limit_s
    while not ready():
        alive()
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not after {limit_s:.0f} s")
        time.sleep(0.2)
