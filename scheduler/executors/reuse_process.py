"""Inside a runner: one attempt after the other, and everything between them put back."""

import contextvars
import logging
import os
import resource
import signal
import time
from collections.abc import Callable
from typing import NoReturn

from scheduler.executors import orphans, reuse_words
from scheduler.executors.job import Ended, Job, Line, Service
from scheduler.executors.reuse_state import Surroundings

log = logging.getLogger(__name__)

_DESCENDANTS_SECONDS = 5.0
_UNWOUND = frozenset({"import", "signal", "timeout"})
"""Reasons of ends after which the process is not trusted any more: code was interrupted anywhere, or is missing."""


def serve(line: Line, service: Service, make_ready: Callable[[], Callable[[Job], Ended]]) -> NoReturn:
    """The whole life of a runner. `make_ready` imports what is to be run, and gives what runs it."""
    pid = os.getpid()
    try:
        jobs = line.receive_socket()
        orphans.become_subreaper()
        run = make_ready()
        if os.getpid() != pid:  # what was imported forked, and this is its child
            os._exit(0)
        surroundings, values, memory = Surroundings(), contextvars.copy_context(), _peak_bytes()
        line.say(reuse_words.Ready(pid=pid))
        done = 0
        leaves = False
        while not leaves and (job := reuse_words.receive_job(jobs)) is not None:
            began = time.monotonic()
            ended = values.copy().run(run, job)
            seconds = time.monotonic() - began
            if os.getpid() != pid:  # user code forked, and the child came back here
                os._exit(0)
            done += 1
            leaves = not _tidy_up(surroundings, job)
            leaves |= done >= service.attempts or ended.reason in _UNWOUND
            leaves |= _peak_bytes() - memory > service.growth_bytes
            token = job.workload.token
            line.say(reuse_words.Finished(token=token, ended=ended, seconds=seconds, leaves=leaves))
            # Until here it was ignored, as at the end of every attempt: the report counts.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os._exit(0)
    finally:
        os._exit(1)


def _tidy_up(surroundings: Surroundings, job: Job) -> bool:
    """False when the next attempt would not find the process as this one did."""
    try:
        surroundings.restore_signals()
        alone = orphans.end_descendants(seconds=_DESCENDANTS_SECONDS)
        surroundings.restore(mark=reuse_words.mark(job.workload.token))  # last: now nobody writes into its log
    except OSError as error:
        log.warning("a runner leaves, its state cannot be restored: %s", error)
        return False
    return alone


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
