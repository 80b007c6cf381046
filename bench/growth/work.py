"""The work whose cost is compared: a program that prints one JSON list, a cost for each step of each round.

`python -m bench.growth.work JOB`, the job being JSON as `Job` has it. The worker is instant (`bench.scheduler_only`).
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import trio
from attrs import asdict, frozen

from bench.daemon import Failed
from bench.scheduler_only import SHAPES, Bench, Cost, Shapes, open_bench
from scheduler.observe import logs
from scheduler.store.writer import Reading


@frozen(kw_only=True)
class Step:
    """One piece of work: so many runs of a dag, with so many task instances in all."""

    dag_id: str
    runs: int
    tasks: int


@frozen(kw_only=True)
class Job:
    """Where to work, on what, and how often."""

    dsn: str
    place: str
    """A directory: the daemon's home and the DAG files are in it."""
    server_pid: int
    steps: Sequence[Step]
    rounds: int = 1
    shapes: Shapes = Shapes.quick()
    waits_for: int = 0
    """Dags that must be loaded before it begins, beside the shapes."""
    snapshot_s: float = 0.0
    """Not 0: see `bench.growth.snapshot`."""

    @classmethod
    def parse(cls, text: str) -> "Job":
        fields = json.loads(text)
        fields["steps"] = [Step(**one) for one in fields["steps"]]
        fields["shapes"] = Shapes(**fields["shapes"])
        return cls(**fields)

    def text(self) -> str:
        return json.dumps(asdict(self))


@frozen(kw_only=True)
class StepCost:
    """What one step cost in all."""

    dag_id: str
    cost: Cost
    blocks: Counter[str] | None
    """Pages of 8 kB that its statements touched, in memory or not; None without pg_stat_statements."""

    def as_json(self) -> dict[str, Any]:
        cost = self.cost
        return {
            "dag_id": self.dag_id,
            "tasks": cost.tasks,
            "seconds": cost.seconds,
            "cpu_s": cost.cpu_s,
            "statements": cost.statements,
            "transactions": cost.transactions,
            "rollbacks": cost.rollbacks,
            "wal_bytes": cost.wal_bytes,
            "blocks": None if self.blocks is None else self.blocks.total(),
            "most_blocks": None if self.blocks is None else dict(self.blocks.most_common(12)),
            "slowest": dict(list(cost.seconds_by_statement.items())[:12]),
        }


async def blocks_touched(reading: Reading) -> Counter[str] | None:
    """By statement, in this database, since the server counts."""
    (has,) = await reading.fetch(sa.text("SELECT to_regclass('pg_stat_statements') IS NOT NULL AS it"))
    if not has["it"]:
        return None
    rows = await reading.fetch(
        sa.text(
            "SELECT left(query, 100) AS query, sum(shared_blks_hit + shared_blks_read)::bigint AS n"
            " FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " GROUP BY 1"
        )
    )
    return Counter({row["query"]: row["n"] for row in rows})


async def do(bench: Bench, step: Step) -> StepCost:
    """Raises Failed."""
    store = bench.daemon.store
    before = await store.read(blocks_touched)
    cost = await bench.run(step.dag_id, runs=step.runs, tasks=step.tasks)
    after = await store.read(blocks_touched)
    blocks = None if before is None or after is None else after - before
    return StepCost(dag_id=step.dag_id, cost=cost, blocks=blocks)


async def until_loaded(bench: Bench, dags: int) -> None:
    """Return when so many dags are there beside the shapes. Raises Failed."""
    with trio.move_on_after(900) as scope:
        while await bench.daemon.store.read(_loaded) < dags + len(SHAPES):
            await trio.sleep(0.2)
    if scope.cancelled_caught:
        raise Failed(f"{dags} dags were not loaded in 15 minutes")


async def _loaded(reading: Reading) -> int:
    (row,) = await reading.fetch(sa.text("SELECT count(*) AS n FROM dag WHERE is_present"))
    return int(row["n"])


async def work(job: Job) -> list[dict[str, Any]]:
    """Raises Failed."""
    costs = []
    async with open_bench(job.dsn, Path(job.place), job.shapes, server_pid=job.server_pid) as bench:
        await until_loaded(bench, job.waits_for)
        await bench.warm_up()
        for _ in range(job.rounds):
            costs += [(await do(bench, step)).as_json() for step in job.steps]
    return costs


if __name__ == "__main__":
    logs.configure(verbose=False)
    print(json.dumps(trio.run(work, Job.parse(sys.argv[1]))))
