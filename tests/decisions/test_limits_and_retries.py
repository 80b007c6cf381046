"""Admission, starting, retries and outcomes."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.decisions.admission import UNLIMITED, Candidate, Room, admit, free
from scheduler.decisions.identity import run_id
from scheduler.decisions.outcomes import Try, consequence
from scheduler.decisions.retries import may_retry, retry_delay
from scheduler.decisions.starting import QueuedRun, startable
from scheduler.model import AttemptState, OutcomeKind, RetryPolicy, RunType, TaskState
from scheduler.model.states import sources

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def candidate(key: int, run: int = 1, pool: str = "p", slots: int = 1) -> Candidate:
    return Candidate(key=key, run_pk=run, pool=pool, pool_slots=slots)


def test_a_blocked_candidate_blocks_no_other() -> None:
    wanted = [candidate(1, pool="full"), candidate(2, run=9), candidate(3, slots=5), candidate(4), candidate(5)]
    room = Room(total=10, runs={1: 10}, pools={"full": 0, "p": 2})
    assert admit(wanted, room).admitted == (4, 5)


def test_an_unknown_pool_admits_nothing_and_an_unlimited_one_everything() -> None:
    room = Room(total=10, runs={1: 10}, pools={"free": UNLIMITED})
    wanted = [candidate(1, pool="unknown"), candidate(2, pool="free", slots=1000)]
    assert admit(wanted, room).admitted == (2,)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from("ab"), st.integers(1, 3)), max_size=20),
    st.integers(0, 10),
    st.dictionaries(st.integers(1, 3), st.integers(0, 6)),
    st.dictionaries(st.sampled_from("ab"), st.integers(-1, 6)),
)
def test_no_admission_exceeds_a_limit_and_none_that_fits_is_left_out(
    wanted: list[tuple[int, str, int]], total: int, runs: dict[int, int], pools: dict[str, int]
) -> None:
    candidates = [candidate(i, run, pool, slots) for i, (run, pool, slots) in enumerate(wanted)]
    done = admit(candidates, Room(total=total, runs=runs, pools=pools))
    taken = [candidates[i] for i in done.admitted]
    assert list(done.admitted) == sorted(done.admitted)
    assert len(taken) <= total
    left_in_run = {run: free - sum(1 for one in taken if one.run_pk == run) for run, free in runs.items()}
    left_in_pool = {
        pool: free - sum(one.pool_slots for one in taken if one.pool == pool) if free != UNLIMITED else 1_000
        for pool, free in pools.items()
    }
    assert all(left >= 0 for left in [*left_in_run.values(), *left_in_pool.values()])
    for one in candidates:
        if one not in taken and len(taken) < total:
            fits = left_in_run.get(one.run_pk, 0) >= 1 and left_in_pool.get(one.pool, 0) >= one.pool_slots
            assert not fits


def test_what_is_left_of_a_limit_is_never_negative() -> None:
    assert free(3, 5) == 0
    assert free(UNLIMITED, 5) == UNLIMITED


def test_the_earliest_queued_runs_start_and_future_ones_wait() -> None:
    runs = [
        QueuedRun(key=1, dag_pk=1, run_after=NOW - timedelta(minutes=1)),
        QueuedRun(key=2, dag_pk=1, run_after=NOW - timedelta(minutes=3)),
        QueuedRun(key=3, dag_pk=1, run_after=NOW + timedelta(seconds=1)),
        QueuedRun(key=4, dag_pk=2, run_after=NOW),
    ]
    assert startable(runs, room={1: 1, 2: 0}, now=NOW) == (2,)
    assert startable(runs, room={1: 9, 2: 9}, now=NOW) == (1, 2, 4)


def test_two_retries_make_three_tries() -> None:
    tries = [may_retry(retries=2, try_number=n, max_tries=2, retryable=True) for n in (1, 2, 3)]
    assert tries == [True, True, False]
    assert not may_retry(retries=0, try_number=1, max_tries=5, retryable=True)
    assert not may_retry(retries=2, try_number=1, max_tries=2, retryable=False)


def test_a_constant_delay_is_constant() -> None:
    policy = RetryPolicy(retries=3, delay=7.5)
    assert {retry_delay(policy, failures=n, identity="x") for n in range(1, 9)} == {7.5}


@given(st.integers(1, 10_000), st.floats(0, 1e6), st.floats(0.1, 50), st.text(max_size=5))
def test_a_growing_delay_stays_between_its_base_and_twice_that_and_below_a_day(
    failures: int, delay: float, multiplier: float, identity: str
) -> None:
    policy = RetryPolicy(retries=1, delay=delay, multiplier=multiplier, max_delay=5_000)
    waited = retry_delay(policy, failures=failures, identity=identity)
    assert waited == retry_delay(policy, failures=failures, identity=identity)
    assert 0 <= waited <= max(5_000, delay if multiplier == 1 else 0)


def test_siblings_that_fail_together_do_not_come_back_together() -> None:
    policy = RetryPolicy(retries=1, delay=600, multiplier=2)
    assert len({retry_delay(policy, failures=2, identity=str(key)) for key in range(50)}) > 40


def tried(**changes: object) -> Try:
    values: dict[str, object] = {
        "key": 1,
        "try_number": 1,
        "max_tries": 2,
        "losses": 0,
        "policy": RetryPolicy(retries=2, delay=10),
        "rerun_when_lost": True,
        "cancel_requested": False,
    }
    return Try(**(values | changes))  # type: ignore[arg-type]


def test_a_failure_waits_for_its_retry_and_the_last_one_is_final() -> None:
    first = consequence(tried(), OutcomeKind.FAILED, retryable=True, now=NOW)
    assert (first.state, first.retry_at) == (TaskState.UP_FOR_RETRY, NOW + timedelta(seconds=10))
    last = consequence(tried(try_number=3), OutcomeKind.FAILED, retryable=True, now=NOW)
    assert (last.state, last.retry_at) == (TaskState.FAILED, None)


def test_a_loss_is_run_again_without_charge_twice() -> None:
    states = [consequence(tried(losses=n), OutcomeKind.LOST, retryable=True, now=NOW).state for n in range(3)]
    assert states == [TaskState.SCHEDULED, TaskState.SCHEDULED, TaskState.FAILED]


def test_a_loss_that_was_planned_does_not_count() -> None:
    end = consequence(tried(losses=2), OutcomeKind.LOST, retryable=True, now=NOW, planned=True)
    assert (end.state, end.losses, end.attempt) == (TaskState.SCHEDULED, 2, AttemptState.LOST)


def test_a_task_that_must_not_be_repeated_is_charged_for_a_loss() -> None:
    end = consequence(tried(rerun_when_lost=False), OutcomeKind.LOST, retryable=True, now=NOW)
    assert end.state is TaskState.UP_FOR_RETRY


@pytest.mark.parametrize("kind", [OutcomeKind.FAILED, OutcomeKind.LOST])
def test_a_cancelled_attempt_is_followed_by_no_other(kind: OutcomeKind) -> None:
    end = consequence(tried(cancel_requested=True), kind, retryable=True, now=NOW)
    assert end.state is TaskState.FAILED


@given(st.sampled_from(list(OutcomeKind)), st.booleans(), st.integers(0, 4), st.integers(1, 4), st.booleans())
def test_every_consequence_is_a_transition_of_the_table(
    kind: OutcomeKind, retryable: bool, losses: int, try_number: int, cancelled: bool
) -> None:
    seen = tried(losses=losses, try_number=try_number, cancel_requested=cancelled)
    end = consequence(seen, kind, retryable=retryable, now=NOW)
    assert TaskState.RUNNING in sources("end", end.state)


def test_run_ids_are_in_utc() -> None:
    assert run_id(RunType.SCHEDULED, NOW) == "scheduled__2026-01-01T00:00:00+00:00"
