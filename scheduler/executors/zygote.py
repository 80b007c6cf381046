"""The zygote: a small process with everything imported that a task process needs, and nothing that runs.

The worker starts it once and asks it for warm parents, which then belong to the worker: each has its own line to it,
and outlives the zygote.
"""

import argparse
import contextlib
import gc
import json
import logging
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import NoReturn, TextIO

from scheduler.executors import orphans, rehearsal, warm
from scheduler.executors.descriptors import receive_fds

_REQUEST_LIMIT = 64 * 1024
_LOG_FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"


def main(argv: list[str] | None = None) -> NoReturn:
    """`python -m scheduler.executors.zygote`: started by the worker, never by people."""
    parser = argparse.ArgumentParser(prog="scheduler.executors.zygote", description=__doc__)
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--kill-grace", type=float, required=True)
    parser.add_argument("--cold", nargs=3, metavar=("FILE", "PATH", "SHA256"))
    args = parser.parse_args(argv)
    control = socket.socket(fileno=args.control)
    control.set_inheritable(False)
    _prepare()
    if args.cold is not None:
        file, path, sha256 = args.cold
        source = warm.Source(file=file, path=path, sha256=sha256)
        warm.WarmParent(control=control, source=source, kill_grace=args.kill_grace, cold=True).live()
    _serve(control, args.kill_grace)


def _prepare() -> None:
    """What every process below inherits."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))  # a crashing task must not fill the disk
    orphans.become_subreaper()
    for stream in (sys.stdout, sys.stderr):
        _by_line(stream)
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S")
    rehearsal.rehearse()
    gc.collect()
    gc.freeze()  # the collector would otherwise write into, and so copy, every shared page


def _by_line(stream: TextIO) -> None:
    """So that a log can be followed, and no text breaks it."""
    stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[attr-defined]


def _serve(control: socket.socket, kill_grace: float) -> NoReturn:
    wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(wake, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if wake in ready:
            _reap(wake, control)
        if control.fileno() not in ready:
            continue
        try:
            data, fds = receive_fds(control, _REQUEST_LIMIT, most=2)
        except OSError:
            data, fds = b"", []
        if not data:
            os._exit(0)
        if os.fork() == 0:
            signal.set_wakeup_fd(-1)
            for fd in (wake, waker):
                os.close(fd)
            control.close()
            _become_parent(data, fds, kill_grace)
        for fd in fds:
            os.close(fd)


def _reap(wake: int, control: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(wake, 4096):
            pass
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            with contextlib.suppress(OSError):
                control.send(f"exit {pid} {os.waitstatus_to_exitcode(status)}".encode(), socket.MSG_NOSIGNAL)


def _become_parent(data: bytes, fds: list[int], kill_grace: float) -> NoReturn:
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        line, output = fds
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        request = json.loads(data)
        source = warm.Source(file=request["file"], path=request["path"], sha256=request["sha256"])
        control = socket.socket(fileno=line)
        control.send(f"pid {os.getpid()}".encode(), socket.MSG_NOSIGNAL)
        warm.WarmParent(control=control, source=source, kill_grace=kill_grace, cold=False).live()
    finally:
        os._exit(70)


if __name__ == "__main__":
    main()
