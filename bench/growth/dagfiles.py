"""The DAG files of these measurements."""

from pathlib import Path

HEAD = '''"""Tasks that are never executed: the worker answers at once."""
from datetime import datetime

from scheduler import dag, task

FREE = {"schedule": None, "max_active_tasks": 100_000, "max_active_runs": 100_000}


@task
def nothing() -> None:
    pass


def node(name):
    return nothing.override(task_id=name)()


'''

MANY = """def many(name, schedule):
    @dag(dag_id=name, schedule=schedule, start_date=datetime(2026, 1, 1), catchup=False)
    def made():
        node("first") >> node("second")

    made()


for number in range({first}, {last}):
    many(f"{prefix}{{number:05}}", {schedule!r})
"""

LARGE = '''def layered(name, layers, width):
    """Each task waits for two of the layer above."""

    @dag(dag_id=name, **FREE)
    def made():
        above = []
        for layer in range(layers):
            here = [node(f"l{layer}_{n}") for n in range(width)]
            for n, one in enumerate(here):
                for other in {n, (n + 1) % width}:
                    if above:
                        above[other] >> one
            above = here

    made()


def flat(name, size):
    @dag(dag_id=name, **FREE)
    def made():
        for n in range(size):
            node(f"f{n}")

    made()


def gathering(name, size):
    @dag(dag_id=name, **FREE)
    def made():
        last = node("last")
        for n in range(size):
            node(f"g{n}") >> last

    made()


'''

NEVER = "0 0 29 2 *"
"""A schedule with nothing due for a long time."""
EVERY_MINUTE = "* * * * *"


def write_many(directory: Path, prefix: str, count: int, *, per_file: int, schedule: str) -> list[str]:
    """So many small dags on one schedule; return their ids. Files are loaded by name: those after "s" do not keep the
    shapes waiting."""
    directory.mkdir(parents=True, exist_ok=True)
    for first in range(0, count, per_file):
        last = min(count, first + per_file)
        text = HEAD + MANY.format(first=first, last=last, prefix=prefix, schedule=schedule)
        (directory / f"{prefix}{first:05}.py").write_text(text)
    return [f"{prefix}{number:05}" for number in range(count)]


def layers(tasks: int) -> tuple[int, int]:
    """(layers, width) of a layered dag of about so many tasks: as deep as it is wide."""
    side = max(2, round(tasks**0.5))
    return side, side


def write_large(directory: Path, *, large: int, fan_in: int) -> dict[str, int]:
    """Large dags and the same a tenth as large; return how many tasks each has."""
    directory.mkdir(parents=True, exist_ok=True)
    text = HEAD + LARGE
    tasks = {}
    for kind, size in (("", large), ("_tenth", large // 10)):
        deep, wide = layers(size)
        text += f'layered("layered{kind}", {deep}, {wide})\n'
        tasks[f"layered{kind}"] = deep * wide
    for kind, size in (("", large), ("_tenth", large // 10)):
        text += f'flat("flat{kind}", {size})\n'
        tasks[f"flat{kind}"] = size
    for kind, size in (("", fan_in), ("_tenth", fan_in // 10)):
        text += f'gathering("gathering{kind}", {size})\n'
        tasks[f"gathering{kind}"] = size + 1
    (directory / "large.py").write_text(text)
    return tasks
