"""`asyncsched worker`: run tasks for a daemon that runs with `--workers 0`. It needs no database."""

from typing import Any

import typer

from scheduler.cli.options import HomeOption

PASS_THROUGH: dict[str, Any] = {"ignore_unknown_options": True, "allow_extra_args": True}


def worker(context: typer.Context, home: HomeOption = None) -> None:
    """Run tasks apart from the daemon, on the same machine. Options after these go to the worker."""
    from scheduler.cli.connection import home_of
    from scheduler.executors.worker import main

    raise typer.Exit(main(["--home", str(home_of(home).path), *context.args]))
