"""Does the daemon grow? Its memory (PSS) after a warm-up of a fifth of the work, against that at the end.

The work is rounds of a fan-out and of chains, by the whole composition with an instant worker (`bench.scheduler_only`).
Each figure is the median of three rounds, since what garbage is there differs from round to round.

As a program: `python -m bench.memory DSN PLACE INSTANCES` prints one JSON object.
"""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import trio

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


def _pss() -> float:
    (me,) = processes.usage([os.getpid()])
    return me.pss_mb


async def _measure(dsn: str, place: Path, instances: int) -> dict[str, Any]:
    rounds = max(3 * AROUND, instances // A_ROUND)
    warm = max(AROUND, rounds // 5)
    megabytes = []
    async with open_bench(dsn, place, SHAPES) as bench:
        for _ in range(rounds):
            await bench.run("fan", runs=1, tasks=SHAPES.tasks("fan"))
            await bench.run("runs", runs=CHAINS, tasks=10 * CHAINS)
            megabytes.append(_pss())
    before, after = median(megabytes[warm - AROUND : warm]), median(megabytes[-AROUND:])
    every = max(1, rounds // 50)
    return {
        "instances": rounds * A_ROUND,
        "warm_up": warm * A_ROUND,
        "before_mb": round(before, 2),
        "after_mb": round(after, 2),
        "growth": 100 * (after / before - 1),
        "mb": [round(one, 1) for one in megabytes[::every]],
    }


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
    found = json.loads(done.stdout)
    report.add("memory_growth", found["growth"], **found)


if __name__ == "__main__":
    _, dsn_, place_, instances_ = sys.argv
    print(json.dumps(trio.run(partial(_measure, dsn_, Path(place_), int(instances_)))))
