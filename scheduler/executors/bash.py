"""Runs the command of a bash task: output to the log, its last line as the result."""

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Mapping

from scheduler.executors.stops import TaskStopped, TaskTimeout, stops_held

SKIP_EXIT_CODE = 99
_CHUNK = 65536


class BashError(Exception):
    """The command ended with a status other than 0."""

    def __init__(self, message: str, *, skips: bool) -> None:
        super().__init__(message)
        self.skips = skips


def run_bash(command: object, *, variables: Mapping[str, str], limit: int) -> str | None:
    """Run `command` and return the last line it wrote to stdout, or None; a line is cut to its last `limit` bytes.

    The command stays in the task's process group, so what ends the group ends it.
    Raises BashError, TypeError when `command` is not text, OSError when there is no bash.
    """
    if not isinstance(command, str):
        raise TypeError(f"a bash task returns its command as str, not {type(command).__name__}")
    process: subprocess.Popen[bytes] | None = None
    try:
        with stops_held():  # or the command could run without our knowing
            process = _start(command, variables)
        tail = _copy_output(process, keep=limit)
        status = process.wait()
    except (TaskTimeout, TaskStopped):
        if process is not None:
            _end(process)
        raise
    if status == 0:
        return _last_line(tail)
    if status < 0:
        raise BashError(f"bash was killed by {signal.Signals(-status).name}", skips=False)
    if status == SKIP_EXIT_CODE:
        raise BashError(f"bash ended with status {SKIP_EXIT_CODE}, which means skip", skips=True)
    raise BashError(f"bash ended with status {status}", skips=False)


def _start(command: str, variables: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        ["bash", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, **variables},
    )


def _copy_output(process: "subprocess.Popen[bytes]", *, keep: int) -> bytes:
    """Pass output on to the log until the command has ended; what it left in the background is not awaited."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    os.set_blocking(output, False)
    ended = os.pidfd_open(process.pid)
    tail = bytearray()
    try:
        poll = select.poll()
        poll.register(output, select.POLLIN)
        poll.register(ended, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if output in ready and not _copy_chunk(output, tail, keep):
                poll.unregister(output)
            if ended in ready:
                while _copy_chunk(output, tail, keep):
                    pass
                return bytes(tail)
    finally:
        os.close(ended)


def _copy_chunk(output: int, tail: bytearray, keep: int) -> bool:
    """False when there is nothing more to read now."""
    try:
        data = os.read(output, _CHUNK)
    except BlockingIOError:
        return False
    if not data:
        return False
    tail += data
    # Only the last line counts; a trailing line break still belongs to it.
    cut = max(tail.rstrip(b"\r\n").rfind(b"\n") + 1, len(tail) - keep - 2)
    if cut > 0:
        del tail[:cut]
    with contextlib.suppress(OSError):
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]
    return True


def _last_line(tail: bytes) -> str | None:
    lines = tail.rstrip(b"\r\n").rsplit(b"\n", 1)
    return lines[-1].decode("utf-8", "replace") if lines[-1] else None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Give the command time to end by itself: the worker kills the whole group when its grace has passed."""
    process.terminate()
    while True:
        try:
            process.wait()
            return
        except TaskStopped:
            continue
