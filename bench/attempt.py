"""One attempt without a database: from its hand-over to its first line of user code, and from its last line to its
report in the daemon's inbox.

A real worker, a real socket, started workloads; only the routines are missing, so nothing here waits for a commit.
"""

import hashlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import trio
from attrs import define, field, frozen

from bench import processes
from bench.daemon import Failed
from bench.machine import ROOT
from bench.measure import Report, percentile
from scheduler.executors.local import LocalExecutor, worker_spec
from scheduler.model import Outcome, OutcomeKind, Workload

LIMIT_S = 120.0
MS = 1e6  # nanoseconds

BODY = '''"""Says when it ran, in nanoseconds of CLOCK_MONOTONIC."""
import time

from scheduler import DAG, task

with DAG("d"):
    @task
    def stamps():
        began = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        return [began, time.clock_gettime_ns(time.CLOCK_MONOTONIC)]

    stamps()
'''


@frozen(kw_only=True)
class Sizes:
    """How many attempts of each kind."""

    alone: int = 200
    together: int = 1000
    side_by_side: int = 8
    pause_s: float = 0.02


@define(eq=False)
class Desk:
    """What is left of a daemon when it has no database: it submits, and acknowledges at once."""

    folder: Path
    slots: int
    executor: LocalExecutor = field(init=False)
    ended: dict[str, tuple[int, Outcome]] = field(factory=dict)
    """By token: when its outcome was in the inbox."""
    _news: trio.Event = field(factory=trio.Event)
    _source: Path = field(init=False)
    _source_hash: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.executor = LocalExecutor(socket_path=self.folder / "worker.sock", poke=self._hear)
        text = BODY.encode()
        self._source_hash = hashlib.sha256(text).hexdigest()
        self._source = self.folder / "stamps.py"
        self._source.write_bytes(text)

    def _hear(self, _topic: object) -> None:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        reports = self.executor.outcomes.peek(1000)
        for outcome in reports:
            self.ended[outcome.token] = (now, outcome)
        self.executor.outcomes.remove(reports)
        self.executor.acknowledge([one.token for one in reports])
        self._news.set()

    def workload(self) -> Workload:
        token = str(uuid.uuid4())
        return Workload(
            token=token,
            dag_id="d",
            run_id="r",
            task_id="stamps",
            run_type="manual",
            run_after=datetime.now(UTC),
            file=str(self._source),
            source_path=str(self._source),
            source_hash=self._source_hash,
            log_path=str(self.folder / "logs" / f"{token}.log"),
            inputs={},
            worker=self.executor.berths()[0].worker_id if self.executor.berths() else None,
        )

    async def news(self) -> None:
        """Return when something has been heard since the last time."""
        await self._news.wait()
        self._news = trio.Event()

    @contextmanager
    def worker(self) -> Iterator[int]:
        """Its process id."""
        spec = worker_spec(socket_path=self.folder / "worker.sock", spool_dir=self.folder / "spool", slots=self.slots)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        process = subprocess.Popen(
            [os.fspath(word) for word in spec.argv],
            env=os.environ | {"NURSERIES_LIFELINE": str(reader), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            pass_fds=(reader,),
            cwd=ROOT,
        )
        os.close(reader)
        try:
            yield process.pid
        finally:
            os.close(writer)
            process.terminate()
            process.wait()

    async def one(self) -> tuple[int, int, int, int]:
        """Run one attempt: when it was submitted, began, ended, and was reported."""
        workload = self.workload()
        submitted = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self.executor.submit([workload])
        while workload.token not in self.ended:
            await self.news()
        reported, outcome = self.ended.pop(workload.token)
        began, ended = _stamps(outcome)
        return submitted, began, ended, reported

    async def many(self, count: int, side_by_side: int) -> None:
        """Run `count`, so many at a time."""
        waiting: set[str] = set()
        submitted = 0
        while submitted < count or waiting:
            fresh = [self.workload() for _ in range(min(side_by_side - len(waiting), count - submitted))]
            submitted += len(fresh)
            waiting |= {one.token for one in fresh}
            self.executor.submit(fresh)
            while not waiting & self.ended.keys():
                await self.news()
            for token in waiting & self.ended.keys():
                _stamps(self.ended.pop(token)[1])
                waiting.discard(token)


def _stamps(outcome: Outcome) -> list[int]:
    if outcome.kind is not OutcomeKind.SUCCESS or outcome.result is None:
        raise Failed(f"an attempt ended with {outcome.kind}: {outcome.message}")
    found: list[int] = msgspec.json.decode(outcome.result, type=list[int])
    return found


def measure(place: Path, report: Report, *, quick: bool) -> None:
    """Add the figures of one repetition."""
    sizes = Sizes(alone=20, together=100) if quick else Sizes()
    trio.run(_measure, place, sizes, report)


async def _measure(place: Path, sizes: Sizes, report: Report) -> None:
    desk = Desk(place, sizes.side_by_side)
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(desk.executor.serve)
            with desk.worker() as pid:
                while not desk.executor.workers():
                    await desk.news()
                await desk.many(2 * sizes.side_by_side, sizes.side_by_side)  # warm
                for name, pause in (("alone", sizes.pause_s), ("chained", 0.0)):
                    _add(report, name, [await _after(pause, desk) for _ in range(sizes.alone)])
                await _together(desk, pid, sizes, report)
            nursery.cancel_scope.cancel()


async def _after(pause: float, desk: Desk) -> tuple[int, int, int, int]:
    await trio.sleep(pause)
    return await desk.one()


def _add(report: Report, name: str, stamps: list[tuple[int, int, int, int]]) -> None:
    for part, (start, end) in {"start": (0, 1), "report": (2, 3)}.items():
        took = [(one[end] - one[start]) / MS for one in stamps]
        p99 = percentile(took, 0.99)
        report.add_percentile(f"attempt_{name}_{part}", took, 0.5, p99=p99, max=max(took))


async def _together(desk: Desk, pid: int, sizes: Sizes, report: Report) -> None:
    before = processes.work(processes.tree(pid))
    began = time.monotonic()
    await desk.many(sizes.together, sizes.side_by_side)
    seconds = time.monotonic() - began
    after = processes.work(processes.tree(pid))
    used: dict[str, Any] = {name: after[name] - before[name] for name in before}
    report.add("attempt_rate", sizes.together / seconds, seconds=seconds)
    report.add("attempt_cpu", 1000 * used["cpu_s"] / sizes.together, samples=sizes.together)
    report.add("attempt_faults", used["faults"] / sizes.together, samples=sizes.together)


if __name__ == "__main__":  # for a profiler
    made = Report()
    measure(Path(sys.argv[1]), made, quick=False)
    for line in made.ordered():
        print(f"{line.name:24} {line.value:8.3f} {line.target.unit:8} {line.details[0] if line.details else ''}")
