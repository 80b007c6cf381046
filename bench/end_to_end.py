"""Everything that is measured from outside, on a daemon as users start it: tasks run in processes of their own."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from attrs import define, frozen

from bench import dagfiles, processes
from bench.daemon import Daemon, Failed, wait_for_success
from bench.measure import Report
from scheduler.home import Home

MS = 1e6  # nanoseconds

CONNECTIONS = 8
"""Over which many runs are triggered at once."""


@frozen(kw_only=True)
class Sizes:
    """How much of everything in one repetition: with three of them there are more than 100 samples of each latency.

    `tree` is a depth, `grid` the length of a side.
    """

    chain: int = 40
    fan: int = 100
    tree: int = 7
    grid: int = 10
    hops: int = 40
    hop_runs: int = 3
    triggers: int = 100
    runs: int = 100
    load: int = 8
    load_rounds: int = 5
    ticks: int = 35
    idle_s: float = 20.0
    settle_s: float = 5.0
    pause_s: float = 0.1

    @classmethod
    def quick(cls) -> "Sizes":
        """Enough to see that everything works. Figures mean little."""
        return cls(
            hops=10, hop_runs=1, triggers=10, runs=20, load_rounds=1, ticks=3, idle_s=3.0, settle_s=1.0, pause_s=0.02
        )


@define
class World:
    """One repetition: a daemon on a new home."""

    daemon: Daemon
    marks_path: Path
    sizes: Sizes
    report: Report

    def marks(self, kind: str) -> list[dict[str, Any]]:
        """What tasks of this kind have noted."""
        try:
            lines = self.marks_path.read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line for line in map(json.loads, lines) if line["kind"] == kind]


@contextmanager
def world(scratch: Path, sizes: Sizes, report: Report, *, with_startup: bool) -> Iterator[World]:
    """Start a daemon on a new home, measuring how long that takes if asked to; stop it at the end."""
    marks = scratch / "marks.jsonl"
    dag_ids = dagfiles.write_end_to_end(
        scratch / "dags",
        chain=sizes.chain,
        fan=sizes.fan,
        tree=sizes.tree,
        grid=sizes.grid,
        hops=sizes.hops,
        marks=marks,
    )
    daemon = Daemon(home=Home(scratch / "home"), dags_dir=scratch / "dags", scratch=scratch)
    try:
        first = daemon.start()
        daemon.wait_for_dags(dag_ids)
        if with_startup:
            report.add("first_start", first)
            time.sleep(sizes.settle_s)
            report.add("stop", daemon.stop())
            report.add("restart", daemon.start())
        yield World(daemon, marks, sizes, report)
        daemon.stop()
    finally:
        daemon.end()


def _warm_up(world: World, dag_id: str) -> None:
    """Run it once: pages, plans and warm parents are there afterwards, as in any daemon that has run for a while."""
    with world.daemon.client() as client:
        wait_for_success(client, dag_id, client.call("runs.trigger", dag_id=dag_id)["run_id"])


def measure_idle(world: World) -> None:
    """Memory and CPU of all processes while nothing happens, warm parents included."""
    for dag_id in ("chain", "one"):
        _warm_up(world, dag_id)
    time.sleep(world.sizes.settle_s)
    root = world.daemon.pid
    before = processes.usage(processes.tree(root))
    began = time.monotonic()
    time.sleep(world.sizes.idle_s)
    seconds = time.monotonic() - began
    after = processes.usage(processes.tree(root))
    cpu = processes.cpu_between(before, after)
    world.report.add("idle_pss", sum(one.pss_mb for one in after), mb=processes.by_name(after, "pss_mb"))
    world.report.add("idle_cpu", 100 * sum(cpu.values()) / seconds, seconds=seconds, cpu_s=cpu)
    world.report.add("idle_processes", float(len(after)))


def measure_trigger(world: World) -> None:
    """From just before the request is sent to the first line of user code, the system idle before each."""
    _warm_up(world, "one")
    sent = {}
    with world.daemon.client() as client:
        for _ in range(world.sizes.triggers):
            time.sleep(world.sizes.pause_s)
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            run_id = client.call("runs.trigger", dag_id="one")["run_id"]
            sent[run_id] = now
            wait_for_success(client, "one", run_id)
    took = [(mark["began"] - sent[mark["run_id"]]) / MS for mark in world.marks("trigger") if mark["run_id"] in sent]
    _expect(len(took), len(sent), "marks of triggered tasks")
    _latencies(world, "trigger", took)


def measure_hops(world: World) -> None:
    """From the last line of a task to the first line of the next one, one chain at a time on an idle system."""
    _warm_up(world, "hops")
    run_ids = set()
    with world.daemon.client() as client:
        for _ in range(world.sizes.hop_runs):
            time.sleep(world.sizes.pause_s)
            run_id = client.call("runs.trigger", dag_id="hops")["run_id"]
            wait_for_success(client, "hops", run_id)
            run_ids.add(run_id)
    took = _hops([mark for mark in world.marks("hop") if mark["run_id"] in run_ids])
    _expect(len(took), (world.sizes.hops - 1) * len(run_ids), "hops")
    _latencies(world, "hop", took)


def _latencies(world: World, name: str, took: list[float]) -> None:
    for of, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        world.report.add_percentile(f"{name}_{of}", took, share)


def _hops(marks: list[dict[str, Any]]) -> list[float]:
    """Milliseconds between the end of one task and the start of the next, within each run."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for mark in marks:
        runs.setdefault(mark["run_id"], []).append(mark)
    return [
        (after["began"] - before["ended"]) / MS
        for run in runs.values()
        for before, after in pairwise(sorted(run, key=lambda mark: mark["began"]))
    ]


def _timed(world: World, name: str) -> None:
    _warm_up(world, name)
    with world.daemon.client() as client:
        time.sleep(world.sizes.pause_s)
        before = processes.usage(processes.tree(world.daemon.pid), with_memory=False)
        began = time.monotonic()
        run_id = client.call("runs.trigger", dag_id=name)["run_id"]
        wait_for_success(client, name, run_id)
        seconds = time.monotonic() - began
        after = processes.usage(processes.tree(world.daemon.pid), with_memory=False)
    world.report.add(name, seconds, cpu_s=processes.cpu_between(before, after))


def measure_chain(world: World) -> None:
    """From just before the trigger is sent to the answer that the run has succeeded."""
    _timed(world, "chain")


def measure_fan(world: World) -> None:
    """The same for one task, then a hundred at once, then one."""
    _timed(world, "fan")


def measure_tree(world: World) -> None:
    """The same for a task with two below it, each of which has two below it, and so on."""
    _timed(world, "tree")


def measure_grid(world: World) -> None:
    """The same for a square in which each task waits for the one above it and the one to its left."""
    _timed(world, "grid")


def measure_runs(world: World) -> None:
    """Runs of a chain of ten, all triggered at once, over a few connections."""
    _together(world, "runs")


def measure_reuse_chain(world: World) -> None:
    """As `chain`, in processes that the tasks share."""
    _timed(world, "reuse_chain")


def measure_reuse_runs(world: World) -> None:
    """As `runs`, in processes that the tasks share."""
    _together(world, "reuse_runs")


def _together(world: World, name: str) -> None:
    _warm_up(world, name)
    with world.daemon.client() as client:
        before = processes.usage(processes.tree(world.daemon.pid), with_memory=False)
        began = time.monotonic()
        run_ids = trigger_many(world.daemon, name, world.sizes.runs)
        for run_id in run_ids:
            wait_for_success(client, name, run_id)
        seconds = time.monotonic() - began
        after = processes.usage(processes.tree(world.daemon.pid), with_memory=False)
    cpu = processes.cpu_between(before, after)
    world.report.add(name, 10 * len(run_ids) / seconds, runs=len(run_ids), seconds=seconds, cpu_s=cpu)


def trigger_many(daemon: Daemon, dag_id: str, count: int) -> set[str]:
    """The run ids, of triggers sent as by a client that wants throughput: several under way at a time."""
    left = iter(range(count))  # shared: `next` on it is one step of the interpreter

    def caller(_: int) -> list[str]:
        with daemon.client() as client:
            return [client.call("runs.trigger", dag_id=dag_id)["run_id"] for _ in left]

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        return {run_id for made in threads.map(caller, range(CONNECTIONS)) for run_id in made}


def measure_load(world: World) -> None:
    """Hops while several chains of ten run side by side: the cores are busy, and there are slots for everybody."""
    _warm_up(world, "runs")
    run_ids: set[str] = set()
    with world.daemon.client() as client:
        for _ in range(world.sizes.load_rounds):
            made = [client.call("runs.trigger", dag_id="runs")["run_id"] for _ in range(world.sizes.load)]
            for run_id in made:
                wait_for_success(client, "runs", run_id)
            run_ids.update(made)
    took = _hops([mark for mark in world.marks("hop") if mark["run_id"] in run_ids])
    _expect(len(took), 9 * len(run_ids), "hops")
    _latencies(world, "hop_load", took)


def measure_cron(world: World) -> None:
    """From the second a cron schedule names to the first line of user code."""
    with world.daemon.client() as client:
        client.call("dags.pause", dag_id="ticks", paused=False)
        deadline = time.monotonic() + 3 * world.sizes.ticks + 10
        while len(world.marks("cron")) <= world.sizes.ticks:
            if time.monotonic() > deadline:
                raise Failed(f"{len(world.marks('cron'))} ticks in {3 * world.sizes.ticks + 10} s")
            time.sleep(0.2)
        client.call("dags.pause", dag_id="ticks", paused=True)
    # The first one is the tick that was missed when the dag was unpaused.
    took = [1000 * (mark["wall"] - mark["tick"]) for mark in world.marks("cron")[1:]]
    _latencies(world, "cron", took)


def _expect(found: int, expected: int, what: str) -> None:
    if found != expected:
        raise Failed(f"{found} {what} instead of {expected}")


MEASURES: dict[str, Callable[[World], None]] = {
    "idle": measure_idle,
    "trigger": measure_trigger,
    "hops": measure_hops,
    "chain": measure_chain,
    "fan": measure_fan,
    "tree": measure_tree,
    "grid": measure_grid,
    "runs": measure_runs,
    "reuse_chain": measure_reuse_chain,
    "reuse_runs": measure_reuse_runs,
    "load": measure_load,
    "cron": measure_cron,
}
"""In this order: idle first, while the history is empty."""
