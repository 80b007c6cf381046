"""`asyncsched run`: the daemon itself."""

from pathlib import Path
from typing import Annotated

import typer

from scheduler.cli.options import HomeOption


def run(
    dags_dir: Annotated[
        Path | None,
        typer.Argument(metavar="DAGS_DIR", help="Directory of DAG files. Default: from the configuration."),
    ] = None,
    home: HomeOption = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Configuration file (TOML).", show_default=False)
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database", metavar="embedded|DSN", help="PostgreSQL 14 or later to use.", show_default="embedded"
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", help="Local worker processes; 0: they run apart.", show_default="1"),
    ] = None,
    grace: Annotated[
        float | None,
        typer.Option("--grace", metavar="SECONDS", help="Time for running tasks at the end.", show_default="30"),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", metavar="", help="Run what is due, wait until nothing is left to do, then exit.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", metavar="", help="Check configuration and database, then exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", metavar="", help="Say more on stderr.")] = False,
) -> None:
    """Run the scheduler on the DAG files in DAGS_DIR; Ctrl-C ends it."""
    from scheduler import start

    raise typer.Exit(
        start.main(
            dags_dir=dags_dir,
            home=home,
            config=config,
            database=database,
            workers=workers,
            once=once,
            check=check,
            grace=grace,
            verbose=verbose,
        )
    )
