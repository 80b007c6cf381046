"""The command line as users run it: a process of its own, against a control socket with scripted answers."""

import io
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from attrs import define, field

from scheduler.cli import main
from scheduler.control.operation import Operation
from scheduler.control.protocol import ControlError

REPOSITORY = Path(__file__).parents[2]
LIMIT_S = 60


@define
class Result:
    """How a command ended and what it said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)


@define
class CommandLine:
    """Runs `asyncsched` with an environment of its own."""

    home: Path
    environ: dict[str, str] = field(factory=dict)

    def __call__(self, *words: str, stdin: str = "", **variables: str) -> Result:
        """Run a command in this process, its output not a terminal: much cheaper than a process each."""
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CLICOLOR_FORCE", "")  # what --color does to the environment ends with this command
            patch.setenv("NO_COLOR", "")
            for name in set(os.environ) - set(kept := self.environment(variables)):
                patch.delenv(name)
            for name, value in kept.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["asyncsched", *words])
            for name, stream in (("stdin", io.StringIO(stdin)), ("stdout", out), ("stderr", err)):
                patch.setattr(sys, name, stream)
            with pytest.raises(SystemExit) as end:
                main()
        said = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
        return Result(int(end.value.code or 0), *said)

    def process(self, *words: str, stdin: str = "", **variables: str) -> Result:
        """Run a command as a process of its own, its output in pipes."""
        ended = subprocess.run(
            [sys.executable, "-m", "scheduler.cli", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            env=self.environment(variables),
            check=False,
        )
        return Result(ended.returncode, ended.stdout, ended.stderr)

    def on_terminal(self, *words: str, **variables: str) -> Result:
        """Run a command on a terminal of 100 columns; everything it says is in `out`."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "scheduler.cli", *words],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env=self.environment({"TERM": "xterm-256color", "COLUMNS": "100", **variables}),
        )
        os.close(theirs)
        said = bytearray()
        try:
            while chunk := os.read(ours, 65536):
                said += chunk
        except OSError:
            pass  # EIO: the last process on the terminal has closed it
        finally:
            os.close(ours)
        return Result(process.wait(LIMIT_S), said.decode().replace("\r\n", "\n"), "")

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        ours = {"ASYNCSCHED_HOME": str(self.home), "PYTHONPATH": str(REPOSITORY), "TZ": "UTC", "PYTHONUTF8": "1"}
        return kept | ours | self.environ | dict(variables)


@define
class Daemon:
    """A control server with scripted answers."""

    answers: dict[str, Any] = field(factory=dict)
    """op -> the result, or an exception to refuse with, or a function from nothing to the result."""
    requests: list[tuple[str, dict[str, Any]]] = field(factory=list)

    def operations(self) -> Mapping[str, Operation[Any, Any]]:
        return _Scripted(self)


class _Scripted(dict[str, Operation[Any, Any]]):
    def __init__(self, daemon: Daemon) -> None:
        super().__init__()
        self._daemon = daemon

    def get(self, op: str, default: Any = None) -> Any:
        daemon = self._daemon
        if op not in daemon.answers:
            return default

        async def answer(_: Any, arguments: dict[str, Any]) -> Any:
            daemon.requests.append((op, arguments))
            given = daemon.answers[op]
            if isinstance(given, ControlError):
                raise given
            return given() if callable(given) else given

        return Operation(dict[str, Any], answer)
