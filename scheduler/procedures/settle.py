"""End attempts: judge what is said of each and write the consequence, fenced by its claim token.

Called with the tokens' instances locked. A report is accepted once; the same report again is accepted again and
changes nothing; any other, or one about an attempt that is history, is refused. Whatever is said of an attempt is
settled after this: the reporter may forget it.

What is said of an attempt that was cleared or marked while it ran is refused, whatever it is. It proves that the
attempt has ended, and that is what its instance waits for.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import msgspec
from attrs import frozen

from scheduler.decisions.clearing import after_stop
from scheduler.decisions.graph import Graph
from scheduler.decisions.outcomes import Try, consequence
from scheduler.model import FINISHED, AttemptState, Outcome, OutcomeKind, Task, TaskState
from scheduler.model.facts import FactKind
from scheduler.store import attempts, clearing, events
from scheduler.store.documents import Graphs
from scheduler.store.events import EventKind
from scheduler.store.topics import Topic
from scheduler.store.writer import Row, Transaction

LIVE = (AttemptState.QUEUED, AttemptState.RUNNING)
SHUTDOWN = "shutdown"


class Verdict(StrEnum):
    """What became of a report."""

    ACCEPTED = "accepted"
    REPEATED = "repeated"
    REFUSED = "refused"


def digest(outcome: Outcome) -> str:
    """Two reports with the same digest say the same."""
    return hashlib.sha256(msgspec.json.encode(outcome, order="deterministic")).hexdigest()


@frozen(kw_only=True)
class Settled:
    """What is made of reports, before any of it is written."""

    answers: Mapping[str, Verdict]
    """By token, of every report."""
    ends: Sequence[tuple[Row, attempts.End]] = ()
    """Attempts that end, with their rows."""
    unwanted: Sequence[tuple[Row, Outcome]] = ()
    """Of attempts whose task was cleared or marked meanwhile."""


def judge_reports(
    outcomes: Sequence[Outcome], rows: Mapping[str, Row], graphs: Mapping[int, Graph], now: datetime
) -> Settled:
    """What follows from these outcomes, one for each token. `rows` as from `attempts.by_token`, read under their locks;
    `graphs` by version."""
    said = {outcome.token: outcome for outcome in outcomes}
    answers: dict[str, Verdict] = dict.fromkeys(said, Verdict.REFUSED)
    ends, unwanted = [], []
    for token, row in rows.items():
        outcome = said[token]
        report = digest(outcome)
        if row["report"] == report:
            answers[token] = Verdict.REPEATED
        elif is_unwanted(row):
            unwanted.append((row, outcome))
        elif _may_end(row, outcome):
            answers[token] = Verdict.ACCEPTED
            ends.append((row, _end(row, outcome, report, graphs[row["version_id"]].tasks[row["task_index"]], now)))
    return Settled(answers=answers, ends=ends, unwanted=unwanted)


def _end(row: Row, outcome: Outcome, report: str, task: Task, now: datetime) -> attempts.End:
    seen = Try(
        key=row["ti_id"],
        try_number=row["try_number"],
        max_tries=row["max_tries"],
        losses=row["losses"],
        policy=task.retry,
        rerun_when_lost=task.rerun_when_lost,
        cancel_requested=row["cancel_requested_at"] is not None or row["verdict"] is not None,
    )
    end = consequence(seen, outcome.kind, retryable=outcome.retryable, now=now, planned=outcome.reason == SHUTDOWN)
    return attempts.End(
        key=row["ti_id"],
        token=str(row["token"]),
        consequence=end,
        exit_code=outcome.exit_code,
        reason=outcome.reason,
        message=_printable(outcome.message),
        report=report,
        result=outcome.result,
        decision=outcome.decision if end.state is TaskState.SUCCESS else None,
        pid=outcome.pid,
    )


async def settle(tx: Transaction, graphs: Graphs, outcomes: Sequence[Outcome]) -> dict[str, Verdict]:
    """Write the consequences of these outcomes, one for each token; return what became of each report."""
    rows = await attempts.by_token(tx, {outcome.token for outcome in outcomes})
    known = await graphs.load(tx, {row["version_id"] for row in rows.values()})
    settled = judge_reports(outcomes, rows, known, tx.now)
    await attempts.end(tx, [end for _, end in settled.ends])
    entries: list[events.Entry] = []
    for row, end in settled.ends:
        after = end.consequence
        if after.state in FINISHED:
            entries.append((row["run_pk"], row["ti_id"], EventKind.TASK, tx.now))
        elif after.state is TaskState.UP_FOR_RETRY and after.retry_at is not None:
            entries.append((row["run_pk"], row["ti_id"], EventKind.TASK, after.retry_at))
    await events.append(tx, entries)
    if settled.ends:
        tx.announce(Topic.SLOT_FREED)
    if any(end.consequence.state is TaskState.SCHEDULED for _, end in settled.ends):
        tx.announce(Topic.TASK_SCHEDULED)
    await _let_go(tx, settled.unwanted)
    tell(tx, settled)
    return dict(settled.answers)


def tell(tx: Transaction, settled: Settled) -> None:
    """Tell of the attempts that end, and of the reports that were refused."""
    for row, end in settled.ends:
        _tell_end(tx, row, end.consequence.state, end.message)
    expected = {str(row["token"]) for row, _ in settled.unwanted}
    for token, answer in settled.answers.items():
        if answer is Verdict.REFUSED and token not in expected:
            tx.tell(FactKind.REPORT_REFUSED, token=token)


def is_unwanted(row: Row) -> bool:
    """The attempt runs, and its task was cleared or marked meanwhile. `row` is one of `attempts.by_token`."""
    return bool(row["live"]) and (row["state"] == TaskState.RESTARTING or row["imposed"] is not None)


async def _let_go(tx: Transaction, unwanted: Sequence[tuple[Row, Outcome]]) -> None:
    """These have ended: their tasks become what was wanted of them, and their runs are told."""
    if not unwanted:
        return
    await clearing.stopped(
        tx,
        [
            clearing.Stopped(
                key=row["ti_id"],
                token=str(row["token"]),
                was=TaskState(row["state"]),
                state=after_stop(row["imposed"]),
                exit_code=outcome.exit_code,
                reason=outcome.reason,
                message=_printable(outcome.message),
            )
            for row, outcome in unwanted
        ],
    )
    await events.append(tx, [(row["run_pk"], row["ti_id"], EventKind.TASK, tx.now) for row, _ in unwanted])
    for row, outcome in unwanted:
        _tell_end(tx, row, after_stop(row["imposed"]), outcome.message)
    tx.announce(Topic.SLOT_FREED)


def _tell_end(tx: Transaction, row: Row, state: TaskState, message: str) -> None:
    tx.tell(
        FactKind.TASK_ENDED,
        dag_id=row["dag_id"],
        run_id=row["run_id"],
        task_id=row["task_id"],
        try_number=row["try_number"],
        state=str(state),
        message=message,
    )


MESSAGE_LIMIT = 2_000
"""Characters of a message that are kept: the log has the rest."""


def _printable(message: str) -> str:
    """What PostgreSQL can store: an exception's text may hold a NUL, and be of any length."""
    return message.replace("\x00", "\N{REPLACEMENT CHARACTER}")[:MESSAGE_LIMIT]


def _may_end(row: Row, outcome: Outcome) -> bool:
    if not row["live"] or row["attempt_state"] not in LIVE:
        return False
    # user code runs only after the start has been won: nothing that was not started can have succeeded
    started = row["attempt_state"] == AttemptState.RUNNING
    return started or outcome.kind in (OutcomeKind.FAILED, OutcomeKind.LOST)
