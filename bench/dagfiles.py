"""The DAG files the daemon is measured with, as a user would write them."""

from pathlib import Path

TRIVIAL = '''"""Shapes of tasks that do nothing."""
from scheduler import dag, task


@task
def nothing() -> None:
    pass


@dag(dag_id="chain", schedule=None)
def chain():
    last = None
    for i in range({chain}):
        here = nothing.override(task_id=f"t{{i}}")()
        if last is not None:
            last >> here
        last = here


@dag(dag_id="fan", schedule=None, max_active_tasks=1000)
def fan():
    first = nothing.override(task_id="first")()
    last = nothing.override(task_id="last")()
    for i in range({fan}):
        first >> nothing.override(task_id=f"m{{i}}")() >> last


@dag(dag_id="tree", schedule=None, max_active_tasks=1000)
def tree():
    level = [nothing.override(task_id="n1")()]
    for depth in range(1, {tree}):
        below = [nothing.override(task_id=f"n{{i}}")() for i in range(2**depth, 2 ** (depth + 1))]
        for i, one in enumerate(below):
            level[i // 2] >> one
        level = below


@dag(dag_id="grid", schedule=None, max_active_tasks=1000)
def grid():
    above = []
    for y in range({grid}):
        row = []
        for x in range({grid}):
            here = nothing.override(task_id=f"g{{y}}_{{x}}")()
            if x:
                row[x - 1] >> here
            if y:
                above[x] >> here
            row.append(here)
        above = row


chain()
fan()
tree()
grid()
'''

MARKED = '''"""Tasks that note when they ran: begin and end, in nanoseconds of CLOCK_MONOTONIC."""
import time

BEGAN = 0


def mark(kind, began, **more):
    import json
    import os

    from scheduler import get_context

    context = get_context()
    line = {{"kind": kind, "run_id": context.run_id, "task_id": context.task_id, "began": began, **more}}
    if context.logical_date is not None:
        line["tick"] = context.logical_date.timestamp()
    out = os.open({marks!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    line["ended"] = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    os.write(out, json.dumps(line).encode() + b"\\n")
    os.close(out)


from scheduler import dag, task  # noqa: E402


@task
def first_line() -> None:
    began = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    mark("trigger", began)


@task
def hop() -> None:
    began = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    mark("hop", began)


@task
def tick() -> None:
    wall = time.time()
    mark("cron", time.clock_gettime_ns(time.CLOCK_MONOTONIC), wall=wall)


@dag(dag_id="one", schedule=None)
def one():
    first_line()


def hops(length):
    last = None
    for i in range(length):
        here = hop.override(task_id=f"t{{i}}")()
        if last is not None:
            last >> here
        last = here


@dag(dag_id="hops", schedule=None)
def hops_idle():
    hops({hops})


@dag(dag_id="runs", schedule=None, max_active_runs=1000)
def runs():
    hops(10)


@dag(dag_id="ticks", schedule="* * * * * *", catchup=False, is_paused_upon_creation=True)
def ticks():
    tick()


one()
hops_idle()
runs()
ticks()
'''

SHAPES = '''"""Shapes of tasks that are never executed: the worker answers at once."""
from scheduler import dag, task

FREE = {{"schedule": None, "max_active_tasks": 100_000, "max_active_runs": 100_000}}


@task
def nothing() -> None:
    pass


def node(name):
    return nothing.override(task_id=name)()


@dag(dag_id="chain", **FREE)
def chain():
    last = None
    for i in range({chain}):
        here = node(f"t{{i}}")
        if last is not None:
            last >> here
        last = here


@dag(dag_id="fan", **FREE)
def fan():
    first, last = node("first"), node("last")
    for i in range({fan}):
        first >> node(f"m{{i}}") >> last


@dag(dag_id="tree", **FREE)
def tree():
    level = [node("n1")]
    for depth in range(1, {tree}):
        below = [node(f"n{{i}}") for i in range(2**depth, 2 ** (depth + 1))]
        for i, one in enumerate(below):
            level[i // 2] >> one
        level = below


@dag(dag_id="grid", **FREE)
def grid():
    above = []
    for y in range({grid}):
        row = []
        for x in range({grid}):
            here = node(f"g{{y}}_{{x}}")
            if x:
                row[x - 1] >> here
            if y:
                above[x] >> here
            row.append(here)
        above = row


@dag(dag_id="runs", **FREE)
def runs():
    last = None
    for i in range(10):
        here = node(f"t{{i}}")
        if last is not None:
            last >> here
        last = here


chain()
fan()
tree()
grid()
runs()
'''


REUSE = '''"""The same trivial tasks in processes that they share."""
from scheduler import dag, task


@task
def nothing() -> None:
    pass


def row(length):
    last = None
    for i in range(length):
        here = nothing.override(task_id=f"t{{i}}")()
        if last is not None:
            last >> here
        last = here


@dag(dag_id="reuse_chain", schedule=None, isolation="reuse")
def reuse_chain():
    row({chain})


@dag(dag_id="reuse_runs", schedule=None, isolation="reuse", max_active_runs=1000)
def reuse_runs():
    row(10)


reuse_chain()
reuse_runs()
'''


WIDE = '''"""Trivial tasks in processes that they share, and no limit of a dag in the way."""
from scheduler import dag, task

FREE = {{"schedule": None, "isolation": "reuse", "max_active_tasks": 100_000, "max_active_runs": 100_000}}


@task
def nothing() -> None:
    pass


@dag(dag_id="reuse_fan", **FREE)
def reuse_fan():
    first = nothing.override(task_id="first")()
    last = nothing.override(task_id="last")()
    for i in range({fan}):
        first >> nothing.override(task_id=f"m{{i}}")() >> last


@dag(dag_id="reuse_free", **FREE)
def reuse_free():
    last = None
    for i in range(10):
        here = nothing.override(task_id=f"t{{i}}")()
        if last is not None:
            last >> here
        last = here


reuse_fan()
reuse_free()
'''


def write_wide(directory: Path, *, fan: int) -> list[str]:
    """Write the file; return the ids of its dags."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "wide.py").write_text(WIDE.format(fan=fan))
    return ["reuse_fan", "reuse_free"]


def write_end_to_end(
    directory: Path, *, chain: int, fan: int, tree: int, grid: int, hops: int, marks: Path
) -> list[str]:
    """Write the files; return the ids of their dags. `tree` is a depth, `grid` the length of a side."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "trivial.py").write_text(TRIVIAL.format(chain=chain, fan=fan, tree=tree, grid=grid))
    (directory / "marked.py").write_text(MARKED.format(marks=str(marks), hops=hops))
    (directory / "reuse.py").write_text(REUSE.format(chain=chain))
    return ["chain", "fan", "tree", "grid", "one", "hops", "runs", "ticks", "reuse_chain", "reuse_runs"]


def write_shapes(directory: Path, *, chain: int, fan: int, tree: int, grid: int) -> list[str]:
    """Write the file; return the ids of its dags. `tree` is a depth, `grid` the length of a side."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "shapes.py").write_text(SHAPES.format(chain=chain, fan=fan, tree=tree, grid=grid))
    return ["chain", "fan", "tree", "grid", "runs"]
