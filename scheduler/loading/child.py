"""Executes one DAG file and says, as one JSON document on the stdout it was given, what came of it.

The file may do anything: print, exit, close descriptors, fork, crash. So the way out is taken before it runs: stdout
and stderr are moved to high descriptors, and what the file prints goes nowhere. Only faulthandler writes to the
moved stderr: the line where the process crashed or ran out of time, which `loader` reads.
"""

import contextlib
import faulthandler
import fcntl
import hashlib
import os
import resource
import sys
import tokenize
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import FrameType, ModuleType, TracebackType
from typing import Any, NoReturn

import msgspec

from scheduler.authoring.errors import DagError
from scheduler.authoring.registry import collect_dags
from scheduler.loading.document import Document, Problem
from scheduler.loading.exits import DEAF
from scheduler.model import Dag
from scheduler.timetables import validate

SOURCE_LIMIT = 8 * 1024 * 1024
"""Bytes of a DAG file."""

_MESSAGE_LIMIT = 1000
_LEAVE = os._exit
_encode = msgspec.json.Encoder(order="deterministic").encode


class _Unreadable(Exception):
    """A file whose text cannot be had; the message is for people."""


def main() -> NoReturn:
    """`python -m scheduler.loading.child FILE [SECONDS]`."""
    file = sys.argv[1]
    out, err = (_move_up(fd) for fd in (1, 2))
    _mute()
    faulthandler.enable(file=err, all_threads=False)
    if len(sys.argv) > 2:
        faulthandler.dump_traceback_later(float(sys.argv[2]), exit=True, file=err)
    voice = _Voice(out, file)
    voice.watch_exit()
    voice.say(_load(file))


class _Voice:
    """Says one document and leaves; a forked copy of this process only leaves."""

    def __init__(self, out: int, file: str) -> None:
        self._out = out
        self._file = file
        self._pid = os.getpid()

    def say(self, document: Document) -> NoReturn:
        if os.getpid() != self._pid:
            _LEAVE(0)
        try:
            data = _encode(document)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
            problem = Problem(None, f"the dags of this file cannot be written as JSON: {_first_line(error)}")
            data = _encode(Document(error=problem))
        try:
            while data:
                data = data[os.write(self._out, data) :]
        except OSError:
            _LEAVE(DEAF)
        _LEAVE(0)

    def watch_exit(self) -> None:
        """`os._exit` in the file would leave without a word: say who did it, and where."""

        def _exit(status: int) -> NoReturn:
            if os.getpid() == self._pid:
                line = _line_of_frames(self._file)
                self.say(_failed(line, f"the file calls os._exit({status!r}) while it is loaded: remove the call"))
            _LEAVE(status)

        os._exit = _exit


def _move_up(fd: int) -> int:
    """Out of the reach of code that closes the descriptors it knows, or the first few hundred."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    for floor in (min(most, 65536) - 20, 900, 200, 20):
        with contextlib.suppress(OSError, ValueError, OverflowError):
            return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, floor)
    return os.dup(fd)


def _mute() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nowhere, fd)
    if nowhere > 2:
        os.close(nowhere)


# --- loading ------------------------------------------------------------------------------------------------


def _load(file: str) -> Document:
    reserve: list[bytes] = [bytes(1 << 20)]  # to be able to speak when memory has run out
    try:
        source = read_source(Path(file))
        source_hash = hashlib.sha256(source.encode()).hexdigest()
        module = _execute(source, source_hash, file)
        dags = tuple(_model_of(dag.to_model) for dag in collect_dags(vars(module)).values())
        return Document(source=source, source_hash=source_hash, dags=dags)
    except _Unreadable as error:
        return _failed(None, str(error))
    except BaseException as error:
        reserve.clear()
        line = _line_of(error, file)
        error.__traceback__ = None  # its frames may hold all the memory there is
        return _failed(line, _message(error, file))


def read_source(path: Path) -> str:
    """The text of a DAG file. Raises _Unreadable."""
    try:
        with open(path, "rb") as file:
            data = file.read(SOURCE_LIMIT + 1)
    except OSError as error:
        raise _Unreadable(f"the file cannot be read: {error.strerror}") from None
    if len(data) > SOURCE_LIMIT:
        raise _Unreadable(f"the file is larger than {SOURCE_LIMIT >> 20} MiB: keep data in files of its own")
    try:
        encoding, _ = tokenize.detect_encoding(BytesIO(data).readline)
        if encoding not in ("utf-8", "utf-8-sig"):
            raise _Unreadable(f"the file is declared to be {encoding}: save it as UTF-8")
        return data.decode("utf-8-sig")
    except (SyntaxError, UnicodeDecodeError):
        raise _Unreadable("the file is not UTF-8: save it as UTF-8") from None


def _execute(source: str, source_hash: str, file: str) -> ModuleType:
    """Execute the text the way a warm parent does, so that what loads here also runs there."""
    code = compile(source, file, "exec", dont_inherit=True)
    stem = "".join(ch if ch.isalnum() else "_" for ch in Path(file).stem)
    module = ModuleType(f"asyncsched_dag_{stem}_{source_hash[:12]}")
    module.__file__ = file
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(Path(file).parent))
    sys.argv = [file]
    exec(code, vars(module))  # noqa: S102
    return module


def _model_of(to_model: Callable[[], Dag]) -> Dag:
    dag = to_model()
    try:
        validate(dag.schedule)
    except ValueError as error:
        raise DagError(f"dag {dag.dag_id!r}: its schedule cannot be used: {error}", dag.line) from None
    return dag


# --- messages -----------------------------------------------------------------------------------------------


def _failed(line: int | None, message: str) -> Document:
    return Document(error=Problem(line, _clean(message)))


def _line_of(error: BaseException, file: str) -> int | None:
    """The line of the file that is to blame."""
    if isinstance(error, DagError) and error.line is not None:
        return error.line
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    return _line_of_traceback(error.__traceback__, file)


def _line_of_traceback(tb: TracebackType | None, file: str) -> int | None:
    line = None
    while tb is not None:
        if tb.tb_frame.f_code.co_filename == file:
            line = tb.tb_lineno
        tb = tb.tb_next
    return line


def _line_of_frames(file: str) -> int | None:
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    while frame is not None and frame.f_code.co_filename != file:
        frame = frame.f_back
    return None if frame is None else frame.f_lineno


def _message(error: BaseException, file: str) -> str:
    name = type(error).__name__
    text = _first_line(error)
    said = f"{name}: {text}" if text else name
    match error:
        case DagError():
            return text
        case SystemExit():
            return f"the file calls sys.exit({text}) while it is loaded: remove the call"
        case MemoryError():
            return "MemoryError: the file needs more memory to load than loading.memory_mb allows: move work into tasks"
        case RecursionError():
            return f"{said}: a function, or a value, contains itself without end"
        case SyntaxError() if error.filename != file:
            return f"{said} (in {error.filename}, line {error.lineno}, which this file imports)"
        case ModuleNotFoundError():
            return f"{said}: install it for {sys.executable}, or correct the name"
    return said


def _first_line(error: BaseException) -> str:
    try:
        if isinstance(error, SyntaxError):
            text: Any = error.msg
        elif isinstance(error, SystemExit):
            text = "" if error.code is None else repr(error.code)
        elif isinstance(error, DagError):
            text = error.message
        else:
            text = str(error)
        return next((part.strip() for part in str(text).splitlines() if part.strip()), "")
    except BaseException:  # what the file raises may do anything, also when it is shown
        return "(its text cannot be shown)"


def _clean(text: str) -> str:
    """Text that any database and terminal can hold."""
    text = text[: 4 * _MESSAGE_LIMIT].encode("utf-8", "backslashreplace").decode()
    text = "".join(ch if ch.isprintable() else " " for ch in text)
    return text if len(text) <= _MESSAGE_LIMIT else text[: _MESSAGE_LIMIT - 3] + "..."


if __name__ == "__main__":
    main()
