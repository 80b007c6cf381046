"""What came of the comparison: for each system the samples of each measure, or why there are none."""

from collections.abc import Mapping
from typing import Any

from attrs import define, field, frozen

from bench.measure import Report, Target

DAGS, JOBS = "dags", "jobs"

MEASURES: Mapping[str, Mapping[str, Target]] = {
    DAGS: {
        "chain": Target(title="Chain of tasks, trigger to the end of the last", unit="s"),
        "fan": Target(title="Fan-out 1 -> n -> 1, trigger to the end of the last", unit="s"),
        "runs": Target(title="Runs x 10 tasks, from the first trigger", unit="tasks/s", more_is_better=True),
        "trigger_p50": Target(title="Trigger, idle, to first user code, p50", unit="ms"),
        "trigger_max": Target(title="Trigger, idle, to first user code, max", unit="ms"),
        "hop_p50": Target(title="Upstream's end to downstream's start, p50", unit="ms"),
        "hop_max": Target(title="Upstream's end to downstream's start, max", unit="ms"),
        "idle_pss": Target(title="Idle: memory (PSS), PostgreSQL included", unit="MB"),
        "idle_cpu": Target(title="Idle: CPU, of one core", unit="%"),
        "idle_processes": Target(title="Idle: processes", unit=""),
    },
    JOBS: {
        "default": Target(title="No-op jobs, defaults", unit="jobs/s", more_is_better=True),
        "tuned": Target(title="No-op jobs, tuned", unit="jobs/s", more_is_better=True),
        "fan": Target(title="Tasks of a fan-out, all states, no processes", unit="tasks/s", more_is_better=True),
        "runs": Target(title="Tasks of runs x 10, all states, no processes", unit="tasks/s", more_is_better=True),
        "pickup_p50": Target(title="Pick-up of a job, idle, p50", unit="ms"),
        "pickup_p99": Target(title="Pick-up of a job, idle, p99", unit="ms"),
    },
}
"""The order of the tables' lines. A system need not have all of a group."""

REFERENCE = {(JOBS, "default"): "fan", (JOBS, "tuned"): "fan"}
"""What of ours a ratio refers to, where ours has nothing of that name: jobs of queues against tasks of a fan-out."""

TITLES = {
    DAGS: "DAGs, end to end: the same shapes, user code that only says when it ran",
    JOBS: "Raw throughput: queues run jobs inside one worker process; ours moves tasks of DAGs through all states",
}


@define(kw_only=True)
class Side:
    """One system, or one configuration of it."""

    key: str
    title: str
    group: str
    ours: bool = False
    what: str = ""
    """Version and settings, for the reader."""
    missing: str | None = None
    """Why nothing of it could be measured."""
    packages: Mapping[str, str] = field(factory=dict)
    report: Report = field(init=False)
    """Its samples; `failures` are the pieces that could not be measured."""

    def __attrs_post_init__(self) -> None:
        self.report = Report(targets=MEASURES[self.group])

    def as_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "title": self.title,
            "group": self.group,
            "what": self.what,
            "missing": self.missing,
            "packages": dict(self.packages),
            "measures": [one.as_json() for one in self.report.ordered()],
            "failures": self.report.failures,
        }


@frozen
class Cell:
    """A median, its spread, and how many times ours it is (below 1: less than ours)."""

    median: float
    low: float
    high: float
    ratio: float | None


@define
class Board:
    """All systems, ours first in each group."""

    sides: dict[str, Side] = field(factory=dict)

    def add(self, side: Side) -> Side:
        return self.sides.setdefault(side.key, side)

    def group(self, name: str) -> list[Side]:
        return [side for side in self.sides.values() if side.group == name]

    def cells(self, group: str, measure: str) -> list[Cell | None]:
        """One for each system of the group; None where there is no sample. The first system is what ratios refer to."""
        sides = self.group(group)
        found = [side.report.measures.get(measure) for side in sides]
        reference = sides[0].report.measures.get(REFERENCE.get((group, measure), measure)) if sides else None
        ours = reference.value if reference is not None else None
        return [
            None
            if one is None
            else Cell(
                one.value,
                min(one.samples),
                max(one.samples),
                one.value / ours if ours and number > 0 else None,
            )
            for number, one in enumerate(found)
        ]

    def not_measured(self, group: str) -> list[str]:
        """One line for each system, or piece of one, that could not be measured: nothing is left out silently."""
        lines = []
        for side in self.group(group):
            if side.missing is not None:
                lines.append(f"{side.title}: not measured: {side.missing}")
            lines += [f"{side.title}: not measured: {failure}" for failure in side.report.failures]
            if side.missing is None and not side.report.measures and not side.report.failures:
                lines.append(f"{side.title}: not measured: it was not its turn")
        return list(dict.fromkeys(lines))

    def cut_off(self, group: str) -> list[str]:
        """One line for each rate that is of less than was asked for, because time was over."""
        return [
            f"{side.title}: {measure.target.title}: {detail['done']:,} of {detail['of']:,} before the limit"
            for side in self.group(group)
            for measure in side.report.ordered()
            for detail in measure.details
            if detail.get("done", 0) < detail.get("of", 0)
        ]

    def as_json(self) -> list[dict[str, Any]]:
        return [side.as_json() for side in self.sides.values()]
