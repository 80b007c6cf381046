"""`asyncsched status`: is it well, what does it do, what comes next."""

from collections.abc import Mapping
from typing import Any

from scheduler.cli.options import HomeOption, JsonOption


def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what the daemon does, what is due next, what failed."""
    from scheduler.cli.connection import ask
    from scheduler.cli.failures import UNREACHABLE, Failed
    from scheduler.cli.output import is_decorated, print_json

    seen = ask(home, "status")
    if as_json:
        print_json(seen)
    elif is_decorated():
        _draw(seen)
    else:
        _print_plain(seen)
    if seen["database_away"] is not None:
        raise Failed(UNREACHABLE, f"the daemon runs, but its database does not answer: {seen['database_away']}")


def _print_plain(seen: Mapping[str, Any]) -> None:
    from scheduler.cli.output import print_lines

    lines = []
    for name in ("ready", "version", "pid", "home", "dags_dir", "database", "started_at"):
        if name in seen:
            value = seen[name]
            lines.append(f"{name}\t{str(value).lower() if isinstance(value, bool) else value}")
    for group in ("dags", "runs", "tasks"):
        lines += [f"{group}.{name}\t{count}" for name, count in seen.get(group, {}).items()]
    print_lines(lines)


def _draw(seen: Mapping[str, Any]) -> None:
    from rich.text import Text

    from scheduler.cli.output import Column, console, field, print_facts, table

    screen = console()
    well = seen.get("ready", True) and seen["database_away"] is None
    head = Text.assemble(
        ("ready" if well else "not ready", "bold green" if well else "bold yellow"),
        f"  asyncsched {seen.get('version', '')}",
        (f"  pid {seen.get('pid', '?')}", "dim"),
    )
    screen.print(head)
    workers = [
        f"pid {worker['pid']}: {worker['running']} of {worker['slots']} slots"
        + (" (draining)" if worker.get("draining") else "")
        for worker in seen.get("workers", [])
    ]
    dags = seen.get("dags", {})
    print_facts(
        [
            ("Since", seen.get("started_at"), "instant"),
            ("Home", seen.get("home"), "text"),
            ("DAG files", seen.get("dags_dir"), "text"),
            ("Database", seen.get("database"), "text"),
            ("Workers", "; ".join(workers) or "none", "text"),
            ("DAGs", _counted(dags, total="{} in all", paused="{} paused", import_errors=None), "text"),
            ("Runs", _counted(seen.get("runs", {})) or "none unfinished", "text"),
            ("Tasks", _counted(seen.get("tasks", {})) or "none waiting or running", "text"),
        ]
    )
    if dags.get("import_errors"):
        broken = "1 DAG file does" if dags["import_errors"] == 1 else f"{dags['import_errors']} DAG files do"
        screen.print(Text(f"{broken} not import:  asyncsched dags check\n", style="bold red"))
    if seen.get("next"):
        screen.print(
            table(
                [Column("Next", field("dag_id"), style="bold"), Column("", field("next_run"), "instant")], seen["next"]
            )
        )
    if seen.get("failed"):
        screen.print()
        columns = [
            Column("Failed in 24 h", field("dag_id"), style="bold"),
            Column("Run", field("run_id"), wide=True),
            Column("", field("end_date"), "instant"),
        ]
        screen.print(table(columns, seen["failed"]))


def _counted(counts: Mapping[str, int], **phrases: str | None) -> str:
    """ "3 running, 2 queued"; a phrase of None leaves that count out."""
    parts = []
    for name, count in counts.items():
        phrase = phrases.get(name, "{} " + name)
        if phrase is not None and (count or name == "total"):
            parts.append(phrase.format(count))
    return ", ".join(parts)
