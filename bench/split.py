"""Where the scheduler's own CPU goes: by routine and by layer, from samples of its stack.

Every few milliseconds of CPU time (ITIMER_PROF, as fine as the kernel's tick) the kernel interrupts the program, which
looks at its own stack and books the CPU spent since the last look: `time.process_time`, so that a late or lost sample
distorts nothing in sum. No tool is needed, and it costs one or two per cent.

A sample belongs to the layer of its innermost frame that is ours or a library's below; C code (asyncpg's protocol,
msgspec) counts where it was called from. It belongs to the routine whose file is outermost on the stack; "other" is
what belongs to none: the loops between, the socket of the worker, the control socket.
"""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from attrs import define, field

SECONDS = 0.002
ROUTINES = "/scheduler/routines/"
LAYERS = (
    ("/scheduler/executors/protocol", "serialisation"),
    ("/scheduler/store/documents", "serialisation"),
    ("/msgspec/", "serialisation"),
    ("/json/", "serialisation"),
    ("/asyncpg/", "driver"),
    ("/sqlalchemy/", "driver"),
    ("/asyncio/selector_events", "driver"),
    ("/asyncio/sslproto", "driver"),
    ("/nurseries/bridge", "bridge and loops"),
    ("/nurseries/timers", "bridge and loops"),
    ("/trio_asyncio/", "bridge and loops"),
    ("/trio/", "bridge and loops"),
    ("/asyncio/", "bridge and loops"),
    ("/outcome/", "bridge and loops"),
    ("/sniffio/", "bridge and loops"),
    ("/scheduler/store/", "store"),
    ("/scheduler/decisions/", "decisions"),
    ("/scheduler/procedures/", "decisions"),
    ("/scheduler/routines/", "decisions"),
    ("/scheduler/executors/", "worker's socket"),
    ("/scheduler/observe/", "log"),
    ("/logging/", "log"),
    ("/structlog/", "log"),
    ("/bench/", "bench"),
)
"""Parts of file names, and the layer they belong to; the first that fits."""


@define(eq=False)
class Split:
    """Seconds of CPU."""

    layers: Counter[str] = field(factory=Counter)
    routines: Counter[str] = field(factory=Counter)
    samples: int = 0

    def per_task(self, tasks: int) -> dict[str, Any]:
        """Milliseconds per task instance."""
        return {
            "samples": self.samples,
            "tasks": tasks,
            "by_layer_ms": _rounded(self.layers, 1000 / tasks),
            "by_routine_ms": _rounded(self.routines, 1000 / tasks),
        }

    def book(self, frame: FrameType | None, seconds: float) -> None:
        """Book so much to what this stack is."""
        layer, routine = "", "other"
        while frame is not None:
            name = frame.f_code.co_filename
            layer = layer or _layer(name)
            if ROUTINES in name:
                routine = Path(name).stem
            frame = frame.f_back
        self.layers[layer or "other"] += seconds  # type: ignore[assignment]
        self.routines[routine] += seconds  # type: ignore[assignment]
        self.samples += 1


_known: dict[str, str] = {}


def _layer(name: str) -> str:
    """The layer of a file; empty for those that belong to whoever calls them."""
    if name not in _known:
        _known[name] = next((layer for part, layer in LAYERS if part in name), "")
    return _known[name]


def _rounded(sums: Counter[str], factor: float) -> dict[str, float]:
    return {name: round(value * factor, 4) for name, value in sums.most_common()}


@contextmanager
def splitting() -> Iterator[Split]:
    """Sample this process, which must be in its main thread, as long as the block lasts."""
    split = Split()
    last = time.process_time()

    def look(_signum: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.process_time()
        split.book(frame, now - last)
        last = now

    before = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, SECONDS, SECONDS)
    try:
        yield split
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0, 0)
        signal.signal(signal.SIGPROF, before)
