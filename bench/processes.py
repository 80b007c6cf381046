"""What a tree of processes uses, from /proc."""

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from attrs import frozen

_TICK = os.sysconf("SC_CLK_TCK")
# fields of /proc/PID/stat behind the name in parentheses
_PARENT, _MINFLT, _CMINFLT, _UTIME, _CUTIME, _CSTIME = 1, 7, 8, 11, 13, 14
_CPUCLOCK_SCHED = 2  # the CPU clock of another process, in nanoseconds, as clock_getcpuclockid(3) makes its number


@frozen(kw_only=True)
class Usage:
    """Of one process. `cpu_s` includes its children that have ended and been waited for."""

    pid: int
    name: str
    cpu_s: float
    pss_mb: float


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None  # it has just ended


def tree(root: int) -> list[int]:
    """The process and all its living descendants."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))) is not None:
            parents[int(entry)] = int(fields[_PARENT])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _name(pid: int) -> str:
    """PostgreSQL's processes and ours, told apart by what they were started as."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    for mark, name in (
        ("keeper.py", "keeper"),
        ("executors.worker", "worker"),
        ("executors.zygote", "zygote and warm parents"),
        ("instant_worker", "worker"),
        ("postgres", "postgres"),
        ("bench.", "scheduler"),
        ("asyncsched", "daemon"),
        ("scheduler.cli", "daemon"),
    ):
        if mark in words:
            return name
    return words.split(" ")[0].rsplit("/", 1)[-1]  # a path says where somebody has installed it


def usage(pids: Iterable[int], *, with_memory: bool = True) -> list[Usage]:
    """What each of these processes uses; those that have ended are left out."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = _stat(pid)
            if fields is None:
                continue
            children = sum(int(value) for value in fields[_CUTIME : _CSTIME + 1]) / _TICK
            own = time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)
            found.append(
                Usage(pid=pid, name=_name(pid), cpu_s=own + children, pss_mb=memory(pid)[0] if with_memory else 0.0)
            )
    return found


def work(pids: Iterable[int]) -> dict[str, float]:
    """CPU seconds and minor page faults of these processes and of their children that have been waited for."""
    fields = [found for pid in pids if (found := _stat(pid)) is not None]
    return {
        "cpu_s": sum(int(value) for one in fields for value in one[_UTIME : _CSTIME + 1]) / _TICK,
        "faults": float(sum(int(one[_MINFLT]) + int(one[_CMINFLT]) for one in fields)),
    }


def memory(pid: int) -> tuple[float, float]:
    """PSS in MB, and what of it is anonymous: the process's own, whoever else has the same libraries mapped.

    Raises OSError when there is no such process, or it belongs to somebody else.
    """
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("Pss", "Pss_Anon"):
            found[name] = int(value.split()[0]) / 1024
    return found["Pss"], found["Pss_Anon"]


def by_name(processes: Iterable[Usage], what: str) -> dict[str, float]:
    """The sums of one attribute by process name."""
    sums: dict[str, float] = {}
    for one in processes:
        sums[one.name] = sums.get(one.name, 0.0) + getattr(one, what)
    return {name: round(value, 3) for name, value in sorted(sums.items())}


def cpu_between(before: Iterable[Usage], after: Iterable[Usage]) -> dict[str, float]:
    """Seconds of CPU by process name; what started meanwhile counts from its start."""
    earlier = {one.pid: one.cpu_s for one in before}
    sums: dict[str, float] = {}
    for one in after:
        sums[one.name] = sums.get(one.name, 0.0) + one.cpu_s - earlier.get(one.pid, 0.0)
    return {name: round(value, 3) for name, value in sorted(sums.items())}
