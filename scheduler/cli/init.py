"""`asyncsched init`: a first DAG file to change."""

from pathlib import Path
from typing import Annotated

import typer

from scheduler.cli.options import JsonOption

NAME = "hello.py"

STARTER = '''\
"""A first DAG: change it while `asyncsched run` is running; a saved file is live within two seconds."""

from datetime import datetime, timedelta

from scheduler import dag, get_context, task


# Every minute, starting now: catchup=False makes up for the latest missed minute at most.
# Other schedules: a timedelta, "@daily", "@once", "@continuous", or None for "only when triggered".
@dag(schedule="* * * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1)
def hello():
    # Each task runs in a process of its own. What it returns (JSON) is handed to the tasks that take it.
    @task(retries=2, retry_delay=timedelta(seconds=5))
    def measure() -> dict:
        import random

        return {"city": "Oslo", "celsius": round(random.uniform(-10, 25), 1)}

    @task
    def describe(measured: dict) -> str:
        feeling = "warm" if measured["celsius"] > 15 else "cold"
        return f"It is {feeling} in {measured['city']}: {measured['celsius']} °C"

    @task
    def report(sentence: str) -> None:
        # Whatever is printed or logged goes to the log: asyncsched logs hello
        print(f"{get_context().run_id}: {sentence}")

    # A shell command is a task as well; >> says what comes after what.
    @task.bash
    def goodbye() -> str:
        return "echo done at $(date)"

    report(describe(measure())) >> goodbye()


hello()
'''


def init(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Directory for DAG files; made if missing.", show_default=False)
    ],
    as_json: JsonOption = False,
) -> None:
    """Write a commented DAG file to start from."""
    from scheduler.cli.failures import CONFLICT, FAILED, Failed
    from scheduler.cli.output import hint, print_json, print_lines

    path = directory / NAME
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as stream:
            stream.write(STARTER)
    except FileExistsError:
        what = path if path.exists() else directory
        raise Failed(CONFLICT, f"{what} is there already and is left as it is") from None
    except OSError as error:
        raise Failed(FAILED, f"cannot write {path}: {error.strerror}") from error
    if as_json:
        print_json({"file": str(path)})
        return
    print_lines([str(path)])
    hint(
        f"Now type:  asyncsched run {directory}\n"
        "In another terminal:  asyncsched status,  asyncsched logs hello,  asyncsched trigger hello --wait"
    )
