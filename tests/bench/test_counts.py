"""What a task instance costs, in counts: these do not depend on how fast or how busy the machine is.

The bounds are in bounds.json. Lower them when the code gets better; raising one needs a reason in the commit.
"""

import json
from pathlib import Path

import trio

from bench.scheduler_only import Shapes, open_bench

BOUNDS = json.loads(Path(__file__).with_name("bounds.json").read_text())
SHAPES = Shapes(chain=20, fan=200, tree=6, grid=6, runs=20)


async def test_statements_and_transactions_per_task_instance_stay_within_bounds(dsn: str, tmp_path: Path) -> None:
    exceeded = []
    with trio.fail_after(100):
        async with open_bench(dsn, tmp_path, SHAPES) as bench:
            await bench.warm_up()
            for shape, bounds in BOUNDS.items():
                cost = await bench.measure(shape, SHAPES)
                found = {"statements": cost.statements_per_task, "transactions": cost.transactions_per_task}
                exceeded += [
                    f"{shape}: {found[what]:.2f} {what} per task instance, at most {bound} expected; "
                    f"most often: {list(cost.by_statement.items())[:6]}"
                    for what, bound in bounds.items()
                    if found[what] > bound
                ]
    assert not exceeded, "\n".join(exceeded)
