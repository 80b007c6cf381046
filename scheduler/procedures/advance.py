"""The short way from the end of a task to the queueing of those below it: one transaction instead of three.

record_outcomes takes it for successes whose runs it can lock at once; everything else goes the long way (end the
attempt, leave an event, schedule_tasks, enqueue_tasks), and so does this if what it expected is not what it finds
under the locks. The decisions are the same functions; nothing is decided here that they would decide otherwise:
tasks are queued at once only when nobody at all waits for a slot, so no priority is jumped.

Locks: DAG_RUN (skipping), POOL, TASK_INSTANCE. The plan is made before the instances are locked, from facts that
cannot change meanwhile (the picture, under the run's lock), and is written only if all of them are found as planned.
"""

from collections.abc import Mapping, Sequence

from attrs import field, frozen

from scheduler.decisions.admission import Candidate, Room, admit, free
from scheduler.decisions.graph import Graph
from scheduler.decisions.readiness import Picture, Plan, Seen, plan
from scheduler.model import Outcome, OutcomeKind, TaskState, Workload
from scheduler.model.facts import FactKind
from scheduler.procedures.pictures import Pictures
from scheduler.procedures.placement import Admittee, Place, place
from scheduler.procedures.settle import Verdict, settle
from scheduler.store import pools, runs, tasks
from scheduler.store.documents import Graphs
from scheduler.store.pools import EVERYTHING
from scheduler.store.topics import Topic
from scheduler.store.writer import Row, Transaction


@frozen(kw_only=True)
class Whereabouts:
    """What the daemon remembers of an attempt that it handed over: facts that never change."""

    run_pk: int
    key: int
    task_index: int


@frozen(kw_only=True)
class Advanced:
    """What the transaction did. `answers` is None: nothing, go the long way."""

    answers: Mapping[str, Verdict] | None = None
    workloads: tuple[Workload, ...] = ()
    whereabouts: Mapping[str, Whereabouts] = field(factory=dict)
    pictures: Mapping[int, tuple[int, Picture]] = field(factory=dict)
    finished: frozenset[int] = frozenset()


LONG_WAY = Advanced()


async def advance(
    tx: Transaction,
    graphs: Graphs,
    pictures: Pictures,
    where: Place,
    slots: int,
    outcomes: Mapping[str, Outcome],
    known: Mapping[str, Whereabouts],
) -> Advanced:
    """End these attempts, judge their runs, queue what has become ready. All are successes, and all are `known`."""
    wanted = {known[token].run_pk for token in outcomes}
    held = await tx.lock(runs.CLAIM_RUNNING, keys=sorted(wanted))
    if len(held) < len(wanted):
        return LONG_WAY
    facts = await tasks.run_facts(tx, held)
    if len(facts) < len(held) or any(row["is_paused"] or row["has_events"] for row in facts.values()):
        return LONG_WAY
    loaded = await graphs.load(tx, {row["version_id"] for row in facts.values()})
    of_run = {key: loaded[row["version_id"]] for key, row in facts.items()}
    plans = await _plan(tx, pictures, facts, of_run, outcomes, known)
    ready = [
        (key, i) for key, made in plans.items() for i, state in made.changes.items() if state is TaskState.SCHEDULED
    ]
    chosen = await _choose(tx, facts, of_run, ready, slots, [known[token] for token in outcomes])
    changed = {plans[key].picture.keys[i]: state for key, made in plans.items() for i, state in made.changes.items()}
    ending = {known[token].key for token in outcomes}
    locked = await tx.lock(tasks.LOCK_KEYS, keys=sorted(ending | changed.keys()))
    attempts = await tasks.by_token(tx, outcomes)
    instances = await tasks.admitted(tx, changed) if changed else {}
    if len(locked) < len(ending) + len(changed) or not _is_as_planned(outcomes, attempts, instances):
        pictures.clear()
        return LONG_WAY
    answers = await settle(tx, graphs, list(outcomes.values()), rows=attempts, judged=True)
    workloads = await _write(tx, facts, of_run, plans, chosen, changed, instances, where)
    ends = {key: made.run_state for key, made in plans.items()}
    await runs.advance(tx, ends)
    _tell(tx, facts, plans)
    if len(ready) > len(chosen):
        tx.announce(Topic.TASK_SCHEDULED)
    return Advanced(
        answers=answers,
        workloads=tuple(workload for workload, _ in workloads.values()),
        whereabouts={
            workload.token: Whereabouts(run_pk=key, key=claim_key, task_index=i)
            for (key, i), (workload, claim_key) in workloads.items()
        },
        pictures={key: (facts[key]["seq"] + 1, made.picture) for key, made in plans.items() if not made.run_state},
        finished=frozenset(key for key, state in ends.items() if state is not None),
    )


def may_advance(outcome: Outcome, known: Mapping[str, Whereabouts]) -> bool:
    """Is this one for the short way?"""
    return outcome.kind is OutcomeKind.SUCCESS and outcome.token in known


async def _plan(
    tx: Transaction,
    pictures: Pictures,
    facts: Mapping[int, Row],
    of_run: Mapping[int, Graph],
    outcomes: Mapping[str, Outcome],
    known: Mapping[str, Whereabouts],
) -> dict[int, Plan]:
    good = {key: pictures.get(key, row["seq"]) for key, row in facts.items()}
    unknown = [key for key, picture in good.items() if picture is None]
    fresh = await tasks.of_runs(tx, unknown) if unknown else {}
    plans = {}
    for key in facts:
        picture = good[key] or Picture.of(of_run[key], fresh[key])
        changes = [
            Seen(index=known[token].task_index, state=TaskState.SUCCESS, decision=outcome.decision)
            for token, outcome in outcomes.items()
            if known[token].run_pk == key
        ]
        plans[key] = plan(picture, changes, now=tx.now)
    return plans


async def _choose(
    tx: Transaction,
    facts: Mapping[int, Row],
    of_run: Mapping[int, Graph],
    ready: Sequence[tuple[int, int]],
    slots: int,
    ending: Sequence[Whereabouts],
) -> set[tuple[int, int]]:
    """Which of the ready tasks are queued now: as many as every limit allows, if nobody else waits."""
    if not ready or slots <= 0:
        return set()
    names = {of_run[key].tasks[i].pool for key, i in ready}
    await tx.lock(pools.LOCK_NAMED, names=sorted(names | {EVERYTHING}))
    use = await pools.use(tx, names)
    if any(row["somebody_waits"] for row in use):
        return set()
    # what ends in this transaction gives its slots back in it
    freed: dict[str, int] = {EVERYTHING: len(ending)}
    for one in ending:
        task = of_run[one.run_pk].tasks[one.task_index]
        freed[task.pool] = freed.get(task.pool, 0) + task.pool_slots
    left = {row["name"]: free(row["slots"], int(row["used"]) - freed.get(row["name"], 0)) for row in use}
    total = left.pop(EVERYTHING)
    in_run = {key: row["active"] - sum(1 for one in ending if one.run_pk == key) for key, row in facts.items()}
    decision = admit(
        [
            Candidate(key=n, run_pk=key, pool=task.pool, pool_slots=task.pool_slots)
            for n, (key, i) in _by_priority(ready, facts, of_run)
            for task in (of_run[key].tasks[i],)
        ],
        Room(
            total=slots if total < 0 else min(slots, total),
            runs={key: max(0, of_run[key].dag.max_active_tasks - active) for key, active in in_run.items()},
            pools=left,
        ),
    )
    return {ready[n] for n in decision.admitted}


def _by_priority(
    ready: Sequence[tuple[int, int]], facts: Mapping[int, Row], of_run: Mapping[int, Graph]
) -> list[tuple[int, tuple[int, int]]]:
    """(position in `ready`, (run key, task position)) in the order of admission."""

    def order(item: tuple[int, tuple[int, int]]) -> tuple[int, object, int, int]:
        _, (key, i) = item
        row = facts[key]
        return -of_run[key].tasks[i].priority_weight, row["logical_date"] or row["run_after"], i, key

    return sorted(enumerate(ready), key=order)


def _is_as_planned(outcomes: Mapping[str, Outcome], attempts: Mapping[str, Row], instances: Mapping[int, Row]) -> bool:
    """As read under the locks: the attempts run with live tokens, and the rest may still be judged."""
    alive = all(
        row["live"] and row["state"] == row["attempt_state"] == TaskState.RUNNING and row["imposed"] is None
        for row in attempts.values()
    )
    return (
        len(attempts) == len(outcomes) and alive and all(row["state"] in tasks.JUDGEABLE for row in instances.values())
    )


async def _write(
    tx: Transaction,
    facts: Mapping[int, Row],
    of_run: Mapping[int, Graph],
    plans: Mapping[int, Plan],
    chosen: set[tuple[int, int]],
    changed: Mapping[int, TaskState],
    instances: Mapping[int, Row],
    where: Place,
) -> dict[tuple[int, int], tuple[Workload, int]]:
    keys = {place_: plans[place_[0]].picture.keys[place_[1]] for place_ in chosen}
    queued_now = set(keys.values())
    await tasks.schedule(tx, {key: state for key, state in changed.items() if key not in queued_now})
    made = {}
    claims = []
    for (run_pk, i), key in keys.items():
        row = instances[key]
        admittee = Admittee(key=key, task_index=i, try_number=row["try_number"] + 1, max_tries=row["max_tries"])
        workload, claim = place(admittee, facts[run_pk], of_run[run_pk], where)
        made[run_pk, i] = (workload, key)
        claims.append(claim)
    if claims:
        await tasks.admit(tx, claims, daemon=where.daemon, fresh=True)
    return made


def _tell(tx: Transaction, facts: Mapping[int, Row], plans: Mapping[int, Plan]) -> None:
    for key, made in plans.items():
        if made.run_state is not None:
            row = facts[key]
            tx.announce(Topic.RUN_FINISHED)
            tx.tell(
                FactKind.RUN_FINISHED,
                dag_id=row["dag_id"],
                run_id=row["run_id"],
                state=str(made.run_state),
                seconds=(tx.now - row["start_date"]).total_seconds(),
                reason=made.reason,
            )
