"""The same questions to every system that runs DAGs."""

import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from attrs import define, evolve, fields_dict, frozen

from bench import processes
from bench.daemon import Failed
from bench.measure import Report, percentile
from bench.peers.stamps import MS, Stamps, hops, now, rate


@frozen(kw_only=True)
class Sizes:
    """How much of everything, and how long it may take: seconds."""

    chain: int = 40
    fan: int = 100
    runs: int = 20
    """Of ten tasks each, for the peers."""
    our_runs: int = 100
    triggers: int = 10
    triggers_s: float = 40.0
    """No more triggers are sent after this time, as long as there are three."""
    idle_s: float = 15.0
    settle_s: float = 5.0
    jobs: int = 10_000
    pickups: int = 200
    limit_s: float = 120.0
    """For one piece; a number of runs is cut off there, and its rate is what was done until then."""
    budget_s: float = 400.0
    """For all of one system in one repetition: what would begin later is not measured."""

    def with_size(self, text: str) -> "Sizes":
        """Return the same with one size changed, given as NAME=N. Raises ValueError."""
        name, _, value = text.partition("=")
        if name not in fields_dict(Sizes) or not value.isdigit() or int(value) < 1:
            raise ValueError(f"{text!r}: NAME=N is expected, N at least 1, NAME one of {', '.join(fields_dict(Sizes))}")
        return evolve(self, **{name: type(getattr(self, name))(value)})

    @classmethod
    def quick(cls) -> "Sizes":
        """Enough to see that everything works. Figures mean little."""
        return cls(
            chain=5,
            fan=10,
            runs=3,
            our_runs=10,
            triggers=3,
            triggers_s=15.0,
            idle_s=3.0,
            settle_s=2.0,
            jobs=500,
            pickups=20,
            budget_s=150.0,
        )


class Running(Protocol):
    """A system that has been started, with the four DAGs one, chain, fan and runs."""

    stamps: Stamps

    def trigger(self, dag_id: str) -> str:
        """Ask for a run as a client of the system does; return its key."""
        ...

    def wait(self, dag_id: str, run: str, limit_s: float) -> None:
        """Return when the system says that the run has succeeded. Raises Failed."""
        ...

    def check(self) -> None:
        """Raise Failed if it has died."""
        ...

    def pids(self) -> list[int]:
        """All its processes, those of its PostgreSQL included."""
        ...


Opened = Callable[[Path], AbstractContextManager[Running]]


@define
class Session:
    """The measures of one system in one repetition."""

    running: Running
    sizes: Sizes
    report: Report
    began: float
    runs: int

    def all(self) -> None:
        """Warm it up, then ask everything; what fails is noted and the rest is asked all the same."""
        self.warm_up()
        pieces: tuple[tuple[str, Callable[[], None]], ...] = (
            ("idle", self.idle),
            ("trigger", self.trigger),
            ("chain", self.chain),
            ("fan", self.fan),
            ("runs", self.many_runs),
        )
        for name, work in pieces:
            spent = time.monotonic() - self.began
            if spent > self.sizes.budget_s:
                self.report.failures.append(f"{name}: {self.sizes.budget_s:.0f} s for one system were over")
                continue
            try:
                work()
            except Failed as error:
                self.report.failures.append(f"{name}: {error}")

    def warm_up(self) -> None:
        """Two runs of one task: whatever is made at the first use is there afterwards."""
        for _ in range(2):
            self._run("one", 1)

    def _run(self, dag_id: str, tasks: int) -> tuple[int, list]:
        self.running.stamps.forget()
        sent = now()
        run = self.running.trigger(dag_id)
        stamps = self.running.stamps.take(tasks, limit_s=self.sizes.limit_s, alive=self.running.check)
        self.running.wait(dag_id, run, self.sizes.limit_s)
        return sent, stamps

    def idle(self) -> None:
        time.sleep(self.sizes.settle_s)
        before = processes.usage(self.running.pids(), with_memory=False)
        began = time.monotonic()
        time.sleep(self.sizes.idle_s)
        seconds = time.monotonic() - began
        after = processes.usage(self.running.pids())
        cpu = processes.cpu_between(before, after)
        self.report.add("idle_pss", sum(one.pss_mb for one in after), mb=processes.by_name(after, "pss_mb"))
        self.report.add("idle_cpu", 100 * sum(cpu.values()) / seconds, seconds=seconds, cpu_s=cpu)
        self.report.add("idle_processes", float(len(after)))

    def trigger(self) -> None:
        """One at a time, the system idle before each, at moments that no loop of its own can be in step with."""
        took: list[float] = []
        moments = random.Random(len(self.report.measures))
        deadline = time.monotonic() + self.sizes.triggers_s
        while len(took) < self.sizes.triggers and (len(took) < 3 or time.monotonic() < deadline):
            time.sleep(0.1 + moments.random())
            sent, (stamp, *_) = self._run("one", 1)
            took.append((stamp.began - sent) / MS)
        self.report.add("trigger_p50", percentile(took, 0.5), samples=[round(one, 3) for one in took])
        self.report.add("trigger_max", max(took), samples=len(took))

    def chain(self) -> None:
        sent, stamps = self._run("chain", self.sizes.chain)
        between = hops(stamps)
        self.report.add("chain", (stamps[-1].ended - sent) / (1000 * MS), tasks=self.sizes.chain)
        self.report.add("hop_p50", percentile(between, 0.5), samples=len(between))
        self.report.add("hop_max", max(between), samples=len(between))

    def fan(self) -> None:
        sent, stamps = self._run("fan", self.sizes.fan + 2)
        self.report.add("fan", (stamps[-1].ended - sent) / (1000 * MS), tasks=self.sizes.fan + 2)

    def many_runs(self) -> None:
        tasks = 10 * self.runs
        self.running.stamps.forget()
        sent = now()
        for _ in range(self.runs):
            self.running.trigger("runs")
        stamps = self.running.stamps.take(tasks, limit_s=self.sizes.limit_s, alive=self.running.check, partly=True)
        self.report.add("runs", rate(stamps, sent), runs=self.runs, done=len(stamps), of=tasks)
