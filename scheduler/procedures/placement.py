"""From admitted task instances to the attempts that are committed and the workloads that workers get.

An attempt whose task may run again after a loss is started in the transaction that admits it, at a worker with
room: its process begins without asking. If this process dies between the commit and the hand-over, that attempt is
lost before it has done anything, and its loss is found (`routines/rescue.py`). A task that must not run twice by
itself (`rerun_when_lost=False`) is only queued: it asks to start when its process is there, so that an attempt
which never began is never mistaken for one that did.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from attrs import field, frozen

from scheduler.decisions.graph import Graph
from scheduler.executors.base import Berth
from scheduler.model import Task, Workload
from scheduler.model.facts import FactKind
from scheduler.store import attempts, tasks
from scheduler.store.attempts import Claim
from scheduler.store.writer import Row, Transaction


@frozen(kw_only=True)
class Place:
    """Where attempts go: written into them."""

    daemon: str
    """The daemon's seat."""
    logs: Path
    source_path: Callable[[str, str], Path]
    """(source hash, file) -> path of the pinned copy."""
    dags_dir: Path


@frozen(kw_only=True)
class Capacity:
    """How many attempts this daemon may make now, and where they may start, as far as it knows."""

    where: Place
    berths: Sequence[Berth] = ()
    """Workers with room: attempts beyond it are queued."""
    slots: int = field()

    @slots.default
    def _room(self) -> int:
        return sum(berth.free for berth in self.berths)


@frozen(kw_only=True)
class Papers:
    """What attempts of these runs are made from; both by run."""

    cards: Mapping[int, Row]
    """Rows of `runs.cards`."""
    graphs: Mapping[int, Graph]


@frozen(kw_only=True)
class Whereabouts:
    """What the daemon remembers of an attempt that it handed over: facts that never change."""

    run_pk: int
    key: int
    task_index: int


@frozen(kw_only=True)
class Admittee:
    """A task instance that gets a slot."""

    key: int
    run_pk: int
    task_index: int
    try_number: int
    """Of the attempt it gets."""
    max_tries: int
    losses: int
    map_index: int = -1


@frozen(kw_only=True)
class Placed:
    """What is handed over after the commit."""

    workloads: tuple[Workload, ...] = ()
    whereabouts: Mapping[str, Whereabouts] = {}
    """By token."""


@frozen(kw_only=True)
class Prepared:
    """Attempts to be written."""

    placed: Placed
    """What is handed over when they are committed."""
    claims: Sequence[Claim]


async def place(tx: Transaction, admittees: Sequence[Admittee], papers: Papers, capacity: Capacity) -> Placed:
    """Write an attempt for each of these held instances, started if there is a berth for it."""
    prepared = await prepare_attempts(tx, admittees, papers, capacity)
    await attempts.admit(tx, prepared.claims, daemon=capacity.where.daemon)
    return prepared.placed


async def prepare_attempts(
    tx: Transaction,
    admittees: Sequence[Admittee],
    papers: Papers,
    capacity: Capacity,
    *,
    fresh: Mapping[tuple[int, int], str | None] = {},
) -> Prepared:
    """As `place`, and the caller writes the claims.

    `fresh`: results, as JSON, by (run key, task position) of tasks whose success this transaction is about to write.
    """
    graphs, where = papers.graphs, capacity.where
    room = _rooms(capacity.berths)
    moored = [(one, graphs[one.run_pk].tasks[one.task_index]) for one in admittees]
    berth_of = {one.key: next(room, None) for one, task in moored if task.rerun_when_lost}
    started = [(one, task) for one, task in moored if berth_of.get(one.key) is not None]
    again = [one.key for one, _ in started if one.try_number > 1 or one.losses]
    if again:
        await tasks.forget_results(tx, again)
    needs = [(one.run_pk, graphs[one.run_pk], task) for one, task in started]
    inputs = await upstream_results(tx, needs, fresh=fresh)
    taken = {one.key: result for (one, _), result in zip(started, inputs, strict=True)}
    files: dict[tuple[str, str], tuple[str, str]] = {}
    workloads, claims, whereabouts = [], [], {}
    for one, task in moored:
        card, graph, berth = papers.cards[one.run_pk], graphs[one.run_pk], berth_of.get(one.key)
        token = str(uuid.uuid4())
        # made of integers and the token only: no name that a user chose becomes part of a path
        log = f"{where.logs}/{one.run_pk}/{one.key}-{one.try_number}-{token}.log"
        conf = card["conf"] or {}
        source = card["source_hash"], card["file"]
        if source not in files:
            files[source] = str(where.dags_dir / card["file"]), str(where.source_path(*source))
        file, source_path = files[source]
        workloads.append(
            Workload(
                token=token,
                dag_id=card["dag_id"],
                run_id=card["run_id"],
                task_id=task.task_id,
                map_index=one.map_index,
                try_number=one.try_number,
                max_tries=one.max_tries,
                run_type=card["run_type"],
                logical_date=card["logical_date"],
                data_interval_start=card["data_interval_start"],
                data_interval_end=card["data_interval_end"],
                run_after=card["run_after"],
                params={**graph.dag.params, **conf},
                conf=conf,
                file=file,
                source_path=source_path,
                source_hash=card["source_hash"],
                log_path=log,
                execution_timeout=task.execution_timeout,
                isolation=task.isolation or graph.dag.isolation,
                inputs=taken.get(one.key),
                worker=None if berth is None else berth.worker_id,
            )
        )
        claims.append(
            Claim(
                key=one.key,
                token=token,
                try_number=one.try_number,
                log_path=log,
                worker=None if berth is None else berth.worker_id,
                hostname=None if berth is None else berth.hostname,
            )
        )
        whereabouts[token] = Whereabouts(run_pk=one.run_pk, key=one.key, task_index=one.task_index)
        if berth is not None:
            tx.tell(
                FactKind.TASK_STARTED,
                dag_id=card["dag_id"],
                run_id=card["run_id"],
                task_id=task.task_id,
                try_number=one.try_number,
            )
    return Prepared(placed=Placed(workloads=tuple(workloads), whereabouts=whereabouts), claims=claims)


async def upstream_results(
    tx: Transaction,
    needs: Sequence[tuple[int, Graph, Task]],
    *,
    fresh: Mapping[tuple[int, int], str | None] = {},
) -> list[dict[str, Any]]:
    """For each (run key, graph, task) the results of the tasks it takes inputs from, by task id.

    A task without a result is absent. `fresh`: as in `prepare_attempts`.
    """
    places = {(run_pk, graph.index[name]) for run_pk, graph, task in needs for name in task.inputs}
    values = {place_: msgspec.json.decode(text) for place_ in places if (text := fresh.get(place_)) is not None}
    if written := places - fresh.keys():
        values |= await tasks.results(tx, written)
    return [
        {name: values[place_] for name in task.inputs for place_ in ((run_pk, graph.index[name]),) if place_ in values}
        for run_pk, graph, task in needs
    ]


def _rooms(berths: Iterable[Berth]) -> Iterator[Berth]:
    """A berth for each attempt in turn, always where most room is left."""
    left = {berth: berth.free for berth in berths}
    while left:
        berth = max(left, key=left.__getitem__)
        if left[berth] <= 0:
            return
        left[berth] -= 1
        yield berth
