"""`asyncsched runs clear|mark` and `asyncsched tasks clear|mark`: run again, or say how it ended."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from scheduler.cli import complete
from scheduler.cli.options import HomeOption, JsonOption, RunArgument

TasksArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN/TASK...",
        help="Tasks of one run; DAG/TASK: of its newest run.",
        autocompletion=complete.dag_ids,
        show_default=False,
    ),
]
Upstream = Annotated[bool, typer.Option("--upstream", "-u", metavar="", help="Also everything before them.")]
Downstream = Annotated[bool, typer.Option("--downstream", "-d", metavar="", help="Also everything after them.")]
Past = Annotated[bool, typer.Option("--past", metavar="", help="Also in runs with an earlier logical date.")]
Future = Annotated[bool, typer.Option("--future", metavar="", help="Also in runs with a later logical date.")]
OnlyFailed = Annotated[
    bool, typer.Option("--only-failed", metavar="", help="Of all these only what is failed or upstream_failed.")
]
OnlyRunning = Annotated[bool, typer.Option("--only-running", metavar="", help="Of all these only what is running.")]
DryRun = Annotated[bool, typer.Option("--dry-run", metavar="", help="Show what would change, and change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", metavar="", help="Do not ask, even if several runs change.")]
Wait = Annotated[
    bool,
    typer.Option("--wait", "-w", metavar="", help="Wait for the end of the run: exit 0 on success, 1 if it failed."),
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="SECONDS", help="Wait so long at most, then exit 7.", show_default=False),
]


def clear_run(
    run: RunArgument,
    only_failed: OnlyFailed = False,
    only_running: OnlyRunning = False,
    past: Past = False,
    future: Future = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Wait = False,
    timeout: Timeout = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the tasks of a run again, with all their tries. A run that is over is queued anew."""
    arguments = {"run": run, "past": past, "future": future, "only": _only(only_failed, only_running)}
    _change(home, "runs.clear", arguments, dry_run=dry_run, yes=yes, as_json=as_json, wait=wait, timeout=timeout)


def clear_tasks(
    tasks: TasksArgument,
    upstream: Upstream = False,
    downstream: Downstream = False,
    only_failed: OnlyFailed = False,
    only_running: OnlyRunning = False,
    past: Past = False,
    future: Future = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Wait = False,
    timeout: Timeout = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run tasks again, with all their tries; a running one is stopped first. Usually with --downstream."""
    arguments = {
        "tasks": tasks,
        "upstream": upstream,
        "downstream": downstream,
        "past": past,
        "future": future,
        "only": _only(only_failed, only_running),
    }
    _change(home, "tasks.clear", arguments, dry_run=dry_run, yes=yes, as_json=as_json, wait=wait, timeout=timeout)


def mark_tasks(
    state: Annotated[str, typer.Argument(metavar="STATE", help="success, failed or skipped.", show_default=False)],
    tasks: TasksArgument,
    upstream: Upstream = False,
    downstream: Downstream = False,
    past: Past = False,
    future: Future = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give tasks a state without running them; what failed after them is cleared. A running one is stopped first."""
    _check_state(state, ("success", "failed", "skipped"))
    arguments = {
        "state": state,
        "tasks": tasks,
        "upstream": upstream,
        "downstream": downstream,
        "past": past,
        "future": future,
    }
    _change(home, "tasks.mark", arguments, dry_run=dry_run, yes=yes, as_json=as_json)


def mark_run(
    state: Annotated[str, typer.Argument(metavar="STATE", help="success or failed.", show_default=False)],
    run: RunArgument,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a run as STATE: its running tasks are stopped, those that have not begun skipped."""
    from scheduler.cli.connection import ask
    from scheduler.cli.output import hint, print_json, print_lines

    _check_state(state, ("success", "failed"))
    marked = ask(home, "runs.mark", run=run, state=state)
    if as_json:
        print_json(marked)
        return
    name = f"{marked['dag_id']}/{marked['run_id']}"
    print_lines([name])
    if marked["before"] == "running":
        hint(f"It ends as {state} once its running tasks have been stopped:  asyncsched runs show {name}")


def _only(failed: bool, running: bool) -> list[str] | None:
    return [*(["failed", "upstream_failed"] if failed else []), *(["running"] if running else [])] or None


def _check_state(state: str, known: tuple[str, ...]) -> None:
    if state not in known:
        raise typer.BadParameter(f"{state!r} is not {', '.join(known[:-1])} or {known[-1]}", param_hint="STATE")


def _change(
    home: Path | None,
    op: str,
    arguments: Mapping[str, Any],
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    wait: bool = False,
    timeout: float | None = None,
) -> None:
    import sys

    from scheduler.cli.connection import connect
    from scheduler.cli.output import print_json

    with connect(home) as client:
        if not dry_run and not yes and (arguments["past"] or arguments["future"]) and sys.stdin.isatty():
            _ask_first(client.call(op, **arguments, dry_run=True))
        done = client.call(op, **arguments, dry_run=dry_run)
        if as_json:
            print_json(done)
        else:
            _print(done)
        if wait and not dry_run and done["counts"]["tasks"]:
            _wait(client, done, timeout)


def _ask_first(seen: Mapping[str, Any]) -> None:
    """Several runs are about to change, and a person sits there. Aborts unless they agree."""
    if seen["counts"]["runs"] > 1:
        typer.confirm(f"Change {_counted(seen['counts'])}?", abort=True, err=True)


def _counted(counts: Mapping[str, int]) -> str:
    tasks, runs = (
        f"{n} {word}{'' if n == 1 else 's'}" for n, word in ((counts["tasks"], "task"), (counts["runs"], "run"))
    )
    return f"{tasks} of {runs}"


def _print(done: Mapping[str, Any]) -> None:
    from scheduler.cli.output import Column, field, hint, is_decorated, print_table

    rows = [
        task | {"run": f"{run['dag_id']}/{run['run_id']}"}
        for run in done["runs"]
        for task in run["tasks"]
    ]  # fmt: skip
    alone = is_decorated() and len(done["runs"]) <= 1
    columns = [
        *([] if alone else [Column("Run", field("run"), wide=True)]),
        Column("Task", _task_name, style="bold"),
        Column("State", field("before"), "state"),
        Column("Becomes", field("after"), "state"),
        Column(
            "", lambda task: "when its attempt has been stopped" if task["is_stopped_first"] else None,
            style="dim", optional=True,
        ),
    ]  # fmt: skip
    print_table(columns, rows, empty="Nothing to change: all of it is as wanted.")
    for run in done["runs"]:
        name = f"{run['dag_id']}/{run['run_id']}"
        if run["refused"]:
            hint(f"{name} is left alone: {run['refused']}.")
        elif run["before"] != run["after"] and len(done["runs"]) <= 5:
            hint(f"{name}: {run['before']}, {'would be' if done['dry_run'] else 'now'} {run['after']}.")
    if done["dry_run"]:
        hint(f"Nothing was changed; it would be {_counted(done['counts'])}.")
    elif done["counts"]["runs"] > 1:
        hint(f"Changed {_counted(done['counts'])}.")


def _task_name(task: Mapping[str, Any]) -> str:
    return task["task_id"] if task["map_index"] < 0 else f"{task['task_id']}[{task['map_index']}]"


def _wait(client: Any, done: Mapping[str, Any], timeout: float | None) -> None:
    from scheduler.cli.failures import FAILED, TIMED_OUT, Failed
    from scheduler.cli.output import hint
    from scheduler.cli.trigger import FINISHED, wait_for

    failed = 0
    for run in done["runs"]:
        seen = wait_for(client, run, timeout=timeout)
        if seen["state"] not in FINISHED:
            raise Failed(TIMED_OUT, f"{run['run_id']} is still {seen['state']} after {timeout:g} s; it goes on")
        hint(f"{run['dag_id']}/{run['run_id']}: {seen['state']}.")
        failed += seen["state"] == "failed"
    if failed:
        raise Failed(FAILED)
