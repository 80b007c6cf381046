"""The table of contents of the command line: every command, in the order of the help."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from scheduler.cli import (
    changes,
    completion,
    dags,
    db,
    init,
    logs,
    pools,
    run,
    runs,
    status,
    tasks,
    trigger,
    version,
    worker,
)

EVERYDAY = "Every day"
LOOK = "Look closer and change"
ADMIN = "Administration"

EPILOG = "Start with: asyncsched init my_dags, then asyncsched run my_dags"

ORDER = (
    *("run", "init", "status", "trigger", "logs"),
    *("dags", "runs", "tasks", "pools"),
    *("db", "completion", "version", "worker"),
    *("list", "show", "check", "next", "pause", "unpause", "cancel", "clear", "mark", "set", "delete", "migrate"),
)


class _Command(TyperCommand):
    def get_help_option(self, ctx: Any) -> Any:
        return _without_type(super().get_help_option(ctx))


class _Group(TyperGroup):
    """Lists its commands in our order: panels of groups would otherwise come after panels of commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)

    def get_help_option(self, ctx: Any) -> Any:
        return _without_type(super().get_help_option(ctx))


def _without_type(option: Any) -> Any:
    """That a flag is a <bool> helps nobody."""
    if option is not None:
        option.metavar = ""
    return option


def build() -> typer.Typer:
    """Put the commands together."""
    app = _group("A workflow scheduler: DAGs of tasks on a clock, on PostgreSQL.", epilog=EPILOG)
    app.callback()(_options)
    _add(app, "run", run.run, panel=EVERYDAY)
    _add(app, "init", init.init, panel=EVERYDAY)
    _add(app, "status", status.status, panel=EVERYDAY)
    _add(app, "trigger", trigger.trigger, panel=EVERYDAY)
    _add(app, "logs", logs.logs, panel=EVERYDAY)
    _add(app, "completion", completion.completion, panel=ADMIN)
    _add(app, "version", version.version, panel=ADMIN)
    _add(app, "worker", worker.worker, hidden=True, context_settings=worker.PASS_THROUGH)

    nouns = _group("DAGs: list, show, check, next, pause, unpause.")
    _add(nouns, "list", dags.list_dags)
    _add(nouns, "show", dags.show_dag)
    _add(nouns, "check", dags.check_dags)
    _add(nouns, "next", dags.next_runs)
    _add(nouns, "pause", dags.pause_dag)
    _add(nouns, "unpause", dags.unpause_dag)
    app.add_typer(nouns, name="dags", rich_help_panel=LOOK)

    nouns = _group("Runs: list, show, cancel, clear, mark.")
    _add(nouns, "list", runs.list_runs)
    _add(nouns, "show", runs.show_run)
    _add(nouns, "cancel", runs.cancel_run)
    _add(nouns, "clear", changes.clear_run)
    _add(nouns, "mark", changes.mark_run)
    app.add_typer(nouns, name="runs", rich_help_panel=LOOK)

    nouns = _group("Tasks of a run: list, show, clear, mark.")
    _add(nouns, "list", tasks.list_tasks)
    _add(nouns, "show", tasks.show_task)
    _add(nouns, "clear", changes.clear_tasks)
    _add(nouns, "mark", changes.mark_tasks)
    app.add_typer(nouns, name="tasks", rich_help_panel=LOOK)

    nouns = _group("Pools limit how many tasks run at once: list, set, delete.")
    _add(nouns, "list", pools.list_pools)
    _add(nouns, "set", pools.set_pool, context_settings=pools.NEGATIVE)
    _add(nouns, "delete", pools.delete_pool)
    app.add_typer(nouns, name="pools", rich_help_panel=LOOK)

    nouns = _group("The database's schema: check, migrate.")
    _add(nouns, "check", db.check)
    _add(nouns, "migrate", db.migrate)
    app.add_typer(nouns, name="db", rich_help_panel=ADMIN)
    return app


HELP_NAMES = {"help_option_names": ["-h", "--help"]}


def _group(help_text: str, *, epilog: str | None = None) -> typer.Typer:
    return typer.Typer(
        cls=_Group,
        help=help_text,
        epilog=epilog,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings=HELP_NAMES,
    )


def _add(
    group: typer.Typer,
    name: str,
    function: Callable[..., None],
    *,
    panel: str | None = None,
    hidden: bool = False,
    context_settings: dict[str, Any] | None = None,
) -> None:
    settings = HELP_NAMES | (context_settings or {})
    group.command(name, cls=_Command, rich_help_panel=panel, hidden=hidden, context_settings=settings)(function)


def _options(
    home: Annotated[
        Path | None, typer.Option("--home", metavar="DIR", help="The daemon's home directory.", show_default=False)
    ] = None,
    color: Annotated[
        str | None,
        typer.Option("--color", metavar="auto|always|never", help="Colours and tables.", show_default=False),
    ] = None,
    _: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", help="Print the version.", callback=version.print_and_exit, is_eager=True
        ),
    ] = False,
) -> None:
    # The environment is where every command looks, so these hold for all of them.
    if home is not None:
        os.environ["ASYNCSCHED_HOME"] = str(home.absolute())
    if color not in (None, "auto", "always", "never"):
        raise typer.BadParameter(f"{color!r} is not auto, always or never", param_hint="--color")
    if color == "always":
        os.environ["CLICOLOR_FORCE"] = "1"
        os.environ.pop("NO_COLOR", None)
    elif color == "never":
        os.environ["NO_COLOR"] = "1"
        os.environ.pop("CLICOLOR_FORCE", None)
