"""Bring runs into being, and start at once those that the limits of their dags allow, down to their first tasks.

A run that may start is judged in the transaction that creates it. With a capacity, its first tasks are also admitted
and started there, unless somebody waits for a slot: then they are left `scheduled`, and enqueue_tasks gives slots by
priority. So from a trigger on an idle system to user code there is one commit. The decisions are the same functions
that start_runs, schedule_tasks and enqueue_tasks use. Called under the locks of the dags' rows.

Locks: DAG (held), the new DAG_RUN rows, POOL (skipping), the new TASK_INSTANCE rows.
"""

from collections.abc import Mapping, Sequence

from attrs import evolve, field, frozen

from scheduler.decisions.readiness import Picture, plan
from scheduler.decisions.starting import QueuedRun, startable
from scheduler.model import RunState, TaskState
from scheduler.model.facts import FactKind
from scheduler.procedures.granting import Ready, decide, precedence
from scheduler.procedures.pictures import Known
from scheduler.procedures.placement import Admittee, Capacity, Papers, Placed, place
from scheduler.store import events, pools, runs, usage
from scheduler.store.events import EventKind
from scheduler.store.pools import EVERYTHING
from scheduler.store.topics import Topic
from scheduler.store.usage import RunUse
from scheduler.store.writer import Transaction


@frozen(kw_only=True)
class Launched:
    """The new runs' keys and states by (dag key, run id), what is to be handed over, and what to remember of them."""

    keys: Mapping[tuple[int, str], int] = field(factory=dict)
    states: Mapping[tuple[int, str], RunState] = field(factory=dict)
    placed: Placed = Placed()
    pictures: Mapping[int, Known] = field(factory=dict)


async def launch(
    tx: Transaction, new: Sequence[runs.NewRun], *, paused: Mapping[int, bool], capacity: Capacity | None = None
) -> Launched:
    """Insert `new` with all their instances. A run id or logical date that exists already is left out.

    `paused` is by dag key. `capacity`: where first tasks may start at once; None: nowhere.
    """
    if not new:
        return Launched()
    judged = await _judge(tx, new, paused)
    keys = await runs.create(tx, [run for run, _ in judged])
    made = {keys[run.dag_pk, run.run_id]: (run, picture) for run, picture in judged if (run.dag_pk, run.run_id) in keys}
    names = {run.graph.tasks[i].pool for run, _ in made.values() for i in _first(run)}
    slots = 0 if capacity is None else capacity.slots
    if slots and names:
        claimed = await tx.lock(pools.CLAIM_NAMED, names=sorted(names | {EVERYTHING}))
        slots = slots if len(claimed) > len(names) else 0  # somebody else gives slots away: left to enqueue_tasks
    if slots and names:
        use = await usage.in_use(tx, (), names)
    instances = await runs.create_instances(tx, [(key, run) for key, (run, _) in made.items()])
    await _announce(tx, {key: run for key, (run, _) in made.items()})
    pictures = {}
    cards = await runs.cards(tx, [key for key, (_, picture) in made.items() if picture is not None]) if slots else {}
    for key, card in cards.items():
        picture = made[key][1]
        assert picture is not None
        picture.keys.update({i: instance for (run_pk, i), instance in instances.items() if run_pk == key})
        pictures[key] = Known(seq=card["seq"], picture=picture, card=card)
    placed = Placed()
    if capacity is not None and slots and names and not use.somebody_waits:
        ready = sorted(_ready({key: run for key, (run, _) in made.items()}, instances), key=lambda one: one.precedence)
        graphs = {key: run.graph for key, (run, _) in made.items()}
        unused = RunUse(seq=0, active=0, hindered=False)
        decision = decide(ready, graphs, evolve(use, runs=dict.fromkeys(graphs, unused)), slots)
        chosen = set(decision.admitted)
        admittees = [_admittee(one, made[one.run_pk][0]) for one in ready if one.key in chosen]
        placed = await place(tx, admittees, Papers(cards=cards, graphs=graphs), capacity)
        if len(chosen) < len(ready):
            tx.announce(Topic.TASK_SCHEDULED)
    elif names:
        tx.announce(Topic.TASK_SCHEDULED)
    states = {}
    for run, _ in made.values():
        state = RunState.RUNNING if run.starts else RunState.QUEUED
        states[run.dag_pk, run.run_id] = state
        tx.tell(FactKind.RUN_CREATED, dag_id=run.graph.dag.dag_id, run_id=run.run_id, state=str(state))
    return Launched(keys=keys, states=states, placed=placed, pictures=pictures)


async def _judge(
    tx: Transaction, new: Sequence[runs.NewRun], paused: Mapping[int, bool]
) -> list[tuple[runs.NewRun, Picture | None]]:
    """The runs as they begin, and the picture of each that starts with something to do."""
    active = await runs.count_active(tx, {run.dag_pk for run in new})
    room = {
        key: 0 if paused[key] or row["queued"] else row["max_active_runs"] - row["running"]
        for key, row in active.items()
    }
    starting = set(
        startable(
            [QueuedRun(key=i, dag_pk=run.dag_pk, run_after=run.run_after) for i, run in enumerate(new)],
            room=room,
            now=tx.now,
        )
    )
    judged: list[tuple[runs.NewRun, Picture | None]] = []
    for i, run in enumerate(new):
        if i not in starting:
            judged.append((run, None))
            continue
        first = plan(Picture.of(run.graph), None, now=tx.now)
        # a run that is over at once (no tasks, or empty ones only) is left to schedule_tasks, which ends runs
        if first.run_state is not None:
            judged.append((evolve(run, starts=True), None))
        else:
            judged.append((evolve(run, starts=True, first=first.changes), first.picture))
    return judged


def _first(run: runs.NewRun) -> list[int]:
    """Positions of the tasks that are ready at once."""
    return [i for i, state in run.first.items() if state is TaskState.SCHEDULED]


def _ready(made: Mapping[int, runs.NewRun], instances: Mapping[tuple[int, int], int]) -> list[Ready]:
    found = []
    for run_pk, run in made.items():
        for i in _first(run):
            task, key = run.graph.tasks[i], instances[run_pk, i]
            order = precedence(task, run.logical_date or run.run_after, i, key)
            found.append(
                Ready(key=key, run_pk=run_pk, pool=task.pool, pool_slots=task.pool_slots, precedence=order, index=i)
            )
    return found


def _admittee(one: Ready, run: runs.NewRun) -> Admittee:
    assert one.index is not None
    retries = run.graph.tasks[one.index].retry.retries
    return Admittee(key=one.key, run_pk=one.run_pk, task_index=one.index, try_number=1, max_tries=retries, losses=0)


async def _announce(tx: Transaction, made: Mapping[int, runs.NewRun]) -> None:
    started = {key: run for key, run in made.items() if run.starts}
    entries: list[events.Entry] = [
        (run_pk, None, EventKind.RUN, tx.now) for run_pk, run in started.items() if not run.first
    ]
    entries += [
        (run_pk, None, EventKind.TIMEOUT, due_at)
        for run_pk, due_at in runs.timers([(run_pk, run.graph) for run_pk, run in started.items()], tx.now)
    ]
    await events.append(tx, entries)
    if len(started) < len(made):
        tx.announce(Topic.RUN_QUEUED)
