"""Reads log files of attempts as they grow, and prints them with a heading when there is more than one."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field

CHUNK = 64 * 1024
PAUSE = 0.2
"""Seconds between looks at growing files."""

# On a terminal only colours pass; any other escape sequence or control character could drive the reader's terminal.
_ESCAPES = re.compile(
    rb"\x1b\[[0-9;:]*m"  # kept: colours
    rb"|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?"
    rb"|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f]|\xc2[\x80-\x9f]"
)


@define
class _Source:
    path: Path
    position: int = 0
    said_missing: bool = False


@define
class LogReader:
    """Prints what is new in the logs it is shown. `directory` is where relative paths begin.

    Headings appear as soon as there is more than one log, or from the first one if more are `expected`.
    """

    directory: Path
    last_lines: int | None = field(default=None, kw_only=True)
    expected: bool = field(default=False, kw_only=True)
    _sources: dict[str, _Source] = field(factory=dict, init=False)
    _heading: str | None = field(default=None, init=False)

    def show(self, logs: Sequence[Mapping[str, Any]]) -> None:
        """Print everything that these attempts have written since they were last shown."""
        many = self.expected or len(logs) > 1
        for log in logs:
            key = log["path"]
            source = self._sources.get(key)
            if source is None:
                source = self._sources[key] = _Source(self.directory / key)
                if self.last_lines is not None:
                    source.position = _start_of_last_lines(source.path, self.last_lines)
            self._copy(source, heading=_heading(log) if many else None)

    def finish(self, logs: Sequence[Mapping[str, Any]]) -> None:
        """Say what is left to say: which logs are not there, and that there is nothing at all."""
        from scheduler.cli.output import hint

        self.show(logs)
        if not logs:
            hint("Nothing has run yet, so there is no log: asyncsched tasks list shows what is waited for.")
        for log in logs:
            if not (self.directory / log["path"]).exists():
                hint(f"{_heading(log)}: {_why_missing(log)}")

    def wait(self) -> None:
        """Give the writers a moment."""
        import time

        time.sleep(PAUSE)

    def _copy(self, source: _Source, *, heading: str | None) -> None:
        try:
            stream = source.path.open("rb")
        except FileNotFoundError:
            return
        except PermissionError:
            if not source.said_missing:
                from scheduler.cli.output import complain

                source.said_missing = True
                complain(f"{source.path} may only be read by the user the daemon runs as")
            return
        with stream:
            stream.seek(source.position)
            while chunk := stream.read(CHUNK):
                if heading is not None and heading != self._heading:
                    _write_heading(heading, first=self._heading is None)
                    self._heading = heading
                source.position += len(chunk)
                _write(chunk)
        sys.stdout.flush()


def _heading(log: Mapping[str, Any]) -> str:
    index = f"[{log['map_index']}]" if log["map_index"] >= 0 else ""
    return f"{log['task_id']}{index}#{log['try_number']}"


def _why_missing(log: Mapping[str, Any]) -> str:
    if log["start_date"] is None:
        return f"no log, it is {log['state']} and has not started"
    if log["state"] in ("queued", "running"):
        return "it has written nothing yet"
    said = f": {log['message']}" if log["message"] else ""
    where = f" (it ran on {log['hostname']})" if log["hostname"] else ""
    return f"its log is not on this machine, or has been pruned{where}; it ended as {log['state']}{said}"


def _write_heading(heading: str, *, first: bool) -> None:
    from scheduler.cli.output import console, is_decorated

    if is_decorated():
        sys.stdout.flush()
        console().rule(heading, style="dim", align="left")
    else:
        sys.stdout.write(f"{'' if first else chr(10)}==> {heading} <==\n")


def _write(chunk: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(clean(chunk) if sys.stdout.isatty() else chunk)


def clean(chunk: bytes) -> bytes:
    """`chunk` as it may be sent to a terminal: colours stay, all other control sequences go."""
    return _ESCAPES.sub(lambda found: found[0] if found[0].endswith(b"m") and found[0][1:2] == b"[" else b"", chunk)


def _start_of_last_lines(path: Path, count: int) -> int:
    """Where the last `count` lines of a file begin, read from its end in blocks."""
    try:
        with path.open("rb") as stream:
            end = position = stream.seek(0, os.SEEK_END)
            if count == 0:
                return end
            wanted = count
            while position > 0:
                size = min(CHUNK, position)
                position -= size
                stream.seek(position)
                block = stream.read(size)
                at = len(block)
                while (at := block.rfind(b"\n", 0, at)) >= 0:
                    if position + at + 1 == end:
                        continue  # the end of the last line, not the start of one
                    wanted -= 1
                    if wanted == 0:
                        return position + at + 1
    except FileNotFoundError:
        pass
    return 0
