"""How near the scheduler comes to the ceiling: a ratio of two throughputs, one right after the other, on one server.

The bound leaves room: a machine that is busy with other things slows the scheduler, which is several processes, more
than the ceiling, which is one client. It is here to notice a fall by a factor, not by per cents; counts
(test_counts.py) notice those.
"""

from pathlib import Path

import trio

from bench.ceiling import rows_per_s
from bench.scheduler_only import Shapes, open_bench
from tests.database import Server

SHAPES = Shapes(chain=2, fan=1_000, tree=2, grid=2)
AT_LEAST = 0.08
"""Of the ceiling in batches of 100. See bench/README.md for what was found when this was written."""
TRIES = 3


async def test_a_fan_out_reaches_its_share_of_the_ceiling(server: Server, dsn: str, tmp_path: Path) -> None:
    shares: list[float] = []
    async with open_bench(dsn, tmp_path, SHAPES) as bench:
        await bench.warm_up()
        while len(shares) < TRIES and max(shares, default=0.0) < AT_LEAST:
            with server.database() as other:
                ceiling = await trio.to_thread.run_sync(
                    lambda other=other: rows_per_s(other, rows=5_000, batch=100, synchronous="on")
                )
            cost = await bench.measure("fan", SHAPES)
            shares.append(cost.per_s / ceiling)
    print(f"shares of the ceiling: {[f'{share:.3f}' for share in shares]}")
    assert max(shares) >= AT_LEAST, shares
