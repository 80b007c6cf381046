"""Rows as the JSON objects clients get. Shapes marked *fixed* are promised to scripts: see docs/json.md."""

import json
from collections.abc import Sequence
from typing import Any, Protocol

from scheduler.commands import RunChange
from scheduler.control.protocol import instant

Json = dict[str, Any]


class Row(Protocol):
    """Values by column name."""

    def __getitem__(self, key: str, /) -> Any: ...


def dag_summary(row: Row) -> Json:
    """*Fixed* (`dags list`), followed by what the table on a terminal shows besides."""
    return {
        "dag_id": row["dag_id"],
        "schedule": row["schedule"],
        "paused": row["is_paused"],
        "file": row["file"],
        "next_run": instant(next_run(row)),
        "present": row["is_present"],
        "unfinished_runs": row["unfinished_runs"],
        "last_run_id": row["last_run_id"],
        "last_state": row["last_state"],
        "last_start_date": instant(row["last_start_date"]),
        "last_end_date": instant(row["last_end_date"]),
    }


def next_run(row: Row) -> Any:
    """When the dag's schedule will next make a run; a paused or vanished dag makes none."""
    return row["next_due"] if row["is_present"] and not row["is_paused"] else None


def import_error(row: Row) -> Json:
    """*Fixed* (`dags check`)."""
    return {"file": row["file"], "line": row["line"], "message": row["message"]}


def run_summary(row: Row) -> Json:
    """The head of *fixed* `runs show`, and an item of `runs list`."""
    return {
        "dag_id": row["dag_id"],
        "run_id": row["run_id"],
        "run_type": row["run_type"],
        "state": row["state"],
        "logical_date": instant(row["logical_date"]),
        "start_date": instant(row["start_date"]),
        "end_date": instant(row["end_date"]),
    }


def run_detail(row: Row, *, version: int | None) -> Json:
    """What else is known of a run."""
    return {
        "verdict": row["verdict"],
        "conf": row["conf"],
        "version": version,
        "clear_count": row["clear_count"],
        "run_after": instant(row["run_after"]),
        "queued_at": instant(row["queued_at"]),
        "data_interval_start": instant(row["data_interval_start"]),
        "data_interval_end": instant(row["data_interval_end"]),
    }


def task_summary(row: Row) -> Json:
    """*Fixed*: an item of "tasks" in `runs show`."""
    return {
        "task_id": row["task_id"],
        "map_index": row["map_index"],
        "state": row["state"],
        "try_number": row["try_number"],
        "start_date": instant(row["start_date"]),
        "end_date": instant(row["end_date"]),
    }


def task_line(row: Row) -> Json:
    """An item of `tasks list`."""
    return task_summary(row) | {
        "max_tries": row["max_tries"],
        "pool": row["pool"],
        "pool_slots": row["pool_slots"],
        "priority": row["priority"],
        "retry_at": instant(row["retry_at"]),
        "hostname": row["hostname"],
        "reason": row["reason"],
        "message": row["message"],
    }


def attempt(row: Row) -> Json:
    """One attempt in `tasks show`."""
    return {
        "token": row["token"],
        "try_number": row["try_number"],
        "state": row["state"],
        "queued_at": instant(row["queued_at"]),
        "start_date": instant(row["started_at"]),
        "end_date": instant(row["ended_at"]),
        "hostname": row["hostname"],
        "pid": row["pid"],
        "exit_code": row["exit_code"],
        "reason": row["reason"],
        "message": row["message"],
        "log_path": row["log_path"],
    }


def log(row: Row) -> Json:
    """Where one attempt's log lies, and whether it may still grow."""
    return {
        "task_id": row["task_id"],
        "map_index": row["map_index"],
        "try_number": row["try_number"],
        "state": row["state"],
        "start_date": instant(row["started_at"]),
        "end_date": instant(row["ended_at"]),
        "hostname": row["hostname"],
        "message": row["message"],
        "path": row["log_path"],
    }


def changes(done: Sequence[RunChange], *, dry_run: bool) -> Json:
    """The answer of clear and mark: runs in which something changes, or that are left alone for a reason."""
    runs = [_run_change(one) for one in done if one.tasks or one.refused]
    counts = {"runs": sum(1 for one in done if one.tasks), "tasks": sum(len(one.tasks) for one in done)}
    return {"dry_run": dry_run, "counts": counts, "runs": runs}


def _run_change(run: RunChange) -> Json:
    return {
        "dag_id": run.dag_id,
        "run_id": run.run_id,
        "before": str(run.before),
        "after": str(run.after),
        "refused": run.refused or None,
        "tasks": [
            {
                "task_id": task.task_id,
                "map_index": task.map_index,
                "before": str(task.before),
                "after": str(task.after),
                "is_stopped_first": task.waits,
            }
            for task in run.tasks
        ],
    }


def value(text: str) -> Any:
    """A stored result; it was checked to be JSON when it was accepted."""
    return json.loads(text)


def pool(row: Row) -> Json:
    """An item of `pools list`."""
    return {
        "name": row["name"],
        "slots": row["slots"],
        "used": int(row["used"]),
        "waiting": int(row["waiting"]),
        "description": row["description"],
    }
