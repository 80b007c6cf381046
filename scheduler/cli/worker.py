"""`asyncsched worker`: run tasks for a daemon that runs with `--workers 0`. It needs no database."""

from pathlib import Path
from typing import Annotated, Any

import typer

from scheduler.cli.options import HomeOption

PASS_THROUGH: dict[str, Any] = {"ignore_unknown_options": True, "allow_extra_args": True}


def worker(
    context: typer.Context,
    home: HomeOption = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Configuration file (TOML).", show_default=False)
    ] = None,
) -> None:
    """Run tasks apart from the daemon, on the same machine, as this user.

    Slots, limits and graces come from the section [worker] of the configuration; --slots N and the other options
    of the worker process may follow and win.
    """
    import os

    argv = arguments(home, config) + context.args
    # Not called but executed: what the command line has imported must not stay in the worker, nor in its forks.
    os.execv(argv[0], argv)  # noqa: S606


def arguments(home: Path | None, config: Path | None) -> list[str]:
    """The command of the worker process for this home and configuration."""
    from scheduler.cli.connection import home_of
    from scheduler.config import load_config
    from scheduler.executors.local import worker_spec

    place = home_of(home)
    settings = load_config(file=config)
    spec = worker_spec(
        socket_path=place.worker_socket,
        spool_dir=place.worker,
        slots=settings.worker.slots or settings.scheduler.parallelism,
        warm_parents=settings.worker.warm_parents,
        log_limit_mb=settings.worker.log_limit_mb,
        result_limit_kb=settings.worker.result_limit_kb,
        kill_grace_s=settings.worker.kill_grace_s,
        orphan_grace_s=settings.worker.orphan_grace_s,
        shutdown_grace_s=settings.scheduler.shutdown_grace_s,
        reuse_attempts=settings.worker.reuse_attempts,
        reuse_growth_mb=settings.worker.reuse_growth_mb,
        reuse_idle_s=settings.worker.reuse_idle_s,
    )
    return [str(word) for word in spec.argv]
