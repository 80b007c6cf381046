"""`asyncsched tasks`: list, show."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from scheduler.cli.options import HomeOption, JsonOption, QuietOption, RunArgument


def list_tasks(
    run: RunArgument, home: HomeOption = None, as_json: JsonOption = False, quiet: QuietOption = False
) -> None:
    """List the tasks of a run in the order they depend on each other."""
    from scheduler.cli.connection import ask
    from scheduler.cli.output import Column, field, print_json, print_lines, print_table, this_moment
    from scheduler.cli.times import between

    tasks = ask(home, "tasks.list", run=run)
    if as_json:
        print_json(tasks)
        return
    if quiet:
        print_lines([task["task_id"] for task in tasks])
        return
    now = this_moment()
    columns = [
        Column("Task", field("task_id"), style="bold"),
        Column("Index", lambda task: task["map_index"] if task["map_index"] >= 0 else None, "count", optional=True),
        Column("State", field("state"), "state"),
        Column("Try", lambda task: f"{task['try_number']}/{task['max_tries'] + 1}", "count"),
        Column("Pool", field("pool")),
        Column("Started", field("start_date"), "instant"),
        Column("Took", lambda task: between(task["start_date"], task["end_date"], now=now), "seconds"),
        Column("Message", field("message"), style="dim", wide=True, optional=True),
    ]
    print_table(columns, tasks, empty="The run has no tasks.")


def show_task(
    task: Annotated[
        str,
        typer.Argument(metavar="RUN/TASK[#TRY]", help="As in `logs`; DAG/TASK: its newest run.", show_default=False),
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one task of a run: its tries, messages and result."""
    from scheduler.cli.connection import ask
    from scheduler.cli.output import print_json

    instances = ask(home, "tasks.show", task=task)
    if as_json:
        print_json(instances)
        return
    for instance in instances:
        _print_instance(instance)


def _print_instance(task: Mapping[str, Any]) -> None:
    import json

    from scheduler.cli.output import Column, field, print_facts, print_table, this_moment
    from scheduler.cli.times import between

    now = this_moment()
    print_facts(
        [
            ("Task", f"{task['dag_id']}/{task['run_id']}/{task['task_id']}", "text"),
            ("Index", task["map_index"] if task["map_index"] >= 0 else None, "text"),
            ("State", task["state"], "state"),
            ("Try", f"{task['try_number']} of {task['max_tries'] + 1}", "text"),
            ("Next try", task["retry_at"] if task["state"] == "up_for_retry" else None, "instant"),
            ("Pool", f"{task['pool']} ({task['pool_slots']})", "text"),
            ("Priority", task["priority"], "text"),
            ("Started", task["start_date"], "instant"),
            ("Took", between(task["start_date"], task["end_date"], now=now), "seconds"),
            ("Message", task["message"], "text"),
            *((key, json.dumps(value, ensure_ascii=False), "text") for key, value in task["results"].items()),
        ]
    )
    columns = [
        Column("Try", field("try_number"), "count"),
        Column("State", field("state"), "state"),
        Column("Started", field("start_date"), "instant"),
        Column("Took", lambda each: between(each["start_date"], each["end_date"], now=now), "seconds"),
        Column("Pid", field("pid"), "count"),
        Column("Exit", field("exit_code"), "count"),
        Column("Reason", field("reason"), optional=True),
        Column("Message", field("message"), wide=True, optional=True),
        Column("Log", field("log_path"), style="dim", wide=True),
    ]
    print_table(columns, task["attempts"], empty="It was never tried.")
