"""The queues: no DAGs, no process for each job; what a database can do in Python where nothing has to be decided."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from attrs import define, frozen

from bench.daemon import Failed
from bench.measure import Report, percentile
from bench.peers.children import PROGRAMS, Children, environment, wait_until
from bench.peers.served import database
from bench.peers.shapes import Sizes
from bench.peers.stamps import MS, Stamps, rate
from bench.server import Server

PAUSE_S = 0.03


@frozen(kw_only=True)
class Queue:
    """A queue, and what its worker is told for throughput."""

    name: str
    tuned: int
    what: str


QUEUES: Mapping[str, Queue] = {
    queue.name: queue
    for queue in (
        Queue(name="pgqueuer", tuned=100, what="batches of 10 / 100"),
        Queue(name="oban", tuned=100, what="10 / 100 jobs at once"),
        Queue(name="procrastinate", tuned=20, what="1 / 20 jobs at once"),
    )
}


@define
class Trial:
    """One queue in one repetition: each measure on a database of its own."""

    queue: Queue
    home: Path
    place: Path
    server: Server
    sizes: Sizes
    report: Report

    def all(self) -> None:
        """Ask everything; what fails is noted, and the rest is asked all the same."""
        pieces = {
            "default": lambda: self.throughput("default", "default"),
            "tuned": lambda: self.throughput("tuned", str(self.queue.tuned)),
            "pickup": self.pickup,
        }
        began = time.monotonic()
        for name, work in pieces.items():
            if time.monotonic() - began > self.sizes.budget_s:
                self.report.failures.append(f"{name}: {self.sizes.budget_s:.0f} s for one system were over")
                continue
            try:
                work()
            except Failed as error:
                self.report.failures.append(f"{name}: {error}")

    def throughput(self, measure: str, option: str) -> None:
        """All jobs are there before the worker starts; from the first's begin to the last's end."""
        with database(self.server, self.queue.name) as dsn:
            children, command, stamps = self._worker(measure)
            try:
                children.run("setup", [*command, "setup", dsn])
                children.run("fill", [*command, "fill", dsn, str(self.sizes.jobs)])
                children.start("work", [*command, "work", dsn, str(stamps.path), option])
                # Half the limit: the slowest would otherwise take longer than all the others together.
                found = stamps.take(self.sizes.jobs, limit_s=self.sizes.limit_s / 2, alive=children.check, partly=True)
                if len(found) >= self.sizes.jobs:
                    self._all_done(children, command, dsn)
            finally:
                children.end()
        self.report.add(measure, rate(found, found[0].began if found else 0), done=len(found), of=self.sizes.jobs)

    def _all_done(self, children: Children, command: list[str], dsn: str) -> None:
        """Its own word for it, in the database. Raises Failed."""
        wait_until(
            "all jobs are done",
            20.0,
            lambda: int(children.run("done", [*command, "done", dsn])) == self.sizes.jobs,
            children.check,
        )

    def pickup(self) -> None:
        """From just before a job is inserted, by another process, to the first line of user code; one at a time."""
        with database(self.server, self.queue.name) as dsn:
            children, command, stamps = self._worker("pickup")
            try:
                children.run("setup", [*command, "setup", dsn])
                children.start("work", [*command, "work", dsn, str(stamps.path), "default"])
                children.run("send", [*command, "send", dsn, "5", "0.2"])
                stamps.take(5, limit_s=30.0, alive=children.check)  # it has started, and is warm
                jobs = self.sizes.pickups
                children.run("send", [*command, "send", dsn, str(jobs), str(PAUSE_S)])
                found = stamps.take(jobs, limit_s=30.0, alive=children.check)
            finally:
                children.end()
        took = [(one.began - one.sent) / MS for one in found]
        self.report.add("pickup_p50", percentile(took, 0.5), samples=len(took))
        self.report.add("pickup_p99", percentile(took, 0.99), samples=len(took), max=max(took))

    def _worker(self, measure: str) -> tuple[Children, list[str], Stamps]:
        place = self.place / measure
        os.makedirs(place)
        program = [str(self.home / "bin" / "python"), str(PROGRAMS / f"{self.queue.name}_jobs.py")]
        return Children(place, environment(self.home, place, {})), program, Stamps(place / "stamps")
