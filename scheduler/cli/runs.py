"""`asyncsched runs`: list, show, cancel."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from scheduler.cli import complete
from scheduler.cli.options import HomeOption, JsonOption, QuietOption, RunArgument


def list_runs(
    dag_id: Annotated[
        str | None,
        typer.Argument(metavar="DAG", help="Only runs of this dag.", autocompletion=complete.dag_ids),
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", help="queued, running, success or failed; may be repeated.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many.")] = 50,
    before: Annotated[
        int | None, typer.Option("--before", metavar="KEY", help="Go on from an earlier page.", show_default=False)
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List runs, newest first."""
    from scheduler.cli.connection import ask
    from scheduler.cli.output import Column, field, hint, print_json, print_lines, print_table, this_moment
    from scheduler.cli.times import between

    page = ask(home, "runs.list", dag_id=dag_id, states=state or None, limit=limit, before=before)
    now = this_moment()
    if as_json:
        print_json(page["items"])
    elif quiet:
        print_lines([f"{run['dag_id']}/{run['run_id']}" for run in page["items"]])
    else:
        columns = [
            Column("DAG", field("dag_id"), style="bold"),
            Column("Run", field("run_id"), wide=True),
            Column("State", field("state"), "state"),
            Column("Started", field("start_date"), "instant"),
            Column("Took", lambda run: between(run["start_date"], run["end_date"], now=now), "seconds"),
        ]
        print_table(columns, page["items"], empty="No runs yet: asyncsched trigger DAG starts one.")
    if page["next"] is not None:
        hint(f"There are more: --before {page['next']}")


def show_run(run: RunArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show one run and its tasks."""
    from scheduler.cli.connection import ask
    from scheduler.cli.output import Column, field, is_decorated, print_facts, print_json, print_table, this_moment
    from scheduler.cli.times import between

    answer = ask(home, "runs.show", run=run)
    shown, detail = answer["run"], answer["detail"]
    if as_json:
        print_json(shown)
        return
    now = this_moment()
    if is_decorated():
        _print_head(shown, detail, print_facts, took=between(shown["start_date"], shown["end_date"], now=now))
    rows = [task | {"message": said} for task, said in zip(shown["tasks"], answer["messages"], strict=True)]
    columns = [
        Column("Task", _task_name, style="bold"),
        Column("State", field("state"), "state"),
        Column("Try", field("try_number"), "count"),
        Column("Started", field("start_date"), "instant"),
        Column("Took", lambda task: between(task["start_date"], task["end_date"], now=now), "seconds"),
        Column("Message", field("message"), style="dim", wide=True, optional=True),
    ]
    print_table(columns, rows, empty="It has no tasks.")


def _print_head(run: Mapping[str, Any], detail: Mapping[str, Any], print_facts: Any, *, took: float | None) -> None:
    import json

    print_facts(
        [
            ("Run", f"{run['dag_id']}/{run['run_id']}", "text"),
            ("State", run["state"], "state"),
            ("Because", detail["verdict"], "text"),
            ("Type", run["run_type"], "text"),
            ("Logical date", run["logical_date"], "instant"),
            ("Queued", detail["queued_at"], "instant"),
            ("Started", run["start_date"], "instant"),
            ("Ended", run["end_date"], "instant"),
            ("Took", took, "seconds"),
            ("Version", detail["version"], "text"),
            ("Conf", json.dumps(detail["conf"]) if detail["conf"] else None, "text"),
        ]
    )


def _task_name(task: Mapping[str, Any]) -> str:
    return task["task_id"] if task["map_index"] < 0 else f"{task['task_id']}[{task['map_index']}]"


def cancel_run(run: RunArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Cancel a run: its running tasks are stopped, the others skipped, and it ends as failed."""
    from scheduler.cli.connection import ask
    from scheduler.cli.output import hint, print_json, print_lines

    cancelled = ask(home, "runs.cancel", run=run)
    if as_json:
        print_json(cancelled)
        return
    name = f"{cancelled['dag_id']}/{cancelled['run_id']}"
    print_lines([name])
    hint(f"It ends once its running tasks have been stopped:  asyncsched runs show {name}")
