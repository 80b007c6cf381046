"""What should follow from successes, planned before the transaction that carries it out.

A turn is made from what the daemon remembers of the runs, so that it is known which pools must be locked. It is good
for a run if the run's `seq`, read under its lock, is the one that it was planned for.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from attrs import evolve, field, frozen

from scheduler.decisions.graph import Graph
from scheduler.decisions.readiness import Plan, Seen, plan
from scheduler.model import Outcome, OutcomeKind, TaskState
from scheduler.procedures.pictures import Known, Pictures
from scheduler.procedures.placement import Whereabouts
from scheduler.store.writer import Row

_RETRIES_LEFT_TO_THEIR_TIMERS = datetime.min.replace(tzinfo=UTC)


@frozen(kw_only=True)
class Turn:
    """Successes of attempts that this daemon handed over, and what should follow from them."""

    outcomes: Mapping[str, Outcome] = field(factory=dict)
    """By token."""
    whereabouts: Mapping[str, Whereabouts] = field(factory=dict)
    """Of these tokens."""
    plans: Mapping[int, Plan] = field(factory=dict)
    """By run."""
    known: Mapping[int, Known] = field(factory=dict)
    """What each plan was made from."""

    def of(self, run_pks: Iterable[int]) -> "Turn":
        """The part that is about these runs."""
        plans = {key: self.plans[key] for key in run_pks}
        if len(plans) == len(self.plans):
            return self
        tokens = [token for token, one in self.whereabouts.items() if one.run_pk in plans]
        return evolve(
            self,
            outcomes={token: self.outcomes[token] for token in tokens},
            whereabouts={token: self.whereabouts[token] for token in tokens},
            plans=plans,
        )

    def ready(self) -> list[tuple[int, int]]:
        """(run key, task position) of what has become ready."""
        return [
            (key, i)
            for key, made in self.plans.items()
            for i, state in made.changes.items()
            if state is TaskState.SCHEDULED
        ]

    def changes(self) -> dict[int, TaskState]:
        """The new states of instances, by key."""
        return {made.picture.keys[i]: state for made in self.plans.values() for i, state in made.changes.items()}

    def instances(self) -> set[int]:
        """Keys of all instances that it is about."""
        return {one.key for one in self.whereabouts.values()} | self.changes().keys()

    def results(self) -> dict[tuple[int, int], str | None]:
        """What the successes returned, as JSON, by (run key, task position)."""
        return {(one.run_pk, one.task_index): self.outcomes[token].result for token, one in self.whereabouts.items()}

    def takes_no_more_than_it_gives(self) -> bool:
        """In each run, what has become ready needs no more slots of any pool, and of all, than the ended give back."""
        balance: Counter[tuple[int, str | None]] = Counter()
        for one in self.whereabouts.values():
            task = self.graph(one.run_pk).tasks[one.task_index]
            balance[one.run_pk, None] += 1
            balance[one.run_pk, task.pool] += task.pool_slots
        for key, i in self.ready():
            task = self.graph(key).tasks[i]
            balance[key, None] -= 1
            balance[key, task.pool] -= task.pool_slots
        return all(left >= 0 for left in balance.values())

    def graph(self, run_pk: int) -> Graph:
        return self.plans[run_pk].picture.graph

    def key(self, run_pk: int, i: int) -> int:
        """Of the instance at a task's position."""
        return self.plans[run_pk].picture.keys[i]

    def card(self, run_pk: int) -> Row:
        card = self.known[run_pk].card
        assert card is not None, "planned from it"
        return card


def may_advance(outcome: Outcome, known: Mapping[str, Whereabouts]) -> bool:
    """Is this one for the short way?"""
    return outcome.kind is OutcomeKind.SUCCESS and outcome.token in known


def prepare(pictures: Pictures, outcomes: Mapping[str, Outcome], known: Mapping[str, Whereabouts]) -> Turn:
    """Plan what follows from these successes, run by run, for the runs of which enough is remembered."""
    ended: dict[int, list[str]] = {}
    for token in outcomes:
        ended.setdefault(known[token].run_pk, []).append(token)
    plans, remembered = {}, {}
    for run_pk, tokens in ended.items():
        memory = pictures.latest(run_pk)
        if memory is None or memory.picture is None or memory.card is None:
            continue
        remembered[run_pk] = memory
        successes = [
            Seen(index=known[token].task_index, state=TaskState.SUCCESS, decision=outcomes[token].decision)
            for token in tokens
        ]
        plans[run_pk] = plan(memory.picture, successes, now=_RETRIES_LEFT_TO_THEIR_TIMERS)
    planned = {token: known[token] for token in outcomes if known[token].run_pk in plans}
    return Turn(
        outcomes={token: outcomes[token] for token in planned}, whereabouts=planned, plans=plans, known=remembered
    )


def unknown(pictures: Pictures, outcomes: Iterable[str], known: Mapping[str, Whereabouts]) -> set[int]:
    """Runs of these tokens of which too little is remembered to plan."""
    latest = {run_pk: pictures.latest(run_pk) for run_pk in {known[token].run_pk for token in outcomes}}
    return {key for key, memory in latest.items() if memory is None or memory.picture is None or memory.card is None}
