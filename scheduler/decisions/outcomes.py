"""What a report about an attempt means for its task instance."""

from datetime import datetime, timedelta

from attrs import frozen

from scheduler.decisions.retries import may_retry, retry_delay
from scheduler.model import AttemptState, OutcomeKind, RetryPolicy, TaskState

MAX_LOSSES = 3
"""The third loss to infrastructure is a failure without retry: the task itself may be what kills its worker."""


@frozen(kw_only=True)
class Try:
    """The try an attempt belongs to, as read under the lock of its instance."""

    key: int
    try_number: int
    max_tries: int
    losses: int
    policy: RetryPolicy
    rerun_when_lost: bool
    cancel_requested: bool


@frozen(kw_only=True)
class Consequence:
    """What becomes of the instance and of the attempt."""

    state: TaskState
    attempt: AttemptState
    losses: int
    retry_at: datetime | None = None


def consequence(seen: Try, kind: OutcomeKind, *, retryable: bool, now: datetime, planned: bool = False) -> Consequence:
    """Judge one outcome.

    A loss is run again as the same try (state `scheduled`), twice; one that was `planned`, because its worker
    was told to stop, does not count. A cancelled attempt is never followed by another; everything else follows
    the retry policy.
    """
    if kind is OutcomeKind.SUCCESS:
        return Consequence(state=TaskState.SUCCESS, attempt=AttemptState.SUCCESS, losses=seen.losses)
    if kind is OutcomeKind.SKIPPED:
        return Consequence(state=TaskState.SKIPPED, attempt=AttemptState.SKIPPED, losses=seen.losses)
    if kind is OutcomeKind.LOST:
        losses = seen.losses + (0 if planned else 1)
        if seen.cancel_requested or losses >= MAX_LOSSES:
            return Consequence(state=TaskState.FAILED, attempt=AttemptState.LOST, losses=losses)
        if seen.rerun_when_lost:
            return Consequence(state=TaskState.SCHEDULED, attempt=AttemptState.LOST, losses=losses)
        return _failure(seen, AttemptState.LOST, losses=losses, retryable=True, now=now)
    return _failure(
        seen,
        AttemptState.FAILED,
        losses=seen.losses,
        retryable=retryable and not seen.cancel_requested,
        now=now,
    )


def _failure(seen: Try, attempt: AttemptState, *, losses: int, retryable: bool, now: datetime) -> Consequence:
    if not may_retry(
        retries=seen.policy.retries,
        try_number=seen.try_number,
        max_tries=seen.max_tries,
        retryable=retryable,
    ):
        return Consequence(state=TaskState.FAILED, attempt=attempt, losses=losses)
    failures = seen.try_number - (seen.max_tries - seen.policy.retries)
    delay = retry_delay(seen.policy, failures=failures, identity=f"{seen.key}/{seen.try_number}")
    return Consequence(
        state=TaskState.UP_FOR_RETRY,
        attempt=attempt,
        losses=losses,
        retry_at=now + timedelta(seconds=delay),
    )
