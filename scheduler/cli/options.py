"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from scheduler.cli import complete

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help="The daemon's home directory. Default: $ASYNCSCHED_HOME, else the user's state directory.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", metavar="", help="Print identifiers only, one a line.")]
DagArgument = Annotated[
    str, typer.Argument(metavar="DAG", help="The id of a dag.", autocompletion=complete.dag_ids, show_default=False)
]
RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="RUN or DAG/RUN; a DAG alone means its newest run.",
        autocompletion=complete.dag_ids,
        show_default=False,
    ),
]
