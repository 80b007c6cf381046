"""The one transaction that moves runs on: ends attempts, judges their runs, gives slots to what waits for one.

record_outcomes takes it for successes of attempts that this daemon handed over; every run that it cannot take along
(held by somebody else, changed by another daemon, paused, with events to be judged) goes the long way: end the
attempt, leave an event, schedule_tasks, enqueue_tasks. enqueue_tasks takes it without any successes, to admit.

Slots go to scheduled tasks by priority, whether they have waited or have just become ready. `Look`: those who wait
are looked at, too; without it (nobody waits, as far as the daemon knows) slots go to what has just become ready, and
if somebody waits after all, to nobody: so no priority is jumped.

What follows from the successes is planned before (procedures/turn.py). Nothing is written of a run whose `seq`, or
whose rows, are not as planned.

Three steps: claim (procedures/claiming.py: DAG_RUN, POOL), grant (procedures/grants.py: TASK_INSTANCE, reads, the
decision), and here the writing of what is held by then, in one statement.
"""

from collections.abc import Collection, Mapping, Sequence

from attrs import field, frozen

from scheduler.model import TaskState
from scheduler.model.facts import FactKind
from scheduler.procedures.claiming import Look, claim
from scheduler.procedures.granting import Ready
from scheduler.procedures.grants import Granted, grant_to_all, grant_to_known
from scheduler.procedures.pictures import Known, Pictures
from scheduler.procedures.placement import Admittee, Capacity, Placed, prepare_attempts
from scheduler.procedures.settle import Verdict, judge_reports, tell
from scheduler.procedures.turn import Turn
from scheduler.store import attempts
from scheduler.store.attempts import Hop
from scheduler.store.documents import Graphs
from scheduler.store.topics import Topic
from scheduler.store.writer import Row, Transaction


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
    capacity: Capacity,
    look: Look | None,
    *,
    waits: bool = False,
) -> Advanced:
    """End the attempts of this turn, judge their runs, and admit as many tasks as there is capacity for.

    `waits`: for the pools, if somebody holds them.
    """
    looks = look is not None and capacity.slots > 0
    claimed = await claim(tx, turn, look, slots=capacity.slots, waits=waits)
    if not claimed.wanted:
        return Advanced(looked_at_all=looks)
    grant = grant_to_known if look is None else grant_to_all
    granted = await grant(tx, graphs, pictures, claimed, capacity.slots)
    answers, placed, passed_over = await _write(tx, granted, capacity)
    left = [one for one in granted.ready if one.key in passed_over]
    if any(one.index is not None for one in left) if look is None else left and not claimed.counted:
        tx.announce(Topic.TASK_SCHEDULED)  # nobody may know of them, or there are free slots that were not counted
    skipped = len(claimed.runs) < claimed.wanted
    plans = granted.turn.plans
    return Advanced(
        answers=answers,
        placed=placed,
        pictures=_remembered(granted),
        finished=frozenset(key for key, made in plans.items() if made.run_state is not None),
        stale=frozenset(granted.stale),
        page_is_full=claimed.page_is_full,
        passed_over=bool(left),
        skipped=skipped,
        looked_at_all=looks and not claimed.page_is_full and not skipped,
        full_runs=granted.decision.full_runs,
        full_pools=granted.decision.full_pools | (claimed.pools - granted.use.pools.keys()),
    )


async def _write(
    tx: Transaction, granted: Granted, capacity: Capacity
) -> tuple[Mapping[str, Verdict], Placed, set[int]]:
    """Write what has been decided; return the answers to reports, what is handed over, and who got no slot."""
    turn, rows = granted.turn, granted.rows
    states = turn.changes()
    admittees = _admittees(granted.ready, set(granted.decision.admitted), rows, states)
    admitted = {one.key for one in admittees}
    known = {card["version_id"]: granted.papers.graphs[key] for key, card in granted.papers.cards.items()}
    settled = judge_reports(list(turn.outcomes.values()), _attempts(turn, rows), known, tx.now)
    prepared = await prepare_attempts(tx, admittees, granted.papers, capacity, fresh=turn.results())
    await attempts.hop(
        tx,
        Hop(
            runs={key: made.run_state for key, made in turn.plans.items()},
            ends=[end for _, end in settled.ends],
            changes={key: state for key, state in states.items() if key not in admitted},
            claims=prepared.claims,
        ),
        daemon=capacity.where.daemon,
    )
    tell(tx, settled)
    _tell(tx, turn)
    return settled.answers, prepared.placed, {one.key for one in granted.ready} - admitted


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


def _remembered(granted: Granted) -> dict[int, Known]:
    """Of all runs the cards, of those that have moved the new pictures."""
    use, turn = granted.use, granted.turn
    return {
        **{key: Known(seq=use.runs[key].seq, card=card) for key, card in granted.papers.cards.items()},
        **{
            key: Known(seq=turn.known[key].seq + 1, picture=made.picture, card=turn.known[key].card)
            for key, made in turn.plans.items()
        },
    }


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
