"""The shipped units as data."""

import re
import shlex
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"
SCHEDULER = DEPLOY / "asyncsched.service"
WORKER = DEPLOY / "asyncsched-worker@.service"
PROGRAM = "/opt/asyncsched/bin/asyncsched"


def settings(path: Path) -> dict[str, list[str]]:
    """All assignments of a unit, by key, in order."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if match := re.fullmatch(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def arguments(path: Path) -> list[str]:
    """What ExecStart gives the program."""
    [line] = settings(path)["ExecStart"]
    program, *rest = shlex.split(line)
    assert program == PROGRAM
    return rest
