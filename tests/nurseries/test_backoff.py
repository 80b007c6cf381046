"""Budgets and delays are pure: failures and times in, delays out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nurseries.backoff import Budget, Spending
from nurseries.errors import BudgetExhausted
from nurseries.routine import Pace, Progress


@given(failures=st.integers(1, 10_000))
def test_a_delay_is_a_random_part_of_a_doubling_one_with_a_ceiling(failures: int) -> None:
    budget = Budget()
    assert 0 <= budget.delay(failures) <= 30
    longest = budget.delay(failures, pick=lambda low, high: high)
    assert longest == (30 if failures > 9 else 0.1 * 2 ** (failures - 1))
    assert budget.delay(failures, pick=lambda low, high: low) == 0


def test_the_sixth_failure_within_the_window_is_one_too_many() -> None:
    spending = Spending("it", Budget())
    for at in (0, 10, 20, 30, 40):
        spending.spend(at, "why")
    with pytest.raises(BudgetExhausted, match="it failed 6 times within 60 s, most recently: why"):
        spending.spend(60, "why")
    assert spending.total == 6


def test_failures_that_left_the_window_are_forgotten() -> None:
    spending = Spending("it", Budget())
    for number in range(1000):
        spending.spend(number * 12.5, "why")
    assert spending.total == 1000


def test_failures_far_apart_are_not_in_a_row() -> None:
    budget = Budget(restarts=None, seconds=10, backoff_min_s=1, backoff_max_s=1000)
    spending = Spending("it", budget)
    for at in range(8):
        spending.spend(at, "why")
    assert spending.spend(100, "why") <= 1


def test_a_success_ends_the_row_but_gives_nothing_back() -> None:
    spending = Spending("it", Budget(restarts=5, backoff_min_s=1, backoff_max_s=1000))
    for at in range(5):
        assert spending.spend(at, "why") <= 1
        spending.recover()
    with pytest.raises(BudgetExhausted):
        spending.spend(5, "why")


@given(times=st.lists(st.floats(0, 1e6), max_size=50).map(sorted))
def test_without_a_limit_nothing_is_ever_exhausted(times: list[float]) -> None:
    spending = Spending("it", Budget(restarts=None))
    for at in times:
        assert 0 <= spending.spend(at, "why") <= 30


def test_a_budget_must_make_sense() -> None:
    with pytest.raises(ValueError, match="-1 restarts"):
        Budget(restarts=-1)
    with pytest.raises(ValueError, match="seconds"):
        Budget(seconds=0)
    with pytest.raises(ValueError, match="seconds"):
        Pace(seconds=0)


def test_progress_says_when_to_look_again() -> None:
    assert Progress.MORE.more
    assert not Progress.IDLE.more
    assert Progress() == Progress.IDLE
    assert Progress.again().within_seconds == 0.5
    assert Progress.again(2).within_seconds == 2
