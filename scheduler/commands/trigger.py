"""Trigger: create a manual run."""

import secrets
from datetime import UTC, datetime
from typing import Any

import msgspec

from scheduler.commands.errors import CommandError
from scheduler.decisions.identity import run_id as name_run
from scheduler.model import InvalidId, RunType, check_id
from scheduler.procedures.dispatch import Dispatch
from scheduler.procedures.launch import Launched, Room, launch
from scheduler.store import dags, runs
from scheduler.store.documents import Graphs
from scheduler.store.errors import OutcomeUnknown
from scheduler.store.locks import Lock
from scheduler.store.transaction import Store
from scheduler.store.writer import Reading, Transaction, writer
from scheduler.timetables import infer_interval

CONF_LIMIT = 1024 * 1024
"""Bytes of JSON."""


@writer(Lock.DAG, Lock.POOL, inserts=(Lock.DAG_RUN, Lock.TASK_INSTANCE))
async def trigger_run(
    tx: Transaction,
    graphs: Graphs,
    dag_id: str,
    run_id: str | None,
    logical_date: datetime | None,
    conf: dict[str, Any] | None,
    room: Room | None = None,
) -> tuple[str, Launched]:
    """Insert one manual run; return its id. Raises CommandError."""
    keys = await tx.lock(dags.LOCK_DAG_ID, dag_id=dag_id)
    if not keys:
        raise CommandError("not_found", f"There is no dag {dag_id!r}. `asyncsched dags list` shows them all.")
    (dag,) = await dags.due(tx, keys)
    if not dag["is_present"] or dag["version_id"] is None:
        raise CommandError("conflict", f"Dag {dag_id!r} has vanished from its file, so it gets no new runs.")
    graph = (await graphs.load(tx, [dag["version_id"]]))[dag["version_id"]]
    start, end = infer_interval(graph.dag.schedule, logical_date) if logical_date else (None, None)
    run_after = end if end is not None and end < tx.now else tx.now
    if run_id is None:
        suffix = "" if logical_date else secrets.token_hex(4)
        run_id = name_run(RunType.MANUAL, logical_date or tx.now, suffix=suffix)
    new = runs.NewRun(
        dag_pk=keys[0],
        version_id=dag["version_id"],
        graph=graph,
        run_id=run_id,
        run_type=RunType.MANUAL,
        run_after=min(run_after, tx.now),
        logical_date=logical_date,
        data_interval_start=start,
        data_interval_end=end,
        conf=conf,
    )
    launched = await launch(tx, [new], paused={keys[0]: dag["is_paused"]}, room=room)
    if not launched.keys:
        what = f"logical date {logical_date.isoformat()}" if logical_date else f"run id {run_id!r}"
        raise CommandError("conflict", f"Dag {dag_id!r} already has a run with {what}.")
    return run_id, launched


async def trigger(
    store: Store,
    *,
    graphs: Graphs,
    dispatch: Dispatch | None = None,
    dag_id: str,
    conf: dict[str, Any] | None = None,
    logical_date: datetime | None = None,
    run_id: str | None = None,
) -> str:
    """Create a manual run and return its id; with `dispatch` its first tasks start at once if there is room.

    `conf` is merged over the dag's params. With a `logical_date` (aware) its data interval is inferred from the
    schedule; without one the run is undated.
    Raises CommandError: no such dag, the run exists, or `conf` is too large.
    """
    _check(conf, logical_date, run_id)
    if run_id is None and logical_date is None:
        # named here, so that an unknown outcome can be read back by name
        run_id = name_run(RunType.MANUAL, datetime.now(UTC), suffix=secrets.token_hex(4))
    try:
        room = None if dispatch is None else dispatch.room()
        made, launched = await store.transact(trigger_run, graphs, dag_id, run_id, logical_date, conf, room)
    except OutcomeUnknown:
        name = run_id or name_run(RunType.MANUAL, logical_date or datetime.now(UTC))
        if await store.read(_exists, dag_id, name):
            return name
        raise
    if dispatch is not None:
        await dispatch.hand_over_launched(launched)
    return made


async def _exists(tx: Reading, dag_id: str, run_id: str) -> bool:
    return bool(await runs.find(tx, run_id=run_id, dag_id=dag_id))


def _check(conf: dict[str, Any] | None, logical_date: datetime | None, run_id: str | None) -> None:
    if conf is not None and not isinstance(conf, dict):
        raise CommandError("usage", 'conf must be a JSON object, for example \'{"city": "Oslo"}\'.')
    if conf is not None and len(msgspec.json.encode(conf)) > CONF_LIMIT:
        raise CommandError("usage", f"conf is larger than {CONF_LIMIT} bytes: pass a reference to the data instead.")
    if conf is not None and b"\\u0000" in msgspec.json.encode(conf):
        raise CommandError("usage", "conf holds a NUL character, which PostgreSQL cannot store.")
    if logical_date is not None and logical_date.tzinfo is None:
        raise CommandError("usage", "the logical date needs a time zone, for example 2026-01-01T00:00:00Z.")
    if run_id is not None:
        try:
            check_id(run_id.replace(":", "_").replace("+", "_"), what="run_id")
        except InvalidId as error:
            raise CommandError("usage", str(error)) from error
        if run_id.startswith(f"{RunType.SCHEDULED}__"):
            raise CommandError("usage", f"run id {run_id!r}: the prefix 'scheduled__' is taken by the schedule.")
