"""`asyncsched dags`: list, show, check, next, pause, unpause."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from scheduler.cli.options import DagArgument, HomeOption, JsonOption, QuietOption

LIST_FIELDS = ("dag_id", "schedule", "paused", "file", "next_run")
"""The promised shape of `dags list --json`."""


def list_dags(
    include_absent: Annotated[bool, typer.Option("--all", metavar="", help="Also DAGs whose file is gone.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List all DAGs with their schedule, next run and newest run."""
    from scheduler.cli.connection import ask
    from scheduler.cli.output import Column, field, print_json, print_lines, print_table

    dags = ask(home, "dags.list", include_absent=include_absent)
    if as_json:
        print_json([{name: dag[name] for name in LIST_FIELDS} for dag in dags])
        return
    if quiet:
        print_lines([dag["dag_id"] for dag in dags])
        return
    columns = [
        Column("DAG", field("dag_id"), style="bold"),
        Column("State", _state, "state"),
        Column("Schedule", field("schedule"), wide=True),
        Column("Next run", field("next_run"), "instant"),
        Column("Newest run", field("last_state"), "state"),
        Column("Started", field("last_start_date"), "instant"),
        Column("File", field("file"), style="dim", wide=True),
    ]
    print_table(columns, dags, empty="No DAGs yet: put a DAG file into the daemon's directory.")


def _state(dag: Mapping[str, Any]) -> str:
    if not dag["present"]:
        return "gone"
    return "paused" if dag["paused"] else "active"


def show_dag(dag_id: DagArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show one DAG: its settings and its tasks in order."""
    from scheduler.cli.connection import ask
    from scheduler.cli.output import Column, complain, field, print_facts, print_json, print_table

    dag = ask(home, "dags.show", dag_id=dag_id)
    if as_json:
        print_json(dag)
        return
    document = dag["document"] or {"tasks": []}
    limits = f"max_active_runs {document.get('max_active_runs')}, max_active_tasks {document.get('max_active_tasks')}"
    print_facts(
        [
            ("DAG", dag["dag_id"], "text"),
            ("State", _state(dag), "state"),
            ("Schedule", dag["schedule"], "text"),
            ("Next run", dag["next_run"], "instant"),
            ("Catchup", document.get("catchup"), "text"),
            ("Limits", limits, "text"),
            ("File", dag["file"], "text"),
            ("Version", dag["version"], "text"),
            ("Since", dag["version_created_at"], "instant"),
            ("Tags", ", ".join(document.get("tags", [])), "text"),
            ("Description", document.get("description"), "text"),
        ]
    )
    if dag["import_error"] is not None:
        error = dag["import_error"]
        complain(f"its file does not import any more: {_place(error)}: {error['message']}")
    columns = [
        Column("Task", field("task_id"), style="bold"),
        Column("Kind", field("kind")),
        Column("After", lambda task: ", ".join(task["upstream"]), wide=True),
        Column("Rule", field("trigger_rule")),
        Column("Retries", lambda task: task["retry"]["retries"], "count"),
        Column("Timeout", lambda task: task["execution_timeout"], "seconds", optional=True),
        Column("Pool", lambda task: f"{task['pool']} ({task['pool_slots']})"),
    ]
    print_table(columns, document["tasks"], empty="It has no tasks.")


def check_dags(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="PATH", help="A DAG file or directory to parse here; default: ask the daemon."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which DAG files do not import, and why; exit 8 if there are any."""
    from scheduler.cli.failures import CHECK_FAILED, Failed
    from scheduler.cli.output import Column, field, hint, is_decorated, print_json, print_table

    if path is None:
        from scheduler.cli.connection import ask

        errors, summary = ask(home, "dags.check"), "All DAG files import."
    else:
        from scheduler.cli.checking import check

        errors, summary = check(path)
    if as_json:
        print_json(errors)
    elif errors:
        columns = [
            Column("File", field("file"), style="bold", wide=True),
            Column("Line", field("line"), "count"),
            Column("What is wrong", field("message"), style="red", wide=True),
        ]
        print_table(columns, errors, empty="")
    elif is_decorated():
        hint(summary)
    if errors:
        raise Failed(CHECK_FAILED)


def _place(error: Mapping[str, Any]) -> str:
    return error["file"] if error["line"] is None else f"{error['file']}:{error['line']}"


def next_runs(
    dag_id: DagArgument,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="How many.")] = 5,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show when the schedule will make the next runs."""
    from scheduler.cli.connection import ask
    from scheduler.cli.output import Column, field, print_json, print_table

    slots = ask(home, "dags.next", dag_id=dag_id, count=count)
    if as_json:
        print_json(slots)
        return
    columns = [
        Column("Runs", field("run_after"), "instant", style="bold"),
        Column("Logical date", field("logical_date"), "moment"),
        Column("Interval from", field("data_interval_start"), "moment"),
        Column("Interval to", field("data_interval_end"), "moment"),
    ]
    print_table(columns, slots, empty=f"The schedule of {dag_id} makes no further runs by itself.")


def pause_dag(dag_id: DagArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Pause a DAG: no new runs, no new tasks; what runs goes on to its end."""
    _pause(dag_id, home, as_json=as_json, paused=True)


def unpause_dag(dag_id: DagArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Let a paused DAG go on; its catchup setting decides about missed runs."""
    _pause(dag_id, home, as_json=as_json, paused=False)


def _pause(dag_id: str, home: Path | None, *, as_json: bool, paused: bool) -> None:
    from scheduler.cli.connection import ask
    from scheduler.cli.output import Column, field, print_json, print_table

    dag = ask(home, "dags.pause", dag_id=dag_id, paused=paused)
    if as_json:
        print_json(dag)
        return
    columns = [
        Column("DAG", field("dag_id"), style="bold"),
        Column("State", lambda row: "paused" if row["paused"] else "active", "state"),
    ]
    print_table(columns, [dag], empty="")
