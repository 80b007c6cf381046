"""What people ask to see: plain selects for the control socket. They lock nothing and change nothing.

Listings that grow with history are paged by key (`before`), newest first, and always have a limit. Each
function is run by `Store.read` and returns rows; giving them a shape is the business of whoever asked.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from scheduler.model import AttemptState, RunState, TaskState
from scheduler.store.tables import (
    attempt,
    dag,
    dag_file,
    dag_run,
    dag_version,
    pool,
    seat,
    task_instance,
    xcom,
)
from scheduler.store.writer import Reading, Row

_UNFINISHED_RUNS = (RunState.QUEUED, RunState.RUNNING)
_ACTIVE_TASKS = (TaskState.QUEUED, TaskState.RUNNING, TaskState.RESTARTING)
_OPEN_TASKS = (
    TaskState.SCHEDULED,
    TaskState.QUEUED,
    TaskState.RUNNING,
    TaskState.RESTARTING,
    TaskState.UP_FOR_RETRY,
)


def _among(column: sa.Column[str], states: Iterable[StrEnum]) -> sa.ColumnElement[bool]:
    """`column` is one of `states`, written out: with parameters the planner could not use a partial index."""
    values = [str(state) for state in states]
    return column.in_(sa.bindparam(None, values, expanding=True, literal_execute=True))


def _of_dag(key: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    """Runs of one dag, as a range of one key: with `_NEWEST_OF_DAG` only the index on (dag_pk, id) has the order asked
    for. With an equality the primary key has it too, and walking through all runs there are, to find some of a dag
    that has few, looks cheap to the planner."""
    return dag_run.c.dag_pk.between(key, key)


_NEWEST_OF_DAG = (dag_run.c.dag_pk.desc(), dag_run.c.id.desc())

_RUN = (
    dag_run.c.id,
    dag.c.dag_id,
    dag_run.c.run_id,
    dag_run.c.run_type,
    dag_run.c.state,
    dag_run.c.verdict,
    dag_run.c.logical_date,
    dag_run.c.data_interval_start,
    dag_run.c.data_interval_end,
    dag_run.c.run_after,
    dag_run.c.queued_at,
    dag_run.c.start_date,
    dag_run.c.end_date,
    dag_run.c.conf,
    dag_run.c.version_id,
    dag_run.c.clear_count,
)
_RUNS = dag_run.join(dag, dag.c.id == dag_run.c.dag_pk)


async def dags(reading: Reading, *, include_absent: bool = False) -> Sequence[Row]:
    """All dags by name, each with its newest run and how many of its runs are unfinished."""
    newest = (
        sa.select(dag_run.c.run_id, dag_run.c.state, dag_run.c.start_date, dag_run.c.end_date)
        .where(_of_dag(dag.c.id))
        .order_by(*_NEWEST_OF_DAG)
        .limit(1)
        .lateral("newest")
    )
    unfinished = (
        sa.select(sa.func.count())
        .select_from(dag_run)
        .where(dag_run.c.dag_pk == dag.c.id, _among(dag_run.c.state, _UNFINISHED_RUNS))
        .scalar_subquery()
    )
    statement = (
        sa.select(
            dag.c.dag_id,
            dag.c.schedule,
            dag.c.is_paused,
            dag.c.is_present,
            dag.c.file,
            dag.c.next_due,
            newest.c.run_id.label("last_run_id"),
            newest.c.state.label("last_state"),
            newest.c.start_date.label("last_start_date"),
            newest.c.end_date.label("last_end_date"),
            unfinished.label("unfinished_runs"),
        )
        .select_from(dag.outerjoin(newest, sa.true()))
        .order_by(dag.c.dag_id)
    )
    if not include_absent:
        statement = statement.where(dag.c.is_present)
    return await reading.fetch(statement)


async def dag_by_id(reading: Reading, *, dag_id: str) -> Row | None:
    """One dag with its current version's document, and its file's import error if there is one."""
    statement = (
        sa.select(
            dag,
            dag_version.c.number.label("version"),
            dag_version.c.document,
            dag_version.c.created_at.label("version_created_at"),
            dag_file.c.error_line,
            dag_file.c.error_message,
        )
        .select_from(
            dag.outerjoin(dag_version, dag_version.c.id == dag.c.version_id).outerjoin(
                dag_file, dag_file.c.path == dag.c.file
            )
        )
        .where(dag.c.dag_id == dag_id)
    )
    return _first(await reading.fetch(statement))


async def import_errors(reading: Reading) -> Sequence[Row]:
    """Files that do not import, by path."""
    return await reading.fetch(
        sa.select(
            dag_file.c.path.label("file"),
            dag_file.c.error_line.label("line"),
            dag_file.c.error_message.label("message"),
            dag_file.c.error_at,
        )
        .where(dag_file.c.error_message.is_not(None))
        .order_by(dag_file.c.path)
    )


async def runs(
    reading: Reading,
    *,
    limit: int,
    dag_id: str | None = None,
    states: Sequence[str] = (),
    before: int | None = None,
) -> Sequence[Row]:
    """Runs, newest first; `before` is the `id` of the last row of the previous page."""
    statement = sa.select(*_RUN).select_from(_RUNS).limit(limit)
    if dag_id is not None:
        wanted = dag.alias("wanted")
        key = sa.select(wanted.c.id).where(wanted.c.dag_id == dag_id).scalar_subquery()
        statement = statement.where(_of_dag(key)).order_by(*_NEWEST_OF_DAG)
    else:
        statement = statement.order_by(dag_run.c.id.desc())
    if states:
        statement = statement.where(_among(dag_run.c.state, [RunState(state) for state in states]))
    if before is not None:
        statement = statement.where(dag_run.c.id < before)
    return await reading.fetch(statement)


# Made once, for they are asked with every trigger that waits, and compiling takes longer than the answer.
# The ids of all dags are named so that (dag_pk, run_id) serves: run_id alone has no index.
_NAMED = (
    sa.select(*_RUN)
    .select_from(_RUNS)
    .where(dag_run.c.dag_pk.in_(sa.select(dag.c.id)), dag_run.c.run_id == sa.bindparam("run_id"))
    .order_by(dag_run.c.id.desc())
    .limit(20)
)
_NAMED_OF_DAG = _NAMED.where(dag.c.dag_id == sa.bindparam("dag_id"))
_BY_KEY = sa.select(*_RUN).select_from(_RUNS).where(dag_run.c.id == sa.bindparam("key"))
_COUNTS = (
    sa.select(task_instance.c.state, sa.func.count().label("count"))
    .where(task_instance.c.run_pk == sa.bindparam("run_key"))
    .group_by(task_instance.c.state)
)


async def runs_named(reading: Reading, *, run_id: str, dag_id: str | None = None) -> Sequence[Row]:
    """The runs with this id, of one dag or of any, newest first: dags on one schedule share run ids."""
    if dag_id is None:
        return await reading.fetch(_NAMED, {"run_id": run_id})
    return await reading.fetch(_NAMED_OF_DAG, {"run_id": run_id, "dag_id": dag_id})


async def run_by_key(reading: Reading, *, key: int) -> Row | None:
    """One run by its primary key."""
    return _first(await reading.fetch(_BY_KEY, {"key": key}))


async def version_number(reading: Reading, *, key: int) -> int | None:
    """Which version of its dag a `dag_version` row is, counted from 1."""
    row = _first(await reading.fetch(sa.select(dag_version.c.number).where(dag_version.c.id == key)))
    return row["number"] if row is not None else None


async def task_counts(reading: Reading, *, run_key: int) -> dict[str, int]:
    """How many instances of a run are in each state."""
    rows = await reading.fetch(_COUNTS, {"run_key": run_key})
    return {row["state"]: row["count"] for row in rows}


async def tasks(reading: Reading, *, run_key: int, task_id: str | None = None) -> Sequence[Row]:
    """The instances of a run in topological order, each with what its newest attempt said."""
    newest = (
        sa.select(attempt.c.message, attempt.c.reason, attempt.c.hostname)
        .where(attempt.c.ti_id == task_instance.c.id)
        .order_by(attempt.c.queued_at.desc())
        .limit(1)
        .lateral("newest")
    )
    statement = (
        sa.select(task_instance, newest.c.message, newest.c.reason, newest.c.hostname)
        .select_from(task_instance.outerjoin(newest, sa.true()))
        .where(task_instance.c.run_pk == run_key)
        .order_by(task_instance.c.task_index, task_instance.c.map_index)
    )
    if task_id is not None:
        statement = statement.where(task_instance.c.task_id == task_id)
    return await reading.fetch(statement)


async def attempts(
    reading: Reading, *, run_key: int, task_id: str | None = None, try_number: int | None = None
) -> Sequence[Row]:
    """The attempts of a run's tasks: by task in topological order, oldest first."""
    statement = (
        sa.select(attempt, task_instance.c.task_id, task_instance.c.map_index)
        .select_from(attempt.join(task_instance, task_instance.c.id == attempt.c.ti_id))
        .where(task_instance.c.run_pk == run_key)
        .order_by(task_instance.c.task_index, task_instance.c.map_index, attempt.c.queued_at)
    )
    if task_id is not None:
        statement = statement.where(task_instance.c.task_id == task_id)
    if try_number is not None:
        statement = statement.where(attempt.c.try_number == try_number)
    return await reading.fetch(statement)


async def results(reading: Reading, *, ti_key: int) -> Sequence[Row]:
    """The values an instance has pushed, as JSON text, by key."""
    return await reading.fetch(sa.select(xcom.c.key, xcom.c.value).where(xcom.c.ti_id == ti_key).order_by(xcom.c.key))


async def pools(reading: Reading) -> Sequence[Row]:
    """All pools by name with the slots in use and the slots that ready tasks wait for.

    The pool named "*" is the whole installation, where every task counts once.
    """
    # Two halves, each served by a partial index that holds open instances only, whatever the size of history.
    columns = (task_instance.c.pool, task_instance.c.pool_slots)
    usage = sa.union_all(
        sa.select(*columns, sa.true().label("is_active")).where(_among(task_instance.c.state, _ACTIVE_TASKS)),
        sa.select(*columns, sa.false().label("is_active")).where(_among(task_instance.c.state, [TaskState.SCHEDULED])),
    ).subquery("usage")
    everywhere = pool.c.name == "*"
    weight = sa.case((everywhere, 1), else_=usage.c.pool_slots)
    return await reading.fetch(
        sa.select(
            pool.c.name,
            pool.c.slots,
            pool.c.description,
            sa.func.coalesce(sa.func.sum(weight).filter(usage.c.is_active), 0).label("used"),
            sa.func.coalesce(sa.func.sum(weight).filter(sa.not_(usage.c.is_active)), 0).label("waiting"),
        )
        .select_from(pool.outerjoin(usage, sa.or_(usage.c.pool == pool.c.name, everywhere)))
        .group_by(pool.c.id)
        .order_by(pool.c.name)
    )


async def overview(reading: Reading, *, upcoming: int = 5, recent: int = 5) -> dict[str, Any]:
    """The installation in figures: dags, unfinished runs, open tasks, what is due, what failed."""
    files = sa.select(sa.func.count()).select_from(dag_file).where(dag_file.c.error_message.is_not(None))
    totals = await reading.fetch(
        sa.select(
            sa.func.count().filter(dag.c.is_present).label("total"),
            sa.func.count().filter(dag.c.is_present, dag.c.is_paused).label("paused"),
            files.scalar_subquery().label("import_errors"),
        )
    )
    open_runs = await reading.fetch(
        sa.select(dag_run.c.state, sa.func.count().label("count"))
        .where(_among(dag_run.c.state, _UNFINISHED_RUNS))
        .group_by(dag_run.c.state)
    )
    # From the unfinished runs downwards: no index on task_instance knows all the open states.
    open_tasks = await reading.fetch(
        sa.select(task_instance.c.state, sa.func.count().label("count"))
        .select_from(task_instance.join(dag_run, dag_run.c.id == task_instance.c.run_pk))
        .where(_among(dag_run.c.state, _UNFINISHED_RUNS), _among(task_instance.c.state, _OPEN_TASKS))
        .group_by(task_instance.c.state)
    )
    due = await reading.fetch(
        sa.select(dag.c.dag_id, dag.c.next_due)
        .where(dag.c.is_present, sa.not_(dag.c.is_paused), dag.c.next_due.is_not(None))
        .order_by(dag.c.next_due)
        .limit(upcoming)
    )
    ended = await reading.fetch(
        sa.select(*_RUN)
        .select_from(_RUNS)
        .where(dag_run.c.end_date > sa.func.now() - sa.text("interval '24 hours'"))
        .where(_among(dag_run.c.state, [RunState.FAILED]))
        .order_by(dag_run.c.end_date.desc())
        .limit(recent)
    )
    return {
        "dags": dict(totals[0]),
        "runs": {row["state"]: row["count"] for row in open_runs},
        "tasks": {row["state"]: row["count"] for row in open_tasks},
        "due": due,
        "failed": ended,
    }


async def seats(reading: Reading) -> Sequence[Row]:
    """Daemons and workers whose lease is running."""
    return await reading.fetch(
        sa.select(seat).where(seat.c.lease_until > sa.func.clock_timestamp()).order_by(seat.c.started_at)
    )


def _first(rows: Sequence[Row]) -> Row | None:
    return rows[0] if rows else None


LIVE_ATTEMPTS = frozenset({str(AttemptState.QUEUED), str(AttemptState.RUNNING)})
"""States of an attempt whose log may still grow."""
