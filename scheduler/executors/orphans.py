"""Finds the processes that an attempt left behind outside its process group.

A warm parent is a subreaper: whatever loses its parent below it becomes its child. Whose it was shows in what it
inherited: the attempt's log pipe or socket among its descriptors, or, after an exec, a variable in its environment.
What hides all of that is found at the latest when no attempt runs here any more.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Collection

VARIABLE = "ASYNCSCHED_ATTEMPT_PID"
_PR_SET_CHILD_SUBREAPER = 36
_PASSES = 50
_CHUNK = 65536

_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Let processes below us that lose their parent become our children. Not inherited by fork."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_orphans(pid: int, pipes: Collection[str], attempts: Collection[int]) -> None:
    """Kill what the ended attempt `pid` left: our children that are no attempts and bear its marks.

    `pipes` are its descriptors as /proc shows them ("pipe:[123]"). With no `attempts` alive, every such child goes.
    """
    for _ in range(_PASSES):  # the children of a killed orphan become our children in their turn
        strays = [child for child in children() if child not in attempts]
        found = [child for child in strays if not attempts or _bears_marks(child, pid, pipes)]
        if not found:
            return
        for child in found:
            for kill in (os.killpg, os.kill):
                with contextlib.suppress(OSError):
                    kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def end_descendants(*, seconds: float) -> bool:
    """Kill and bury everything below us, who are a subreaper; False when something is left after so long.

    Whatever loses its parent below us becomes our child: when we have none, there is nothing.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if ended:
            continue
        for child in _children_of_all_threads():
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.0005)  # they are dying; there is nothing that waits for one of them with a limit


def _children_of_all_threads() -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/children", "rb") as listing:
                found += [int(child) for child in listing.read().split()]
    return found


def children(pid: int | None = None) -> list[int]:
    """The direct children of our thread, or of the single thread of process `pid`.

    The dead ones not yet reaped included; empty where the kernel does not tell.
    """
    path = "/proc/thread-self/children" if pid is None else f"/proc/{pid}/task/{pid}/children"
    try:
        listing = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        found = b""
        while chunk := os.read(listing, _CHUNK):
            found += chunk
        return [int(child) for child in found.split()]
    except OSError:
        return []
    finally:
        os.close(listing)


def _bears_marks(child: int, pid: int, pipes: Collection[str]) -> bool:
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{child}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(entry.path) in pipes:
                    return True
    with contextlib.suppress(OSError), open(f"/proc/{child}/environ", "rb") as environ:
        return f"{VARIABLE}={pid}".encode() in environ.read().split(b"\0")
    return False
