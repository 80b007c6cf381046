"""Requests about the tasks of a run: list, show, and where their logs lie."""

from scheduler.control import shapes
from scheduler.control.context import ControlContext
from scheduler.control.handlers.select import Selected, select, select_run
from scheduler.control.operation import Arguments
from scheduler.control.protocol import Code, ControlError
from scheduler.model import RunState
from scheduler.store import views
from scheduler.store.writer import Reading, Row


class TasksOfRun(Arguments):
    run: str
    """RUN, DAG/RUN, or DAG for its newest."""


async def list_tasks(context: ControlContext, arguments: TasksOfRun) -> list[shapes.Json]:
    run = await select_run(context, arguments.run)
    return [shapes.task_line(row) for row in await context.store.read(views.tasks, run_key=run["id"])]


class OneTask(Arguments):
    task: str
    """RUN/TASK or DAG/RUN/TASK, perhaps with #TRY."""


async def show_task(context: ControlContext, arguments: OneTask) -> list[shapes.Json]:
    """The instances of one task (more than one if it is mapped) with their attempts and results."""
    chosen = await select(context, arguments.task)
    if chosen.task_id is None:
        raise ControlError(Code.USAGE, f"{arguments.task!r} names a run: add /TASK")

    async def look(reading: Reading) -> list[shapes.Json]:
        rows = await views.tasks(reading, run_key=chosen.run["id"], task_id=chosen.task_id)
        tried = await views.attempts(
            reading, run_key=chosen.run["id"], task_id=chosen.task_id, try_number=chosen.try_number
        )
        return [await _instance(reading, chosen, row, [a for a in tried if a["ti_id"] == row["id"]]) for row in rows]

    return await context.store.read(look)


async def _instance(reading: Reading, chosen: Selected, row: Row, attempts: list[Row]) -> shapes.Json:
    values = await views.results(reading, ti_key=row["id"])
    identity = {"dag_id": chosen.run["dag_id"], "run_id": chosen.run["run_id"]}
    return (
        identity
        | shapes.task_line(row)
        | {
            "results": {each["key"]: shapes.value(each["value"]) for each in values},
            "attempts": [shapes.attempt(each) for each in attempts],
        }
    )


class LogsOf(Arguments):
    of: str
    """RUN, RUN/TASK, RUN/TASK#TRY, with DAG/ before it where needed."""


async def locate_logs(context: ControlContext, arguments: LogsOf) -> shapes.Json:
    """Every attempt's log in order, and whether more may come."""
    chosen = await select(context, arguments.of)

    async def look(reading: Reading) -> shapes.Json:
        run = await views.run_by_key(reading, key=chosen.run["id"])
        assert run is not None, f"run {chosen.run['id']} vanished between two reads"
        tried = await views.attempts(reading, run_key=run["id"], task_id=chosen.task_id, try_number=chosen.try_number)
        running = run["state"] in (RunState.QUEUED, RunState.RUNNING)
        if running and chosen.task_id is not None:
            rows = await views.tasks(reading, run_key=run["id"], task_id=chosen.task_id)
            running = any(row["end_date"] is None for row in rows)
            if chosen.try_number is not None and tried:
                running = any(each["state"] in views.LIVE_ATTEMPTS for each in tried)
        return {
            "dag_id": run["dag_id"],
            "run_id": run["run_id"],
            "state": run["state"],
            "unfinished": running,
            "logs": [shapes.log(each) for each in tried],
        }

    return await context.store.read(look)
