"""Who gets a slot in a transaction that moves runs on: instances locked, everything read, one decision.

Lock: TASK_INSTANCE. Without `Look` it is known before which instances it is about: they are locked, and all is read by
one statement. With it, use is read first, for it decides who of those who wait is locked.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from attrs import evolve, frozen

from scheduler.decisions.admission import Admission
from scheduler.model import AttemptState, Task, TaskState
from scheduler.procedures.claiming import Claimed
from scheduler.procedures.granting import NOBODY, Ready, decide, precedence
from scheduler.procedures.pictures import Pictures, cards_of
from scheduler.procedures.placement import Papers
from scheduler.procedures.turn import Turn
from scheduler.store import attempts, tasks, usage
from scheduler.store.documents import Graphs
from scheduler.store.locks import Lock
from scheduler.store.usage import Usage
from scheduler.store.writer import Row, Transaction


@frozen(kw_only=True)
class Granted:
    """Who gets a slot, with every instance that is written locked."""

    turn: Turn
    """Of the runs that are as planned."""
    use: Usage
    papers: Papers
    ready: Sequence[Ready]
    """Who might have got a slot, in the order of admission."""
    decision: Admission
    rows: Mapping[int, Row]
    """The locked instances as they are, by key; rows of `tasks.held`."""
    stale: Collection[int]
    """Runs that are not as planned."""


async def grant_to_known(tx: Transaction, graphs: Graphs, pictures: Pictures, claimed: Claimed, slots: int) -> Granted:
    """Without `Look`: it is known which instances it is about, so all is locked and read before one decision."""
    await tx.lock(tasks.LOCK_KEYS, keys=sorted(claimed.turn.instances()))
    use, rows = await usage.in_use_and_held(tx, claimed.runs, claimed.pools, tx.held.of(Lock.TASK_INSTANCE))
    stale = _outdated(claimed.turn, use) | _unlike(claimed.turn, rows)
    turn = _moving(claimed.turn, use, stale)
    papers = await _papers(tx, graphs, pictures, use)
    ready = _in_order(_just_ready(turn))
    decision = NOBODY
    if not use.somebody_waits:
        decision = decide(ready, papers.graphs, use, slots, ending=_ending(turn), counted=claimed.counted)
    return Granted(turn=turn, use=use, papers=papers, ready=ready, decision=decision, rows=rows, stale=stale)


async def grant_to_all(tx: Transaction, graphs: Graphs, pictures: Pictures, claimed: Claimed, slots: int) -> Granted:
    """With `Look`: use decides which of those who wait are locked. What the locked rows then say may be less."""
    use = await usage.in_use(tx, claimed.runs, claimed.pools)
    stale = _outdated(claimed.turn, use)
    turn = _moving(claimed.turn, use, stale)
    papers = await _papers(tx, graphs, pictures, use)
    ready = _in_order([*claimed.waiting, *_just_ready(turn)])
    decision = decide(ready, papers.graphs, use, slots, ending=_ending(turn), counted=claimed.counted)
    await tx.lock(tasks.LOCK_KEYS, keys=sorted(turn.instances() | set(decision.admitted)))
    rows = await tasks.held(tx, tx.held.of(Lock.TASK_INSTANCE))
    if unlike := _unlike(turn, rows):
        stale |= unlike
        turn = turn.of([key for key in turn.plans if key not in unlike])
        # the slots that were to come back from them do not: decide again, and keep to those that are locked
        ready = [one for one in ready if one.index is None or one.run_pk in turn.plans]
        again = decide(ready, papers.graphs, use, slots, ending=_ending(turn), counted=claimed.counted)
        locked = set(decision.admitted)
        decision = evolve(again, admitted=tuple(key for key in again.admitted if key in locked))
    return Granted(turn=turn, use=use, papers=papers, ready=ready, decision=decision, rows=rows, stale=stale)


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


def _in_order(ready: Iterable[Ready]) -> list[Ready]:
    return sorted(ready, key=lambda one: one.precedence)


def _ending(turn: Turn) -> list[tuple[int, Task]]:
    return [(one.run_pk, turn.graph(one.run_pk).tasks[one.task_index]) for one in turn.whereabouts.values()]


def _outdated(turn: Turn, use: Usage) -> set[int]:
    """Runs that have ended or moved on since they were planned."""
    return {key for key in turn.plans if key not in use.runs or use.runs[key].seq != turn.known[key].seq}


def _moving(turn: Turn, use: Usage, stale: Collection[int]) -> Turn:
    """The part that may go the short way."""
    return turn.of([key for key in turn.plans if key not in stale and not use.runs[key].hindered])


async def _papers(tx: Transaction, graphs: Graphs, pictures: Pictures, use: Usage) -> Papers:
    cards = await cards_of(tx, pictures, {key: one.seq for key, one in use.runs.items()})
    known = await graphs.load(tx, {card["version_id"] for card in cards.values()})
    return Papers(cards=cards, graphs={key: known[card["version_id"]] for key, card in cards.items()})


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
