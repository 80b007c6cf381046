"""How near the scheduler comes to the ceiling: a ratio of two throughputs, one right after the other, on one server.

Against both ways of the ceiling: every state written, and only those that the product writes, which is stricter. The
best of a few tries counts: a machine that is busy with other things slows the scheduler, which is several processes,
more than the ceiling, which is one client. Counts (test_counts.py) notice what is smaller than that.
"""

from pathlib import Path

import trio

from bench.ceiling import ALL, SHORT, rows_per_s
from bench.scheduler_only import Shapes, open_bench
from tests.database import Server

SHAPES = Shapes(chain=2, fan=1_000, tree=2, grid=2)
AT_LEAST = {ALL: 0.4, SHORT: 0.2}
"""Of the ceiling in batches of 100. See bench/README.md for what was found when this was written."""
TRIES = 3


async def test_a_fan_out_reaches_its_shares_of_the_ceiling(server: Server, dsn: str, tmp_path: Path) -> None:
    shares: dict[str, list[float]] = {way: [] for way in AT_LEAST}

    def reached() -> bool:
        return all(max(shares[way], default=0.0) >= bound for way, bound in AT_LEAST.items())

    async with open_bench(dsn, tmp_path, SHAPES) as bench:
        await bench.warm_up()
        for _ in range(TRIES):
            ceilings = {}
            for way in AT_LEAST:
                with server.database() as other:
                    ceilings[way] = await trio.to_thread.run_sync(
                        lambda other=other, way=way: rows_per_s(other, rows=5_000, batch=100, synchronous="on", way=way)
                    )
            cost = await bench.measure("fan", SHAPES)
            for way, ceiling in ceilings.items():
                shares[way].append(cost.per_s / ceiling)
            if reached():
                break
    print(f"shares of the ceiling: {shares}")
    assert reached(), shares
