"""Does the daemon grow? Its memory (PSS) after a warm-up of a fifth of the work, against that at its end.

The work is rounds of a fan-out and of chains, by the whole composition with an instant worker (`bench.scheduler_only`).
The figures at each tenth are medians of a few rounds, since what is there by chance differs from round to round.

As a program: `python -m bench.memory DSN PLACE INSTANCES` prints one JSON object.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import trio
from attrs import asdict, frozen

from bench import processes
from bench.daemon import Failed
from bench.machine import ROOT
from bench.measure import Report
from bench.scheduler_only import Shapes, open_bench
from bench.server import Server

INSTANCES = 20_000
"""The default; the goal is meant for 10^6 (`--instances 1000000`)."""
SHAPES = Shapes(chain=20, fan=500, tree=3, grid=3)
CHAINS = 20
A_ROUND = SHAPES.tasks("fan") + 10 * CHAINS
AROUND = 3
"""Rounds whose median is taken."""
TENTHS = 10
WARM_UP = 2
"""Tenths."""


@frozen(kw_only=True)
class Point:
    """The daemon's memory after so many task instances. MB."""

    instances: int
    pss: float
    anonymous: float
    """Its own part: PSS also changes when another process that has the same libraries mapped comes or goes."""


def curve(rounds: Sequence[tuple[float, float]], a_round: int = A_ROUND) -> list[Point]:
    """One point for each tenth of the work, from (PSS, anonymous) after each round."""
    assert len(rounds) >= AROUND * TENTHS, len(rounds)
    ends = [len(rounds) * (i + 1) // TENTHS for i in range(TENTHS)]
    return [
        Point(
            instances=end * a_round,
            pss=round(median(pss for pss, _ in rounds[end - AROUND : end]), 2),
            anonymous=round(median(own for _, own in rounds[end - AROUND : end]), 2),
        )
        for end in ends
    ]


def growth(points: Sequence[Point]) -> dict[str, float]:
    """From the end of the warm-up to the end, in per cent: of PSS, and of the anonymous part."""
    warm, last = points[WARM_UP - 1], points[-1]
    return {"pss": 100 * (last.pss / warm.pss - 1), "anonymous": 100 * (last.anonymous / warm.anonymous - 1)}


def described(points: Sequence[Point]) -> str:
    """For people, below the table."""
    warm, last = points[WARM_UP - 1], points[-1]
    return (
        f"memory after each tenth of {last.instances:,} task instances, MB (growth counts from {warm.instances:,}):\n"
        f"  PSS       {' '.join(f'{one.pss:.1f}' for one in points)}\n"
        f"  anonymous {' '.join(f'{one.anonymous:.1f}' for one in points)}"
    )


async def _measure(dsn: str, place: Path, instances: int) -> list[Point]:
    rounds = []
    async with open_bench(dsn, place, SHAPES) as bench:
        for _ in range(max(AROUND * TENTHS, -(-instances // A_ROUND))):
            await bench.run("fan", runs=1, tasks=SHAPES.tasks("fan"))
            await bench.run("runs", runs=CHAINS, tasks=10 * CHAINS)
            rounds.append(processes.memory(os.getpid()))
    return curve(rounds)


def measure(server: Server, place: Path, report: Report, *, instances: int) -> None:
    """Raises Failed."""
    here = place / "memory"
    here.mkdir(exist_ok=True)
    with server.migrated("memory") as dsn, (here / "log").open("wb") as log:
        done = subprocess.run(
            [sys.executable, "-m", "bench.memory", dsn, str(here), str(instances)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            check=False,
        )
    if done.returncode != 0:
        raise Failed((here / "log").read_text()[-3000:])
    note_curve(report, [Point(**one) for one in json.loads(done.stdout)])


def note_curve(report: Report, points: Sequence[Point]) -> None:
    """Add what came out: both figures, and all points."""
    grown = growth(points)
    drawn: list[dict[str, Any]] = [asdict(one) for one in points]
    report.add("memory_growth", grown["pss"], curve=drawn, note=described(points))
    report.add("memory_growth_own", grown["anonymous"])


if __name__ == "__main__":
    _, dsn_, place_, instances_ = sys.argv
    found = trio.run(partial(_measure, dsn_, Path(place_), int(instances_)))
    print(json.dumps([asdict(one) for one in found]))
