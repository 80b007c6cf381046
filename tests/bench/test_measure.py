"""What is made of samples: medians, percentiles of all repetitions, misses, and the table of CPU."""

import io
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from bench import plot, table
from bench.measure import Report, Target
from bench.split_table import cpu_table
from tests.bench.test_memory import MACHINE

SETTINGS = {"repeat": 2, "quick": False}


def shown(report: Report) -> str:
    out = io.StringIO()
    table.show(report, MACHINE, SETTINGS, console=Console(file=out, width=160))
    return out.getvalue()


def line(report: Report, title: str) -> str:
    (found,) = [one for one in shown(report).splitlines() if title in one]
    return found


def test_a_percentile_is_of_the_samples_of_all_repetitions() -> None:
    report = Report({"late": Target(title="late", unit="ms", goal=5)})
    report.add_percentile("late", [1.0] * 99 + [9.0], 0.99)
    report.add_percentile("late", [1.0] * 9 + [7.0], 0.99)
    measure = report.measures["late"]
    assert measure.samples == [1.0, 7.0], "what each repetition gives alone"
    assert measure.value == 7.0, "the 109th of 110"
    assert measure.reached is False
    made = measure.as_json()
    assert (made["value"], made["median"], made["pooled"]) == (7.0, 4.0, 110)


def test_a_figure_without_percentiles_is_the_median_of_the_repetitions() -> None:
    report = Report({"chain": Target(title="a chain", unit="s", goal=2)})
    for seconds in (1.0, 2.0, 9.0):
        report.add("chain", seconds)
    assert report.measures["chain"].value == 2.0
    assert report.measures["chain"].reached is True


def test_a_missed_goal_shows_in_the_table_and_in_the_plot() -> None:
    report = Report()
    report.add("chain", 0.31)
    report.add("fan", 0.44)
    assert "≤ 0.3 ✗" in line(report, "Chain of 40 tasks")
    assert "≤ 0.45 ✓" in line(report, "Fan-out 1 -> 100 -> 1")
    drawn = plot.draw(report, MACHINE)
    assert drawn.count(f'stroke="{plot.GOAL}"') == 2, "a line for each goal"


def a_cost(tasks: int, *, samples: int, store_ms: float, cpu_s: float) -> Mapping[str, Any]:
    layers = {"store": store_ms, "driver": 0.02}
    routines = {"record_outcomes": store_ms, "other": 0.0199, "purge": 0.0001}
    split = {"samples": samples, "tasks": tasks, "by_layer_ms": layers, "by_routine_ms": routines}
    return {"tasks": tasks, "cpu_s": {"scheduler": cpu_s, "postgres": cpu_s / 2}, "split": split}


def test_cpu_is_shown_by_process_layer_and_routine_of_all_repetitions() -> None:
    report = Report()
    report.add("scheduler_fan", 1.0, **a_cost(100, samples=500, store_ms=0.1, cpu_s=0.01))
    report.add("scheduler_fan", 1.0, **a_cost(300, samples=700, store_ms=0.2, cpu_s=0.07))
    cells = {
        parts[0]: parts[1]
        for text in shown(report).splitlines()
        if len(parts := [part.strip() for part in text.strip("│ ").split("│")]) == 2
    }
    assert cells["process: scheduler"] == "0.2000"
    assert cells["process: postgres"] == "0.1000"
    assert cells["layer: store"] == "0.1750"
    assert cells["layer: driver"] == "0.0200"
    assert cells["layer: serialisation"] == "0.0000", "said although there was none"
    assert cells["routine: record_outcomes"] == "0.1750"
    assert "routine: purge" not in cells, "less than one per cent"
    assert cells["samples"] == "1,200"


def test_there_is_no_table_of_cpu_when_nothing_was_split() -> None:
    report = Report()
    report.add("chain", 1.0)
    assert cpu_table(report) is None


def test_a_name_without_a_target_is_refused() -> None:
    with pytest.raises(KeyError):
        Report().add_percentile("nothing of the kind", [1.0], 0.5)
