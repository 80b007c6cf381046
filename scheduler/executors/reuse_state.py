"""What a runner puts back after each attempt, so that the next one finds the process as it was.

Restored: working directory, environment, umask, signal handlers, mask and timers, standard descriptors and streams.
Not restored, since sharing them is what a shared process is for: module globals and everything else in memory, open
descriptors, running threads, resource limits, `sys.path`, the logging configuration.
"""

import fcntl
import os
import signal
import sys
from importlib import import_module
from typing import Any, TextIO

from scheduler.authoring.context import set_context
from scheduler.executors.stops import forget_stops

_OUT_OF_THE_WAY = 200
_KEPT_SIGNALS = (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM)
"""The first two have no handlers, and the third says where an attempt is in its life: the runner sets it."""
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)

# What signal.getsignal asks, without making an enumeration member of each answer: there are sixty of them.
_handler_of: Any = import_module("_signal").getsignal


class Surroundings:
    """The state of this process when it was made."""

    def __init__(self) -> None:
        self._directory = _keep(os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        self._environ = dict(os.environb)
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        signals = sorted(int(one) for one in signal.valid_signals() - set(_KEPT_SIGNALS))
        self._handlers = [(number, _handler_of(number)) for number in signals]
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._nothing = _keep(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        self._output = _keep(os.dup(2))
        """The pipe to the worker, which writes the logs."""

    def restore_signals(self) -> None:
        """First of all: from here on no handler of user code interrupts us."""
        signal.set_wakeup_fd(-1)
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        for number, handler in self._handlers:
            if handler is not None and _handler_of(number) is not handler:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def restore(self, *, mark: bytes) -> None:
        """Put everything else back; `mark` tells the worker that what is written from now on is of another attempt.

        Raises OSError when user code has taken away what that needs.
        """
        os.set_blocking(self._output, True)  # it may have been changed, by whoever has written into it
        for fd, kept in ((0, self._nothing), (1, self._output), (2, self._output)):
            os.dup2(kept, fd)
        os.write(self._output, mark)
        self._restore_streams()
        os.umask(self._umask)
        os.fchdir(self._directory)
        if os.environb != self._environ:
            os.environb.clear()
            os.environb.update(self._environ)
        set_context(None)
        forget_stops()

    def _restore_streams(self) -> None:
        sys.stdin, sys.stdout, sys.stderr = self._streams
        if sys.stdout.closed or sys.stderr.closed:
            stdin, *outputs = self._streams
            stdout, stderr = (_stream(fd) if one.closed else one for fd, one in enumerate(outputs, 1))
            self._streams = sys.stdin, sys.stdout, sys.stderr = stdin, stdout, stderr


def _keep(fd: int) -> int:
    """Up, where code that closes the descriptors it believes to know does not find it."""
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)
    os.close(fd)
    return high


def _stream(fd: int) -> TextIO:
    return open(fd, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
