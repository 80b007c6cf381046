"""A task run for nobody in the zygote, so that the task processes forked below it find everything prepared.

What Python learns when code runs for the first times (specialized instructions, the caches of attribute lookups) it
writes beside that code. Learnt here, once, it is shared; learnt in each task process, it costs time and a copy of each
memory page it is written to.
"""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import ModuleType

from scheduler.authoring.context import set_context
from scheduler.executors import runner
from scheduler.executors.job import Job, Line
from scheduler.executors.protocol import encode
from scheduler.model import Workload

TIMES = 24
"""Python looks twice: after some calls it begins to count, after some more it specializes."""
_TEXT = """
from scheduler import DAG, task

with DAG("rehearsal"):
    @task
    def first():
        return 1

    @task
    def second(number):
        return [number]

    second(first())
"""


def rehearse() -> None:
    """Run a task from its job to its report, some times; nothing of it is seen or left."""
    module = ModuleType("asyncsched_rehearsal")
    exec(compile(_TEXT, "<rehearsal>", "exec", dont_inherit=True), vars(module))  # noqa: S102
    words = encode(Job(workload=_workload(), result_limit=1024))
    worker, task = socket.socketpair()
    line = Line(task)
    with worker, task, _aside():
        for _ in range(TIMES):
            worker.sendall(words)
            job = line.wait_for_job()
            assert isinstance(job, Job), "it has just been sent"
            go = runner.go_of(line, job)
            assert go is not None, "its inputs are the word to go"
            line.report(runner.attempt(job, go, runner.dags_of(module)))
            worker.recv(65536)
    set_context(None)


def _workload() -> Workload:
    now = datetime.now(UTC)
    return Workload(
        token="",
        dag_id="rehearsal",
        run_id="rehearsal",
        task_id="second",
        run_type="scheduled",
        logical_date=now,
        data_interval_start=now,
        data_interval_end=now,
        run_after=now,
        file="rehearsal",
        source_path="rehearsal",
        source_hash="",
        log_path="",
        inputs={"first": 1},
    )


@contextmanager
def _aside() -> Iterator[None]:
    """What is written to the log goes nowhere, and a signal waits until its handler is as it was."""
    log = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    before = signal.getsignal(signal.SIGTERM)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(log, 2)
        signal.signal(signal.SIGTERM, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for fd in (nowhere, log):
            os.close(fd)
