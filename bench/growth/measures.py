"""Runs the measurements of this package and adds their ratios to the report.

They are made once in a session, each in as many rounds as it has repetitions: filling a history takes longer than
working on it. In every round the small and the large are measured right after each other, in turning order.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from attrs import frozen

from bench.daemon import Failed
from bench.growth import dagfiles, history, idle
from bench.growth.sizes import Sizes
from bench.growth.work import Job, Step
from bench.machine import ROOT
from bench.measure import Report
from bench.scheduler_only import Shapes
from bench.server import Server

STANDIN = "dynamic task mapping does not exist: 10,000 independent tasks in one run stand in for mapped instances"
"""Said with the figure it concerns, until there is mapping."""


@frozen
class Ground:
    """What is measured on: a server, a directory, sizes, how many rounds, and where the ratios go."""

    server: Server
    place: Path
    sizes: Sizes
    rounds: int
    report: Report

    def job(self, name: str, dsn: str, steps: Sequence[Step], **more: Any) -> Job:
        """A job with a home of its own."""
        home = self.place / name
        home.mkdir(exist_ok=True)
        return Job(dsn=dsn, place=str(home), server_pid=self.server.pid, steps=steps, **more)


def run(module: str, job: Job) -> Any:
    """Run a program of this package on a job; return what it printed. Raises Failed."""
    log = Path(job.place) / "log"
    with log.open("ab") as errors:
        done = subprocess.run(
            [sys.executable, "-m", f"bench.growth.{module}", job.text()],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            check=False,
        )
    if done.returncode != 0:
        raise Failed(f"{module}: {log.read_text()[-3000:]}")
    return json.loads(done.stdout)


def per_task(costs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Sums over some steps, by task instance: CPU in ms of the scheduler and PostgreSQL, wall time in ms, counts."""
    tasks = sum(cost["tasks"] for cost in costs)

    def of(what: Callable[[dict[str, Any]], float]) -> float:
        return float(sum(what(cost) for cost in costs) / tasks)

    def cpu(*names: str) -> float:
        return 1000 * of(lambda cost: sum(cost["cpu_s"].get(name, 0.0) for name in names))

    found = {
        "cpu_ms": cpu("scheduler", "postgres"),
        "scheduler_cpu_ms": cpu("scheduler"),
        "postgres_cpu_ms": cpu("postgres"),
        "wall_ms": 1000 * of(lambda cost: cost["seconds"]),
        "statements": of(lambda cost: cost["statements"]),
        "transactions": of(lambda cost: cost["transactions"]),
        "wal_bytes": of(lambda cost: cost["wal_bytes"]),
    }
    if all(cost["blocks"] is not None for cost in costs):
        found["blocks"] = of(lambda cost: cost["blocks"])
    return found


def ratios(large: dict[str, float], small: dict[str, float]) -> dict[str, float]:
    return {name: large[name] / value for name, value in small.items() if value and name in large}


def note(report: Report, name: str, large: dict[str, float], small: dict[str, float], **details: Any) -> None:
    """One round: the ratio of CPU is the figure, the ratio of wall time beside it, everything else is in the JSON."""
    found = ratios(large, small)
    report.add(name, found["cpu_ms"], ratios=found, large=large, small=small, **details)
    report.add(f"{name}_wall", found["wall_ms"])


def measure_history(ground: Ground) -> None:
    """The same work on an empty database and on histories."""
    sizes = ground.sizes
    shapes = Shapes(chain=sizes.chain, fan=sizes.fan, tree=3, grid=3)
    steps = [
        Step(dag_id="fan", runs=1, tasks=shapes.tasks("fan")),
        Step(dag_id="chain", runs=1, tasks=sizes.chain),
        Step(dag_id="runs", runs=sizes.runs, tasks=10 * sizes.runs),
    ]
    with ExitStack() as stack:
        jobs = {}
        for instances in (0, sizes.history_small, sizes.history_large):
            name = f"history_{instances}"
            dsn = stack.enter_context(ground.server.migrated(name))
            job = ground.job(name, dsn, steps, shapes=shapes, rounds=2)
            ground.server.count_blocks(job.dsn)
            run("work", _only_loading(job))
            history.make(ground.server, name, instances, dag_id="runs")
            jobs[instances] = job
        for number in range(max(ground.rounds, sizes.history_rounds)):
            found = {}
            for instances, job in _turned(jobs, number):
                ground.server.administer("CHECKPOINT")  # nobody writes more full pages than another
                found[instances] = run("work", job)
            empty = per_task(found[0])
            for name, instances in (
                ("growth_history_small", sizes.history_small),
                ("growth_history_large", sizes.history_large),
            ):
                note(
                    ground.report,
                    name,
                    per_task(found[instances]),
                    empty,
                    instances=instances,
                    steps=found[instances],
                    steps_empty=found[0],
                )
            large = ratios(per_task(found[sizes.history_large]), empty)
            for what in ("statements", "transactions", "blocks"):
                if what in large:
                    ground.report.add(f"growth_history_{what}", large[what])


def measure_dags(ground: Ground) -> None:
    """The same work beside few and many dags that have nothing to do; loading them; a daemon idle with them."""
    sizes, report = ground.sizes, ground.report
    steps = [Step(dag_id="runs", runs=sizes.runs, tasks=10 * sizes.runs)]
    with ExitStack() as stack:
        found = {}
        for dags in (sizes.dags_few, sizes.dags_some, sizes.dags_many):
            name = f"dags_{dags}"
            dsn = stack.enter_context(ground.server.migrated(name))
            job = ground.job(name, dsn, steps, rounds=ground.rounds, waits_for=dags)
            dagfiles.write_many(
                Path(job.place) / "dags", "z_idle_", dags, per_file=sizes.dags_per_file, schedule=dagfiles.NEVER
            )
            found[dags] = run("work", job)
        few = [per_task([cost]) for cost in found[sizes.dags_few]]
        for name, dags in (("growth_dags_some", sizes.dags_some), ("growth_dags_many", sizes.dags_many)):
            for cost, small in zip(found[dags], few, strict=True):
                note(report, name, per_task([cost]), small, dags=dags, step=cost)
    for dags in (sizes.dags_few, sizes.dags_some, sizes.dags_many):
        seen = idle.measure(
            ground.place / f"idle_{dags}", dags, per_file=sizes.dags_per_file, idle_s=float(sizes.idle_s)
        )
        label = {sizes.dags_few: "few", sizes.dags_some: "some", sizes.dags_many: "many"}[dags]
        report.add(f"growth_idle_{label}", seen["idle_percent"], **seen)
        report.add(f"growth_loading_{label}", seen["loading_s"])


def measure_large(ground: Ground) -> None:
    """One large dag, one flat run, one fan-in, each against a tenth of it."""
    sizes = ground.sizes
    with ground.server.migrated("large") as dsn:
        job = ground.job("large", dsn, [])
        tasks = dagfiles.write_large(Path(job.place) / "dags", large=sizes.large, fan_in=sizes.fan_in)
        # the small one in as many runs as make it as much work
        steps = [
            step
            for kind in KINDS
            for step in (
                Step(dag_id=f"{kind}_tenth", runs=10, tasks=10 * tasks[f"{kind}_tenth"]),
                Step(dag_id=kind, runs=1, tasks=tasks[kind]),
            )
        ]
        job = ground.job("large", dsn, steps, rounds=ground.rounds, waits_for=len(tasks))
        ground.server.count_blocks(dsn)
        costs = {(number, cost["dag_id"]): cost for number, cost in _numbered(run("work", job), len(steps))}
        for number in range(ground.rounds):
            for kind, name in KINDS.items():
                large, small = costs[number, kind], costs[number, f"{kind}_tenth"]
                more = {"remark": STANDIN} if kind == "flat" else {}
                note(ground.report, name, per_task([large]), per_task([small]), large_step=large, **more)


KINDS = {"layered": "growth_large_dag", "flat": "growth_flat_run", "gathering": "growth_fan_in"}


def measure_due(ground: Ground) -> None:
    """From the full minute to the start of the last of all first tasks."""
    sizes = ground.sizes
    with ground.server.migrated("due") as dsn:
        job = ground.job("due", dsn, [], rounds=ground.rounds, waits_for=sizes.due)
        dagfiles.write_many(Path(job.place) / "dags", "z_due_", sizes.due, per_file=50, schedule=dagfiles.EVERY_MINUTE)
        for seen in run("due", job):
            ground.report.add("growth_due", seen["started_s"], **seen)


def measure_snapshot(ground: Ground) -> None:
    """The last steps under an old snapshot against those before it was taken."""
    sizes = ground.sizes
    with ground.server.migrated("snapshot") as dsn:
        steps = [Step(dag_id="runs", runs=sizes.runs, tasks=10 * sizes.runs)]
        job = ground.job("snapshot", dsn, steps, snapshot_s=float(sizes.snapshot_s))
        ground.server.count_blocks(dsn)
        found = run("snapshot", job)
        middle = {when: _medians([per_task([cost]) for cost in costs[-5:]]) for when, costs in found.items() if costs}
        note(
            ground.report,
            "growth_snapshot",
            middle["meanwhile"],
            middle["before"],
            after=ratios(middle["after"], middle["before"]),
            held_s=sizes.snapshot_s,
            series=[
                {"held_s": cost["held_s"]} | per_task([cost])
                for cost in found["meanwhile"][:: max(1, len(found["meanwhile"]) // 60)]
            ],
            last=found["meanwhile"][-1],
        )


MEASURES: dict[str, Callable[[Ground], None]] = {
    "history": measure_history,
    "dags": measure_dags,
    "large": measure_large,
    "due": measure_due,
    "snapshot": measure_snapshot,
}


def _medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: median(one[name] for one in rounds) for name in rounds[0]}


def _turned(jobs: dict[int, Job], number: int) -> list[tuple[int, Job]]:
    """In another order each round: who is always first would always have the coldest caches."""
    items = list(jobs.items())
    at = number % len(items)
    return items[at:] + items[:at]


def _numbered(costs: Sequence[dict[str, Any]], steps: int) -> list[tuple[int, dict[str, Any]]]:
    return [(i // steps, cost) for i, cost in enumerate(costs)]


def _only_loading(job: Job) -> Job:
    """The DAG files' rows must be there before a history can be made of them."""
    return Job(dsn=job.dsn, place=job.place, server_pid=job.server_pid, steps=[], shapes=job.shapes)
