"""Has one DAG file executed in a child process, and makes sense of whatever comes back."""

import os
import re
import signal
import sys
from pathlib import Path

import trio
from attrs import frozen

import scheduler
from nurseries.errors import ChildFailed
from nurseries.processes import Completed, run_to_end
from scheduler.loading import document
from scheduler.loading.exits import DEAF
from scheduler.model import Dag

DOCUMENT_LIMIT = 32 * 1024 * 1024
"""Bytes of JSON that the dags of one file may amount to, its text included."""

_MARGIN_SECONDS = 5.0
_STARTS = 3
_ROOT = str(Path(scheduler.__file__).resolve().parent.parent)
_START = "import sys; sys.path.append(sys.argv.pop(1)); from scheduler.loading.child import main; main()"
_PRIVATE = re.compile(r"ASYNCSCHED_(?!HOME$).*|NOTIFY_SOCKET|WATCHDOG_.*|LISTEN_.*|CREDENTIALS_DIRECTORY")


@frozen(kw_only=True)
class Loaded:
    """A DAG file that loads."""

    source: str
    source_hash: str
    """SHA-256 of the text in hex."""
    dags: tuple[Dag, ...]
    file: str = ""


@frozen(kw_only=True)
class ImportFailure:
    """A DAG file that does not, for its author to read."""

    line: int | None
    message: str
    file: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line is not None else f"{self.file}: {self.message}"


async def load_file(
    path: Path,
    *,
    timeout: float,
    memory_limit: int,
    shown_as: str | None = None,
    user: str | int | None = None,
    group: str | int | None = None,
) -> Loaded | ImportFailure:
    """Execute a DAG file in a child process and return its dags, or what is wrong with it.

    `timeout` in seconds, `memory_limit` in bytes of address space. `shown_as` is its name for people. `user` and
    `group` are whom the child shall be. Nothing the file does makes this raise.
    """
    shown = os.fspath(path) if shown_as is None else shown_as
    file = str(path.absolute())  # noqa: ASYNC240 -- asks for the current folder, which is in memory
    argv = [sys.executable, "-P", "-c", _START, _ROOT, file, f"{timeout:f}"]
    env = {name: value for name, value in os.environ.items() if not _PRIVATE.fullmatch(name)}
    for attempt in range(1, _STARTS + 1):
        try:
            done = await run_to_end(
                argv,
                name=f"loading {shown}",
                timeout=timeout + _MARGIN_SECONDS,
                memory_limit=memory_limit,
                output_limit=DOCUMENT_LIMIT,
                env=env,
                user=user,
                group=group,
            )
        except (OSError, ChildFailed) as error:
            if attempt == _STARTS:
                return ImportFailure(
                    file=shown, line=None, message=f"the process that loads the file does not start: {error}"
                )
            await trio.sleep(attempt)
        else:
            return _read(done, file, shown, timeout)
    raise AssertionError("unreachable")


def _read(done: Completed, file: str, shown: str, timeout: float) -> Loaded | ImportFailure:
    if done.returncode == 0 and done.stdout and not done.timed_out and not done.overflowed:
        try:
            said = document.decode(done.stdout)
        except (ValueError, RecursionError) as error:
            return ImportFailure(
                file=shown,
                line=None,
                message=f"the file interferes with how it is loaded: what was read back is not in order ({error})",
            )
        if said.error is not None:
            return ImportFailure(file=shown, line=said.error.line, message=said.error.message)
        return Loaded(file=shown, source=said.source, source_hash=said.source_hash, dags=said.dags)
    return ImportFailure(file=shown, line=_last_line(done.stderr, file), message=_explain(done, timeout))


def _explain(done: Completed, timeout: float) -> str:
    """Why there is no document."""
    if done.timed_out or done.stderr.startswith(b"Timeout ("):
        return (
            f"loading took longer than {timeout:g} s (loading.timeout_s) and was stopped: "
            "move the work into a task, or end the loop"
        )
    if done.overflowed:
        return f"the dags of this file are more than {DOCUMENT_LIMIT >> 20} MiB as JSON: split the file"
    if done.returncode == DEAF:
        return "the file closes descriptors that it has not opened: remove the os.close() or os.closerange()"
    if done.returncode < 0:
        return _explain_signal(-done.returncode)
    return (
        f"the process that loads the file ended with status {done.returncode} before it was done: remove what ends it"
    )


def _explain_signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT):
        return f"Python crashed with {name} while the file was loaded: a C library that it calls, or endless recursion"
    if number == signal.SIGKILL:
        return (
            "the process that loads the file was killed (SIGKILL): by the file itself, by somebody, or by the kernel "
            "for want of memory"
        )
    return f"the process that loads the file was ended by {name}: remove what sends that signal"


def _last_line(dump: bytes, file: str) -> int | None:
    """The line of the file in what faulthandler wrote, the most recent call being the first."""
    shown = file.encode("ascii", "backslashreplace")[:400]
    match = re.search(rb'File "' + re.escape(shown) + rb'[^"]*", line (\d+)', dump)
    return int(match[1]) if match else None
