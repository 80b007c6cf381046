"""Trigger: create manual runs.

Triggers of one dag need its row, one after the other. So those that arrive until a transaction has got it go together
with it, and those that arrive while it works with the next one (`nurseries/gathering.py`): a lone one waits for nobody,
and under load many share a commit. Triggers of different dags do not wait for each other.

Each gets an answer of its own. What one may be refused for (its run id, its logical date) is found out within the
transaction and costs the others nothing; what only one of them can have caused makes each try once more by itself.
Two that would compete for an id or a date never go together. Locks: DAG, POOL (skipping), the new rows.

Cancelled: not created. Killed before the commit: none of the batch is created; after it: all are, and those of their
tasks that were started without having been handed over are found by rescue.
"""

import logging
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import trio
from attrs import define, field, frozen

from nurseries.errors import Weather
from nurseries.gathering import LATER, Gathering, Later
from scheduler.commands.errors import CommandError
from scheduler.decisions.identity import run_id as name_run
from scheduler.model import InvalidId, RunState, RunType, check_id
from scheduler.procedures.dispatch import Dispatch
from scheduler.procedures.launch import Launched, launch
from scheduler.procedures.placement import Capacity
from scheduler.store import dags, runs
from scheduler.store.documents import Graphs
from scheduler.store.errors import OutcomeUnknown
from scheduler.store.locks import Lock
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction, writer
from scheduler.timetables import infer_interval

logger = logging.getLogger(__name__)

CONF_LIMIT = 1024 * 1024
"""Bytes of JSON."""
TOGETHER = 100
"""Triggers in one transaction, at most."""
CONF_TOGETHER = 4 * CONF_LIMIT
INSTANCES_TOGETHER = 2_000
"""Task instances in one transaction, unless a single run has more."""


@frozen(kw_only=True)
class Request:
    """One run that is asked for."""

    run_id: str
    logical_date: datetime | None = None
    conf: dict[str, Any] | None = None
    conf_size: int = 0
    """Bytes of JSON."""


@frozen(kw_only=True)
class Triggered:
    """A run that was created."""

    run_id: str
    state: RunState
    """As it was created: queued or running."""


@writer(Lock.DAG, Lock.POOL, inserts=(Lock.DAG_RUN, Lock.TASK_INSTANCE))
async def trigger_runs(
    tx: Transaction,
    graphs: Graphs,
    dag_id: str,
    take: Callable[[], Sequence[Request]],
    capacity: Capacity | None = None,
) -> tuple[list[Triggered | CommandError], Launched]:
    """Insert manual runs of one dag, as many as fit into a transaction: one at least, from the first on.

    `take` returns those that are asked for by now, and the same ever after: it is called when the dag is held.
    Returns what became of each of them. Raises CommandError if there can be none.
    """
    keys = await tx.lock(dags.LOCK_DAG_ID, dag_id=dag_id)
    if not keys:
        raise CommandError("not_found", f"There is no dag {dag_id!r}. `asyncsched dags list` shows them all.")
    (dag,) = await dags.due(tx, keys)
    if not dag["is_present"] or dag["version_id"] is None:
        raise CommandError("conflict", f"Dag {dag_id!r} has vanished from its file, so it gets no new runs.")
    graph = (await graphs.load(tx, [dag["version_id"]]))[dag["version_id"]]
    requests = take()[: max(1, INSTANCES_TOGETHER // max(1, len(graph.tasks)))]
    new = []
    for request in requests:
        date = request.logical_date
        start, end = infer_interval(graph.dag.schedule, date) if date else (None, None)
        new.append(
            runs.NewRun(
                dag_pk=keys[0],
                version_id=dag["version_id"],
                graph=graph,
                run_id=request.run_id,
                run_type=RunType.MANUAL,
                run_after=end if end is not None and end < tx.now else tx.now,
                logical_date=date,
                data_interval_start=start,
                data_interval_end=end,
                conf=request.conf,
            )
        )
    launched = await launch(tx, new, paused={keys[0]: dag["is_paused"]}, capacity=capacity)
    return [_answer(request, dag_id, launched.states.get((keys[0], request.run_id))) for request in requests], launched


def _answer(request: Request, dag_id: str, state: RunState | None) -> Triggered | CommandError:
    if state is not None:
        return Triggered(run_id=request.run_id, state=state)
    date = request.logical_date
    what = f"logical date {date.isoformat()}" if date else f"run id {request.run_id!r}"
    return CommandError("conflict", f"Dag {dag_id!r} already has a run with {what}.")


@define(kw_only=True, eq=False)
class Triggers:
    """Takes triggers of any number of callers."""

    graphs: Graphs
    dispatch: Dispatch | None = None
    """With it, first tasks start at once if there is room."""
    _gatherings: dict[tuple[Store, str], Gathering[Request, Triggered]] = field(factory=dict, init=False)
    """By dag, while somebody triggers it."""

    async def trigger(
        self,
        store: Store,
        *,
        dag_id: str,
        conf: dict[str, Any] | None = None,
        logical_date: datetime | None = None,
        run_id: str | None = None,
    ) -> Triggered:
        """Create a manual run; cancelled means: it was not created.

        `conf` is merged over the dag's params. With a `logical_date` (aware) its data interval is inferred from the
        schedule; without one the run is undated.
        Raises CommandError: no such dag, the run exists, or `conf` is too large.
        """
        size = _check(conf, logical_date, run_id)
        if run_id is None:
            # named here, so that an unknown outcome can be read back by name
            suffix = "" if logical_date else secrets.token_hex(4)
            run_id = name_run(RunType.MANUAL, logical_date or datetime.now(UTC), suffix=suffix)
        request = Request(run_id=run_id, logical_date=logical_date, conf=conf, conf_size=size)
        key = store, dag_id
        gathering = self._gatherings.get(key)
        if gathering is None:
            carry = partial(self._carry, store, dag_id)
            gathering = Gathering(carry=carry, choose=_together, shared=(Weather, CommandError))
            self._gatherings[key] = gathering
        try:
            return await gathering.ask(request)
        except OutcomeUnknown as unknown:
            try:
                found = await store.read(runs.find, run_id=run_id, dag_id=dag_id)
            except (Weather, trio.Cancelled):
                # neither "away" nor "cancelled" must be heard here: both mean that nothing was committed
                raise unknown from None
            if found:
                return Triggered(run_id=run_id, state=RunState(found[0]["state"]))
            raise
        finally:
            if gathering.is_idle and self._gatherings.get(key) is gathering:
                del self._gatherings[key]

    async def _carry(
        self, store: Store, dag_id: str, take: Callable[[], Sequence[Request]]
    ) -> list[Triggered | CommandError | Later]:
        answers = await self._launch(store, dag_id, take)
        return [*answers, *[LATER] * (len(take()) - len(answers))]

    async def _launch(
        self, store: Store, dag_id: str, take: Callable[[], Sequence[Request]]
    ) -> list[Triggered | CommandError]:
        if self.dispatch is None:
            answers, _ = await store.transact(trigger_runs, self.graphs, dag_id, take)
            return answers
        with self.dispatch.admission():
            capacity = self.dispatch.capacity_for_new_runs()
            answers, launched = await store.transact(trigger_runs, self.graphs, dag_id, take, capacity)
            # the tasks of others, too: a cancel of this caller must not keep them from their worker
            with trio.CancelScope(shield=True):
                try:
                    await self.dispatch.hand_over_launched(launched)
                except Weather as weather:
                    logger.warning("started tasks of %s are left to rescue: %s", dag_id, weather)
        return answers


def _together(requests: Sequence[Request]) -> int:
    """How many, from the first on: none competes with another, and they are not too many, nor too large."""
    ids: set[str] = set()
    dates: set[datetime] = set()
    size = 0
    for count, request in enumerate(requests):
        size += request.conf_size
        full = count == TOGETHER or (count and size > CONF_TOGETHER)
        if full or request.run_id in ids or request.logical_date in dates:
            return count
        ids.add(request.run_id)
        if request.logical_date is not None:
            dates.add(request.logical_date)
    return len(requests)


def _check(conf: dict[str, Any] | None, logical_date: datetime | None, run_id: str | None) -> int:
    """Raises CommandError; returns the size of `conf` in bytes of JSON."""
    if conf is not None and not isinstance(conf, dict):
        raise CommandError("usage", 'conf must be a JSON object, for example \'{"city": "Oslo"}\'.')
    encoded = b"" if conf is None else msgspec.json.encode(conf)
    if len(encoded) > CONF_LIMIT:
        raise CommandError("usage", f"conf is larger than {CONF_LIMIT} bytes: pass a reference to the data instead.")
    if b"\\u0000" in encoded:
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
    return len(encoded)
