"""Requests about dags: list, show, check, next, pause."""

from typing import Any

import msgspec

from scheduler.control import shapes
from scheduler.control.context import ControlContext
from scheduler.control.operation import Arguments
from scheduler.control.protocol import Code, ControlError, instant
from scheduler.model import Dag
from scheduler.store import views
from scheduler.store.writer import Reading, Row
from scheduler.timetables import upcoming


class ListDags(Arguments):
    include_absent: bool = False


async def list_dags(context: ControlContext, arguments: ListDags) -> list[shapes.Json]:
    rows = await context.store.read(views.dags, include_absent=arguments.include_absent)
    return [shapes.dag_summary(row) for row in rows]


class OneDag(Arguments):
    dag_id: str


async def show_dag(context: ControlContext, arguments: OneDag) -> shapes.Json:
    row = await _dag(context, arguments.dag_id)
    document = msgspec.json.decode(row["document"]) if row["document"] is not None else None
    return {
        "dag_id": row["dag_id"],
        "schedule": row["schedule"],
        "paused": row["is_paused"],
        "file": row["file"],
        "next_run": instant(shapes.next_run(row)),
        "present": row["is_present"],
        "version": row["version"],
        "version_created_at": instant(row["version_created_at"]),
        "import_error": _import_error(row),
        "document": document,
    }


def _import_error(row: Row) -> shapes.Json | None:
    if row["error_message"] is None:
        return None
    return {"file": row["file"], "line": row["error_line"], "message": row["error_message"]}


async def check_dags(context: ControlContext, _: Arguments) -> list[shapes.Json]:
    return [shapes.import_error(row) for row in await context.store.read(views.import_errors)]


class NextRuns(Arguments):
    dag_id: str
    count: int = 5


async def next_runs(context: ControlContext, arguments: NextRuns) -> list[shapes.Json]:
    """The next slots of a dag's schedule, whether it is paused or not."""
    if not 1 <= arguments.count <= 1000:
        raise ControlError(Code.USAGE, "ask for 1 to 1000 runs")
    row = await _dag(context, arguments.dag_id)
    if row["document"] is None:
        return []
    definition = msgspec.json.decode(row["document"], type=Dag)
    now = await context.store.read(_now)
    slots = upcoming(
        definition.schedule,
        after=now,
        start_date=definition.start_date,
        end_date=definition.end_date,
        count=arguments.count,
    )
    return [
        {
            "run_after": instant(slot.run_after),
            "logical_date": instant(slot.logical_date),
            "data_interval_start": instant(slot.data_interval_start),
            "data_interval_end": instant(slot.data_interval_end),
        }
        for slot in slots
    ]


class PauseDag(Arguments):
    dag_id: str
    paused: bool


async def pause_dag(context: ControlContext, arguments: PauseDag) -> shapes.Json:
    await context.commands.pause(context.store, dag_id=arguments.dag_id, paused=arguments.paused)
    return {"dag_id": arguments.dag_id, "paused": arguments.paused}


async def _now(reading: Reading) -> Any:
    return reading.now


async def _dag(context: ControlContext, dag_id: str) -> Row:
    row = await context.store.read(views.dag_by_id, dag_id=dag_id)
    if row is None:
        raise ControlError(Code.NOT_FOUND, f"there is no dag {dag_id!r}: see `asyncsched dags list`")
    return row
