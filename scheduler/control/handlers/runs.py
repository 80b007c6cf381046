"""Requests about runs: list, show, trigger, cancel, wait."""

from typing import Any

import trio

from scheduler.control import shapes
from scheduler.control.context import ControlContext
from scheduler.control.handlers.select import select_run
from scheduler.control.operation import Arguments
from scheduler.control.protocol import Code, ControlError, parse_instant
from scheduler.model import RunState
from scheduler.store import views
from scheduler.store.topics import Topic
from scheduler.store.writer import Reading

WAIT_LIMIT = 60.0
"""Seconds; a client that wants to wait longer asks again."""

RECHECK = 1.0
"""Seconds between looks at the run while no poke arrives: pokes are hints."""

FINISHED = frozenset({str(RunState.SUCCESS), str(RunState.FAILED)})


class ListRuns(Arguments):
    dag_id: str | None = None
    states: tuple[RunState, ...] = ()
    limit: int = 50
    before: int | None = None


async def list_runs(context: ControlContext, arguments: ListRuns) -> shapes.Json:
    """A page of runs and the `before` of the next one, None on the last."""
    if not 1 <= arguments.limit <= 10_000:
        raise ControlError(Code.USAGE, "the limit must be from 1 to 10000")
    if arguments.dag_id is not None and not await context.store.read(views.dag_by_id, dag_id=arguments.dag_id):
        raise ControlError(Code.NOT_FOUND, f"there is no dag {arguments.dag_id!r}: see `asyncsched dags list`")
    rows = await context.store.read(
        views.runs,
        limit=arguments.limit + 1,
        dag_id=arguments.dag_id,
        states=[str(state) for state in arguments.states],
        before=arguments.before,
    )
    page = rows[: arguments.limit]
    return {
        "items": [shapes.run_summary(row) for row in page],
        "next": page[-1]["id"] if len(rows) > arguments.limit else None,
    }


class OneRun(Arguments):
    run: str
    """RUN, DAG/RUN, or DAG for its newest."""


async def show_run(context: ControlContext, arguments: OneRun) -> shapes.Json:
    """*Fixed* `runs show` under "run"; what else is known under "detail" and "messages"."""
    key = (await select_run(context, arguments.run))["id"]

    async def look(reading: Reading) -> shapes.Json:
        run = await views.run_by_key(reading, key=key)
        assert run is not None, f"run {key} vanished between two reads"
        rows = await views.tasks(reading, run_key=key)
        version = await views.version_number(reading, key=run["version_id"])
        return {
            "run": shapes.run_summary(run) | {"tasks": [shapes.task_summary(row) for row in rows]},
            "detail": shapes.run_detail(run, version=version),
            "messages": [row["message"] for row in rows],
        }

    return await context.store.read(look)


class Trigger(Arguments):
    dag_id: str
    conf: dict[str, Any] | None = None
    logical_date: str | None = None
    run_id: str | None = None


async def trigger(context: ControlContext, arguments: Trigger) -> shapes.Json:
    try:
        date = None if arguments.logical_date is None else parse_instant(arguments.logical_date)
    except ValueError as error:
        raise ControlError(Code.USAGE, str(error)) from None
    made = await context.commands.trigger(
        context.store,
        dag_id=arguments.dag_id,
        conf=arguments.conf,
        logical_date=date,
        run_id=arguments.run_id,
    )
    return {"dag_id": arguments.dag_id, "run_id": made.run_id, "state": str(made.state)}


async def cancel_run(context: ControlContext, arguments: OneRun) -> shapes.Json:
    run = await select_run(context, arguments.run)
    await context.commands.cancel_run(context.store, run_id=run["run_id"], dag_id=run["dag_id"])
    return {"dag_id": run["dag_id"], "run_id": run["run_id"]}


class WaitForRun(Arguments):
    run: str
    seconds: float = WAIT_LIMIT
    """How long at most; 0 looks once."""


async def wait_for_run(context: ControlContext, arguments: WaitForRun) -> shapes.Json:
    """Answer when the run has ended or the time is over: its state, its instances counted by state."""
    if not 0 <= arguments.seconds <= WAIT_LIMIT:
        raise ControlError(Code.USAGE, f"wait 0 to {WAIT_LIMIT:.0f} seconds, then ask again")
    deadline = trio.current_time() + arguments.seconds
    key = (await select_run(context, arguments.run))["id"]

    async def look(reading: Reading) -> shapes.Json:
        run = await views.run_by_key(reading, key=key)
        assert run is not None, f"run {key} vanished between two reads"
        return shapes.run_summary(run) | {"counts": await views.task_counts(reading, run_key=key)}

    # Subscribed before the first look, so that no end is missed.
    with context.switchboard.subscribe(Topic.RUN_FINISHED) as wakeup:
        while True:
            seen = await context.store.read(look)
            if seen["state"] in FINISHED or trio.current_time() >= deadline:
                return seen
            with trio.move_on_at(min(deadline, trio.current_time() + RECHECK)):
                await wakeup.wait()
