"""The daemon keeps nothing of runs that are over: no collection anywhere in it grows with their number."""

import asyncio
import gc
from collections import deque
from collections.abc import Sized
from pathlib import Path

import trio

from bench.scheduler_only import Bench, Shapes, open_bench

SHAPES = Shapes(chain=2, fan=50, tree=2, grid=2)
RUNS = 40
ROUNDS = 4
AT_MOST = ROUNDS * RUNS // 2
"""One thing kept for each run would be twice as many. A connection that is used for the first time prepares some forty
statements."""


async def a_round(bench: Bench) -> None:
    await bench.run("fan", runs=1, tasks=SHAPES.tasks("fan"))
    await bench.run("runs", runs=RUNS, tasks=10 * RUNS)


def collections() -> list[tuple[Sized, int]]:
    """Whatever has entries, and how many; but the heaps of time-outs, which forget the cancelled ones in their time."""
    gc.unfreeze()  # the daemon had hidden what was there at its start
    gc.collect()
    found = [one for one in gc.get_objects() if isinstance(one, dict | list | set | deque)]
    return [(one, len(one)) for one in found if not is_of_timers(one)]


def is_of_timers(one: object) -> bool:
    if not isinstance(one, list) or not one:
        return False
    last = one[-1]
    return isinstance(last, asyncio.TimerHandle) or (isinstance(last, tuple) and isinstance(last[-1], trio.CancelScope))


def grown(before: list[tuple[Sized, int]]) -> dict[str, int]:
    """Which of these have so many more entries than they had."""
    more = [(one, len(one) - size) for one, size in before if len(one) - size > AT_MOST and not is_of_timers(one)]
    return {f"{type(one).__name__} with {str(one)[:200]}": count for one, count in more}


async def test_nothing_is_kept_of_runs_that_are_over(dsn: str, tmp_path: Path) -> None:
    async with open_bench(dsn, tmp_path, SHAPES) as bench:
        await bench.warm_up()
        await a_round(bench)
        before = collections()
        for _ in range(ROUNDS):
            await a_round(bench)
        assert grown(before) == {}
