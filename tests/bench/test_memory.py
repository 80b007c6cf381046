"""How the growth of memory is computed and shown."""

import io

import pytest
from rich.console import Console

from bench import memory, table
from bench.measure import Report

MACHINE = {
    "taken_at": "2026-01-01T00:00:00",
    "commit": "0",
    "usable_cores": 2,
    "cpu": "any",
    "memory_gb": 24.0,
    "file_system": "ext4",
    "kernel": "6",
    "load_average_at_start": [0.0],
    "python": "3.11",
    "packages": {},
}


def test_a_tenth_is_the_median_of_its_last_rounds() -> None:
    rounds = [(60.0 + i // 10, 50.0) for i in range(100)]
    rounds[8] = rounds[99] = (900.0, 900.0)
    points = memory.curve(rounds, a_round=7)
    assert [one.instances for one in points] == [70 * i for i in range(1, 11)]
    assert [one.pss for one in points] == [60.0 + i for i in range(10)]
    assert {one.anonymous for one in points} == {50.0}


def test_growth_is_counted_from_the_end_of_the_warm_up() -> None:
    points = memory.curve([(100.0 if i < 10 else 200.0 if i < 30 else 210.0, 80.0) for i in range(100)])
    assert memory.growth(points) == {"pss": pytest.approx(5.0), "anonymous": 0.0}


def test_the_curve_is_kept_and_shown() -> None:
    report, shown = Report(), io.StringIO()
    memory.note_curve(report, memory.curve([(64.0, 55.5)] * 99 + [(99.0, 99.0)]))
    (detail,) = report.measures["memory_growth"].as_json()["details"]
    assert [one["pss"] for one in detail["curve"]] == [64.0] * 10
    assert report.measures["memory_growth_own"].samples == [0.0]
    table.show(report, MACHINE, {"repeat": 1, "quick": False}, console=Console(file=shown, width=140))
    assert " ".join(["64.0"] * 10) in shown.getvalue()
    assert " ".join(["55.5"] * 10) in shown.getvalue()
