"""The one transaction that moves runs on: ends attempts, judges their runs, gives slots to what waits for one.

record_outcomes takes it for successes of attempts that this daemon handed over; every run that it cannot take along
(held by somebody else, changed by another daemon, paused, with events to be judged) goes the long way: end the
attempt, leave an event, schedule_tasks, enqueue_tasks. enqueue_tasks takes it without any successes, to admit.

Slots go to scheduled tasks by priority, whether they have waited or have just become ready. `Look`: those who wait
are looked at, too; without it (nobody waits, as far as the daemon knows) slots go to what has just become ready, and
if somebody waits after all, to nobody: so no priority is jumped.

What follows from the successes is planned before (procedures/turn.py). Nothing is written of a run whose `seq`, or
whose rows, are not as planned.

Locks: DAG_RUN (skipping), POOL (skipping for record_outcomes; not at all where no more slots are taken than come back),
TASK_INSTANCE. Without `Look` it is known before which instances it is about: they are locked, then all is read by
one statement and written by another. With it, use is read first, for it decides who of those who wait is locked.
"""

from collections.abc import Collection, Mapping, Sequence

from attrs import field, frozen

from scheduler.executors.base import Berth
from scheduler.model import AttemptState, Task, TaskState
from scheduler.model.facts import FactKind
from scheduler.procedures.granting import NOBODY, Ready, decide, precedence
from scheduler.procedures.pictures import Known, Pictures, cards_of
from scheduler.procedures.placement import Admittee, Place, Placed, prepare_attempts
from scheduler.procedures.settle import Verdict, judge_reports, tell
from scheduler.procedures.turn import Turn
from scheduler.store import attempts, pools, runs, tasks, usage
from scheduler.store.attempts import Hop
from scheduler.store.documents import Graphs
from scheduler.store.locks import Lock
from scheduler.store.pools import EVERYTHING
from scheduler.store.topics import Topic
from scheduler.store.writer import Row, Transaction

PAGE = 500
"""Waiting tasks looked at in one transaction, at most."""
BEYOND = 100
"""How many more than there are slots for: some will be passed over, for their run or their pool is full."""


@frozen(kw_only=True)
class Look:
    """Look at those who wait, past the runs and pools that are known to be full."""

    full_runs: Collection[int] = ()
    full_pools: Collection[str] = ()


@frozen(kw_only=True)
class Advanced:
    """What the transaction did."""

    answers: Mapping[str, Verdict] = field(factory=dict)
    """Of the outcomes that were settled; the others go the long way."""
    placed: Placed = Placed()
    pictures: Mapping[int, Known] = field(factory=dict)
    finished: frozenset[int] = frozenset()
    stale: frozenset[int] = frozenset()
    """Runs that are not as this daemon remembers them."""
    page_is_full: bool = False
    """More may wait than were looked at."""
    passed_over: bool = False
    """Somebody was left waiting, for a slot or because his run was held."""
    skipped: bool = False
    """Some runs were held by somebody else: come back soon."""
    looked_at_all: bool = False
    """Nobody waits but those that were looked at, and none of them was skipped."""
    full_runs: frozenset[int] = frozenset()
    full_pools: frozenset[str] = frozenset()


async def advance(
    tx: Transaction,
    graphs: Graphs,
    pictures: Pictures,
    turn: Turn,
    where: Place,
    slots: int,
    berths: Sequence[Berth],
    look: Look | None,
    *,
    waits: bool = False,
) -> Advanced:
    """End the attempts of this turn, judge their runs, and admit up to `slots` tasks, started where a berth is.

    `waits`: for the pools, if somebody holds them.
    """
    page = min(PAGE, slots + BEYOND)
    waiting = await _waiting(tx, look, page) if look is not None and slots > 0 else []
    wanted = turn.plans.keys() | {one.run_pk for one in waiting}
    if not wanted:
        return Advanced(looked_at_all=look is not None and slots > 0)
    held = await tx.lock(runs.CLAIM_RUNNING, keys=sorted(wanted))
    turn = turn.of([key for key in held if key in turn.plans])
    names: set[str] = set()
    if slots > 0:
        names = {turn.graph(key).tasks[i].pool for key, i in turn.ready()} | {one.pool for one in waiting}
    counted = await _lock_pools(tx, turn, names, look, waits=waits) if names else False
    rows: Mapping[int, Row] = {}
    if look is None:
        await tx.lock(tasks.LOCK_KEYS, keys=sorted(turn.instances()))
        use, rows = await usage.in_use_and_held(tx, held, names, tx.held.of(Lock.TASK_INSTANCE))
    else:
        use = await usage.in_use(tx, held, names)
    stale = {key for key in turn.plans if key not in use.runs or use.runs[key].seq != turn.known[key].seq}
    if look is None:
        stale |= _unlike(turn, rows)
    turn = turn.of([key for key in turn.plans if key not in stale and not use.runs[key].hindered])
    cards = await cards_of(tx, pictures, {key: one.seq for key, one in use.runs.items()})
    known = await graphs.load(tx, {card["version_id"] for card in cards.values()})
    of_run = {key: known[card["version_id"]] for key, card in cards.items()}
    ready = sorted([*waiting, *_just_ready(turn)], key=lambda one: one.precedence)
    decision = NOBODY
    if not use.somebody_waits or look is not None:
        decision = decide(ready, of_run, use, slots, ending=_ending(turn), counted=counted)
    chosen = set(decision.admitted)
    if look is not None:
        await tx.lock(tasks.LOCK_KEYS, keys=sorted(turn.instances() | chosen))
        rows = await tasks.held(tx, tx.held.of(Lock.TASK_INSTANCE))
        if unlike := _unlike(turn, rows):
            stale |= unlike
            turn = turn.of([key for key in turn.plans if key not in unlike])
            # what was to come back from them does not: decide again, among those that are locked
            ready = [one for one in ready if one.index is None or one.run_pk in turn.plans]
            decision = decide(ready, of_run, use, slots, ending=_ending(turn), counted=counted)
            chosen &= set(decision.admitted)
    states = turn.changes()
    admittees = _admittees(ready, chosen, rows, states)
    admitted = {one.key for one in admittees}
    settled = judge_reports(list(turn.outcomes.values()), _attempts(turn, rows), known, tx.now)
    prepared = await prepare_attempts(tx, admittees, cards, of_run, where, berths, fresh=turn.results())
    ends = {key: made.run_state for key, made in turn.plans.items()}
    await attempts.hop(
        tx,
        Hop(
            runs=ends,
            ends=[end for _, end in settled.ends],
            changes={key: state for key, state in states.items() if key not in admitted},
            claims=prepared.claims,
        ),
        daemon=where.daemon,
    )
    tell(tx, settled)
    _tell(tx, turn)
    left = [one for one in ready if one.key not in admitted]
    if any(one.index is not None for one in left) if look is None else left and not counted:
        tx.announce(Topic.TASK_SCHEDULED)  # nobody may know of them, or there are free slots that were not counted
    return Advanced(
        answers=settled.answers,
        placed=prepared.placed,
        pictures={
            **{key: Known(seq=use.runs[key].seq, card=card) for key, card in cards.items()},
            **{
                key: Known(seq=turn.known[key].seq + 1, picture=made.picture, card=turn.known[key].card)
                for key, made in turn.plans.items()
            },
        },
        finished=frozenset(key for key, state in ends.items() if state is not None),
        stale=frozenset(stale),
        page_is_full=len(waiting) == page,
        passed_over=len(admitted) < len(ready),
        skipped=len(held) < len(wanted),
        looked_at_all=look is not None and slots > 0 and len(waiting) < page and len(held) == len(wanted),
        full_runs=decision.full_runs,
        full_pools=decision.full_pools | (names - use.pools.keys()),
    )


async def _lock_pools(tx: Transaction, turn: Turn, names: Collection[str], look: Look | None, *, waits: bool) -> bool:
    """Lock the owners of the limits, if slots may be taken beyond those that come back; are they held?

    If not: somebody else gives slots away at this moment, and whoever has attempts to end does not wait for him. He
    passes on what comes back; what finds no slot among that is left to enqueue_tasks, which waits, and takes all that
    has gathered by then.
    """
    keys = sorted({*names, EVERYTHING})
    if waits:
        await tx.lock(pools.LOCK_NAMED, names=keys)
        return True
    if look is None and turn.takes_no_more_than_it_gives():
        return False
    return len(await tx.lock(pools.CLAIM_NAMED, names=keys)) == len(keys)


async def _waiting(tx: Transaction, look: Look, at_most: int) -> list[Ready]:
    rows = await tasks.ready(tx, full_runs=look.full_runs, full_pools=look.full_pools, at_most=at_most)
    return [
        Ready(
            key=row["id"],
            run_pk=row["run_pk"],
            pool=row["pool"],
            pool_slots=row["pool_slots"],
            precedence=(-row["priority"], row["ready_order"], row["task_index"], row["id"]),
        )
        for row in rows
    ]


def _just_ready(turn: Turn) -> list[Ready]:
    found = []
    for run_pk, i in turn.ready():
        task, card, key = turn.graph(run_pk).tasks[i], turn.card(run_pk), turn.key(run_pk, i)
        found.append(
            Ready(
                key=key,
                run_pk=run_pk,
                pool=task.pool,
                pool_slots=task.pool_slots,
                precedence=precedence(task, card["logical_date"] or card["run_after"], i, key),
                index=i,
            )
        )
    return found


def _ending(turn: Turn) -> list[tuple[int, Task]]:
    return [(one.run_pk, turn.graph(one.run_pk).tasks[one.task_index]) for one in turn.whereabouts.values()]


def _admittees(
    ready: Sequence[Ready], chosen: Collection[int], rows: Mapping[int, Row], states: Mapping[int, TaskState]
) -> list[Admittee]:
    """Those chosen that are, read under their locks, still scheduled, or about to be by this very transaction."""
    found = []
    for one in ready:
        if one.key not in chosen:
            continue
        row = rows.get(one.key)
        fresh = one.index is not None
        if row is None or (one.key not in states if fresh else row["state"] != TaskState.SCHEDULED):
            continue
        found.append(
            Admittee(
                key=one.key,
                run_pk=one.run_pk,
                task_index=row["task_index"],
                try_number=row["try_number"] + fresh,  # a task that has waited has its number already
                max_tries=row["max_tries"],
                losses=row["losses"],
                map_index=row["map_index"],
            )
        )
    return found


def _unlike(turn: Turn, rows: Mapping[int, Row]) -> set[int]:
    """Runs of which some row, read under its lock, is not as planned: attempts run with live tokens, and the rest
    may still be judged."""
    bad = set()
    for token, one in turn.whereabouts.items():
        row = rows.get(one.key)
        if row is None or str(row["token"]) != token or not _runs_on(row):
            bad.add(one.run_pk)
    for key, made in turn.plans.items():
        for i in made.changes:
            row = rows.get(made.picture.keys[i])
            if row is None or row["state"] not in attempts.JUDGEABLE:
                bad.add(key)
    return bad


def _runs_on(row: Row) -> bool:
    """Started, not cleared, not marked."""
    return row["state"] == TaskState.RUNNING and row["attempt_state"] == AttemptState.RUNNING and row["imposed"] is None


def _attempts(turn: Turn, rows: Mapping[int, Row]) -> dict[str, Row]:
    """As `attempts.by_token` would read them."""
    return {
        token: {
            **rows[one.key],
            "ti_id": one.key,
            "live": True,
            "verdict": None,
            "version_id": card["version_id"],
            "dag_id": card["dag_id"],
            "run_id": card["run_id"],
        }
        for token, one in turn.whereabouts.items()
        for card in (turn.card(one.run_pk),)
    }


def _tell(tx: Transaction, turn: Turn) -> None:
    for key, made in turn.plans.items():
        if made.run_state is not None:
            card = turn.card(key)
            tx.announce(Topic.RUN_FINISHED)
            tx.tell(
                FactKind.RUN_FINISHED,
                dag_id=card["dag_id"],
                run_id=card["run_id"],
                state=str(made.run_state),
                seconds=(tx.now - card["start_date"]).total_seconds(),
                reason=made.reason,
            )
