"""A virtual environment for each peer, made at its first use and kept: never the project's own."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.daemon import Failed
from bench.peers.versions import Pin

LIMIT_S = 900.0
COMPLETE = ".complete"


def cache_directory() -> Path:
    """BENCH_CACHE, or asyncsched-bench in the user's cache directory."""
    if named := os.environ.get("BENCH_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asyncsched-bench"


def environment(pin: Pin, cache: Path) -> Path:
    """Return the directory of the peer's environment, making it if there is none yet. Raises Failed."""
    cache.mkdir(parents=True, exist_ok=True)
    interpreter, version = _interpreter(pin)
    place = cache / pin.key(version)
    with _only_one(cache / f"{pin.name}.lock"):
        if not (place / COMPLETE).exists():
            shutil.rmtree(place, ignore_errors=True)
            _make(pin, interpreter, place, cache / f"{pin.name}.log")
            (place / COMPLETE).touch()
    return place


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(pin: Pin, interpreter: str, place: Path, log: Path) -> None:
    python = str(place / "bin" / "python")
    wanted = [*pin.requirements, *pin.locked]
    uv = shutil.which("uv")
    if uv:
        steps = [[uv, "venv", "--python", interpreter, str(place)], [uv, "pip", "install", "--python", python, *wanted]]
    else:
        steps = [[interpreter, "-m", "venv", str(place)], [python, "-m", "pip", "install", *wanted]]
    with log.open("w") as out:
        for step in steps:
            try:
                done = subprocess.run(step, stdout=out, stderr=out, timeout=LIMIT_S, check=False, env=_environment())
            except subprocess.TimeoutExpired:
                raise Failed(f"installing took more than {LIMIT_S:.0f} s; see {log}") from None
            except OSError as error:
                raise Failed(f"cannot be installed: {error}") from None
            if done.returncode != 0:
                raise Failed(f"cannot be installed: {reason(log.read_text())} (see {log})")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}


def reason(output: str) -> str:
    """The line of an installer's output which says why it gave up: the last that names an error, or the last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    named = [line for line in lines if line.lower().startswith(("error", "cause", "because"))]
    return (named or lines or ["it did not say why"])[-1][:300]


def _interpreter(pin: Pin) -> tuple[str, tuple[int, int]]:
    """Ours if it will do, otherwise another of this machine. Raises Failed."""
    for candidate in _candidates():
        version = _version(candidate)
        if version is not None and pin.runs_on(version):
            return candidate, version
    raise Failed(f"needs Python {pin.python}, and none was found on this machine")


def _candidates() -> Iterator[str]:
    yield sys.executable
    for minor in range(14, 9, -1):
        if found := shutil.which(f"python3.{minor}"):
            yield found
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted((str(path) for path in pyenv.glob("versions/3.*/bin/python")), reverse=True)


def _version(interpreter: str) -> tuple[int, int] | None:
    """None when it does not run: a shim of a version that is not installed, for example."""
    with tempfile.TemporaryDirectory() as nowhere:
        try:
            said = subprocess.run(
                [interpreter, "-c", "import sys, venv; print(*sys.version_info[:2])"],
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
                cwd=nowhere,
            ).stdout.split()
            return int(said[0]), int(said[1])
        except (OSError, subprocess.SubprocessError, ValueError, IndexError):
            return None
