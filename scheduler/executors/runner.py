"""Inside the task process: wait for the word to go, run the user's callable, report how it ended.

Everything said about the attempt by ours goes straight to descriptor 2, because `sys.stderr` and the logging tree
belong to the user's code by then.
"""

import contextlib
import fcntl
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import FrameType, ModuleType, TracebackType
from typing import Any, NoReturn

from scheduler.authoring import DAG, FailTask, SkipTask
from scheduler.authoring.context import set_context
from scheduler.authoring.registry import collect_dags
from scheduler.executors import context, reuse_process
from scheduler.executors.bash import BashError, run_bash
from scheduler.executors.job import Ended, Go, Job, Line, Service
from scheduler.executors.results import ResultError, encode_result
from scheduler.executors.stops import TaskStopped, TaskTimeout, ignore_sigterm, raise_on_sigterm, time_limit
from scheduler.model import OutcomeKind, TaskKind, Workload

_OURS = str(Path(__file__).resolve().parent.parent) + os.sep
_MESSAGE_LIMIT = 1000
_OUT_OF_THE_WAY = 200

Dags = Mapping[str, DAG]
"""By id."""


def serve(sock: socket.socket, load: Callable[[], Dags]) -> NoReturn:
    """The whole life of a task process. `load` gives the dags of the DAG file (at once, in a warm process)."""
    line = Line(_move_away(sock))
    pid = os.getpid()
    try:
        job = line.wait_for_job()
        if job is None:
            os._exit(0)
        if isinstance(job, Service):
            reuse_process.serve(line, job, lambda: _for_many(load))
        try:
            dags = load()
        except BaseException as error:
            say(format_exception(error))
            line.report(import_failure(error))
            os._exit(0)
        go = go_of(line, job)
        if go is None:
            os._exit(0)
        _reseed()
        ended = attempt(job, go, dags)
        if os.getpid() != pid:  # user code forked, and the child came back here
            os._exit(0)
        line.report(ended)
        os._exit(0)
    finally:
        os._exit(1)


def _for_many(load: Callable[[], Dags]) -> Callable[[Job], Ended]:
    """How a runner does each of its jobs, the file loaded once. One that cannot be imported fails them all."""
    try:
        dags = load()
    except BaseException as error:
        failure, text = import_failure(error), format_exception(error)

        def fail(_job: Job) -> Ended:
            say(text)
            return failure

        return fail
    _reseed()
    return lambda job: _perform(job, Go(inputs=job.workload.inputs or {}), dags)


def go_of(line: Line, job: Job) -> Go | None:
    """The word to go, waited for if the job is not it. None when the attempt must not run."""
    return line.wait_for_go() if job.workload.inputs is None else Go(inputs=job.workload.inputs)


def dags_of(module: ModuleType) -> Dags:
    """The dags it made, by id. What their tasks need is imported. Raises DagError."""
    dags = collect_dags(vars(module))
    if any(node.is_async for dag in dags.values() for node in dag.nodes):
        import_module("scheduler.executors.async_tasks")
    return dags


def import_failure(error: BaseException) -> Ended:
    """What every attempt of a file that does not import reports."""
    return Ended(kind=OutcomeKind.FAILED, reason="import", message=f"the DAG file does not import: {one_line(error)}")


def attempt(job: Job, go: Go, dags: Dags) -> Ended:
    """Run user code between two lines in its log, and say how it ended."""
    workload = job.workload
    say(
        f"{_stamp()} asyncsched: {workload.dag_id}.{workload.task_id} starts: run {workload.run_id}, "
        f"try {workload.try_number} of {workload.max_tries + 1}, pid {os.getpid()}\n"
    )
    began = time.monotonic()
    pid = os.getpid()
    ended = _perform(job, go, dags)
    if os.getpid() == pid:
        told = f": {ended.message}" if ended.message else ""
        say(f"{_stamp()} asyncsched: {ended.kind} after {time.monotonic() - began:.3f} s{told}\n")
    return ended


def _perform(job: Job, go: Go, dags: Dags) -> Ended:
    raise_on_sigterm()
    pid = os.getpid()
    try:
        try:
            ended = _run(job, go, dags)
        finally:
            ignore_sigterm()  # it is over: now only the report counts
    except BaseException as error:
        ended = _judge(error, job.workload)
    if os.getpid() == pid:
        _flush()
    return ended


def _run(job: Job, go: Go, dags: Dags) -> Ended:
    workload = job.workload
    if workload.dag_id not in dags:
        return _failed("import", f"the DAG file no longer defines dag {workload.dag_id!r}", retryable=False)
    dag = dags[workload.dag_id]
    try:
        task = dag.task(workload.task_id)
    except KeyError:
        return _failed("import", f"dag {workload.dag_id!r} has no task {workload.task_id!r}", retryable=False)
    set_context(context.for_attempt(workload))
    value: Any
    if task.is_async:
        run_async = import_module("scheduler.executors.async_tasks").run_async  # alone in needing trio
        value = run_async(lambda: task.call(go.inputs), timeout=workload.execution_timeout)
    elif task.kind is TaskKind.EMPTY:
        value = None
    else:
        with time_limit(workload.execution_timeout):
            value = task.call(go.inputs)
            if task.kind is TaskKind.BASH:
                value = run_bash(value, variables=context.variables(workload), limit=job.result_limit)
    decision: dict[str, list[str]] | None = None
    if task.kind is TaskKind.BRANCH:
        value = list(value) if isinstance(value, tuple | set | frozenset) else value
        decision = {"followed": _followed(value, dag.to_model())}
    elif task.kind is TaskKind.SHORT_CIRCUIT and not value:
        decision = {"skipped": []}
    result = encode_result(value, limit=job.result_limit)
    return Ended(kind=OutcomeKind.SUCCESS, result=result, decision=decision)


def _followed(chosen: Any, dag: Any) -> list[str]:
    """The task ids a branch chose: a task, a group (meaning its first tasks), several of them, or None."""
    if chosen is None:
        return []
    names = [chosen] if isinstance(chosen, str) else chosen
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ResultError(f"a branch returns a task id, a list of task ids or None, not {type(chosen).__name__}")
    by_id = {task.task_id: task for task in dag.tasks}
    followed: list[str] = []
    for name in names:
        members = {
            task.task_id: task
            for task in dag.tasks
            if task.group is not None and (task.group == name or task.group.startswith(f"{name}."))
        }
        if name in by_id:
            followed.append(name)
        elif members:
            followed.extend(key for key, task in members.items() if not members.keys() & set(task.upstream))
        else:
            raise ResultError(f"the branch chose {name!r}, and dag {dag.dag_id!r} has no such task or group")
    return list(dict.fromkeys(followed))


def _judge(error: BaseException, workload: Workload) -> Ended:
    """What an exception out of user code means; the traceback goes to the log."""
    error = _unwrap(error, (SkipTask, FailTask))
    match error:
        case SkipTask():
            return Ended(kind=OutcomeKind.SKIPPED, message=clean(str(error)))
        case FailTask():
            say(format_exception(error))
            return _failed("exception", one_line(error), retryable=False)
        case TaskTimeout():
            say(format_exception(error))
            return _failed("timeout", f"timed out after {workload.execution_timeout:g} s")
        case TaskStopped():
            say(format_exception(error))
            return _failed("signal", "stopped by SIGTERM")
        case ResultError():
            return _failed("result", clean(str(error)))
        case BashError():
            if error.skips:
                return Ended(kind=OutcomeKind.SKIPPED, message=str(error))
            return _failed("exit", str(error))
        case SystemExit():
            if error.code is None or error.code == 0:
                return Ended(kind=OutcomeKind.SUCCESS)
            return _failed("exit", f"sys.exit({clean(repr(error.code))})")
    say(format_exception(error))
    return _failed("exception", one_line(error))


def _unwrap(error: BaseException, kinds: tuple[type[BaseException], ...]) -> BaseException:
    """A nursery wraps what its tasks raise; a group of nothing but skips (or fails) means one of them."""
    inner = error
    while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    return inner if isinstance(inner, kinds) else error


def _failed(reason: str, message: str, *, retryable: bool = True) -> Ended:
    return Ended(kind=OutcomeKind.FAILED, reason=reason, message=message, retryable=retryable)


def one_line(error: BaseException) -> str:
    """The exception as people know it from the end of a traceback, without line breaks."""
    try:
        text = str(error)
    except Exception:
        text = "(its __str__ failed)"
    first = next((part.strip() for part in text.splitlines() if part.strip()), "")
    name = type(error).__name__
    return clean(f"{name}: {first}" if first else name)


def clean(text: str) -> str:
    """Text any database and terminal can hold: no control characters, no lone surrogates, not too long."""
    text = text.encode("utf-8", "backslashreplace").decode()
    text = "".join(ch if ch.isprintable() else " " for ch in text)
    return text if len(text) <= _MESSAGE_LIMIT else text[: _MESSAGE_LIMIT - 3] + "..."


def format_exception(error: BaseException) -> str:
    """The traceback from the first line of user code on."""
    try:
        tb = _from_user_code(error.__traceback__)
        if tb is None and not isinstance(error, SyntaxError):  # which says itself where it is
            tb = error.__traceback__
        return "".join(traceback.format_exception(type(error), error, tb))
    except Exception:
        return f"{type(error).__name__} (its traceback cannot be shown)\n"


def _from_user_code(tb: TracebackType | None) -> TracebackType | None:
    while tb is not None and _is_ours(tb.tb_frame):
        tb = tb.tb_next
    return tb


def _is_ours(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return name.startswith((_OURS, "<frozen ")) or "/trio/_core/" in name


def say(text: str) -> None:
    """Into the log, whatever has become of sys.stderr."""
    data = text.encode("utf-8", "backslashreplace")
    with contextlib.suppress(OSError):  # user code closed it, or nobody reads it any more
        while data:
            data = data[os.write(2, data) :]


def _reseed() -> None:
    """Every fork of a parent has its random numbers; Python's own are reseeded by fork, numpy's are not."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        with contextlib.suppress(Exception):
            numpy_random.seed()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # user code may have put anything there
            stream.flush()


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _move_away(sock: socket.socket) -> socket.socket:
    """Up, where code that closes "all" descriptors, or those it believes to know, does not find it."""
    try:
        high = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)
    except OSError:
        return sock
    sock.close()
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=high)
