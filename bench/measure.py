"""What a measurement is: one number for each repetition, and what it is compared with."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from statistics import median
from typing import Any

from attrs import define, field, frozen


@frozen(kw_only=True)
class Target:
    """What a measure is compared with, from goals.json."""

    title: str
    unit: str
    more_is_better: bool = False
    goal: float | None = None
    elsewhere: Mapping[str, float] = field(factory=dict)
    """Other systems, measured earlier on another machine of the same size: an order of magnitude, no comparison."""


@define(kw_only=True)
class Measure:
    """One line of the table: a sample for each repetition; of latencies also all that each repetition has measured."""

    name: str
    target: Target
    samples: list[float] = field(factory=list)
    details: list[Mapping[str, Any]] = field(factory=list)
    share: float | None = None
    """For a percentile: which one, 0 to 1."""
    pooled: list[float] = field(factory=list)
    """What it is a percentile of, of all repetitions together."""

    @property
    def value(self) -> float:
        """The median of the repetitions; the percentile of everything measured in them, if it is one.

        The median of a few p99 would be that of a few maxima: no repetition has many hundreds of samples.
        """
        return median(self.samples) if self.share is None else percentile(self.pooled, self.share)

    @property
    def reached(self) -> bool | None:
        """Whether the value reaches the goal; None without a goal."""
        if self.target.goal is None:
            return None
        if self.target.more_is_better:
            return self.value >= self.target.goal
        return self.value <= self.target.goal

    def as_json(self) -> dict[str, Any]:
        target = self.target
        return {
            "name": self.name,
            "title": target.title,
            "unit": target.unit,
            "value": self.value,
            "median": median(self.samples),
            "min": min(self.samples),
            "max": max(self.samples),
            "samples": self.samples,
            "pooled": len(self.pooled) or None,
            "goal": target.goal,
            "more_is_better": target.more_is_better,
            "reached": self.reached,
            "elsewhere": dict(target.elsewhere),
            "details": [dict(one) for one in self.details],
        }


@define
class Report:
    """All measures of a session, in the order of goals.json, then in the order they came."""

    targets: Mapping[str, Target] = field(factory=lambda: targets())
    measures: dict[str, Measure] = field(factory=dict)
    failures: list[str] = field(factory=list)

    def add(self, name: str, value: float, **details: Any) -> None:
        """Add one repetition's value. Raises KeyError for a name that goals.json does not know."""
        measure = self.measures.setdefault(name, Measure(name=name, target=self.targets[name]))
        measure.samples.append(value)
        if details:
            measure.details.append(details)

    def add_percentile(self, name: str, values: Sequence[float], share: float, **details: Any) -> None:
        """Add what one repetition has measured, of which `name` is a percentile: of all repetitions together.

        Raises KeyError as `add`, ValueError if there are no values.
        """
        self.add(name, percentile(values, share), samples=len(values), **details)
        measure = self.measures[name]
        measure.share = share
        measure.pooled.extend(values)

    def ordered(self) -> list[Measure]:
        order = list(self.targets)
        return sorted(self.measures.values(), key=lambda one: order.index(one.name))


def targets() -> dict[str, Target]:
    """The measures there are, and their goals."""
    text = resources.files("bench").joinpath("goals.json").read_text(encoding="utf-8")
    return {name: Target(**fields) for name, fields in json.loads(text).items()}


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed. Raises ValueError if empty."""
    ordered: Sequence[float] = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
