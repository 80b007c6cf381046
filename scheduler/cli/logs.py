"""`asyncsched logs`: what tasks have written."""

from typing import Annotated

import typer

from scheduler.cli import complete
from scheduler.cli.options import HomeOption, JsonOption


def logs(
    of: Annotated[
        str,
        typer.Argument(
            metavar="RUN[/TASK[#TRY]]",
            help="DAG/RUN where needed; a DAG alone, or DAG/TASK, means its newest run.",
            autocompletion=complete.dag_ids,
            show_default=False,
        ),
    ],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", metavar="", help="Go on until the run, or the task, has ended.")
    ] = False,
    lines: Annotated[
        int | None,
        typer.Option("--lines", "-n", min=0, metavar="N", help="Only the last N lines of each.", show_default=False),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the logs of a run, of one of its tasks, or of one try."""
    from scheduler.cli.connection import connect, home_of
    from scheduler.cli.log_reader import LogReader
    from scheduler.cli.output import print_json

    with connect(home) as client:
        seen = client.call("logs.locate", of=of)
        if as_json:
            print_json(seen["logs"])
            return
        # Named in full from now on: "the newest run" may become another one while we follow.
        exact = _exact(of, seen["dag_id"], seen["run_id"])
        is_run = exact == f"{seen['dag_id']}/{seen['run_id']}"
        more = follow and seen["unfinished"] and is_run
        reader = LogReader(home_of(home).logs, last_lines=lines, expected=more)
        reader.show(seen["logs"])
        while follow and seen["unfinished"]:
            reader.wait()
            seen = client.call("logs.locate", of=exact)
            reader.show(seen["logs"])
        reader.finish(seen["logs"])


def _exact(of: str, dag_id: str, run_id: str) -> str:
    """`of` with its dag and run spelled out; its last part is a task unless it names the run."""
    path, mark, number = of.partition("#")
    names = path.split("/")
    has_task = len(names) == 3 or (len(names) == 2 and names[1] != run_id)
    return f"{dag_id}/{run_id}" + (f"/{names[-1]}{mark}{number}" if has_task else "")
