"""Trigger rules: a second reading of the table, and properties over all tallies."""

import itertools

import pytest

from scheduler.decisions.rules import Ruling, Tally, rule_on
from scheduler.model import TriggerRule

TALLIES = [
    Tally(up, *counts)
    for up in range(1, 5)
    for counts in itertools.product(range(up + 1), repeat=5)
    if sum(counts) <= up
]


def test_a_task_without_upstream_is_ready_whatever_its_rule() -> None:
    for rule in TriggerRule:
        assert rule_on(rule, Tally(0)) is Ruling.READY


def test_nothing_waits_once_all_of_upstream_is_done() -> None:
    for rule in TriggerRule:
        for tally in TALLIES:
            if tally.done:
                assert rule_on(rule, tally) is not Ruling.WAIT, (rule, tally)


def test_a_ruling_never_changes_when_more_of_upstream_finishes() -> None:
    """Judged early, a task must not have been judged differently later: except where a rule may start early."""
    early = {TriggerRule.ONE_SUCCESS, TriggerRule.ONE_FAILED, TriggerRule.ONE_DONE, TriggerRule.ALWAYS}
    for rule in set(TriggerRule) - early:
        for tally in TALLIES:
            ruling = rule_on(rule, tally)
            if ruling is Ruling.WAIT or tally.done:
                continue
            for more in _completions(tally):
                later = rule_on(rule, more)
                assert (ruling is Ruling.READY) == (later is Ruling.READY), (rule, tally, more)


def _completions(tally: Tally) -> list[Tally]:
    counts = (tally.s, tally.f, tally.u, tally.k, tally.r)
    left = tally.up - sum(counts)
    return [
        Tally(tally.up, *(have + add for have, add in zip(counts, extra, strict=True)))
        for extra in itertools.product(range(left + 1), repeat=5)
        if sum(extra) == left
    ]


@pytest.mark.parametrize(
    ("rule", "tally", "expected"),
    [
        ("all_success", Tally(3, s=1, k=1), Ruling.SKIP),
        ("one_done", Tally(1, u=1), Ruling.SKIP),
        ("one_success", Tally(2, f=1, k=1), Ruling.UPSTREAM_FAILED),
        ("one_success", Tally(2, k=2), Ruling.SKIP),
        ("all_done_min_one_success", Tally(3, s=1, k=1), Ruling.SKIP),
        ("none_failed_min_one_success", Tally(2, k=2), Ruling.SKIP),
        ("none_failed_min_one_success", Tally(2, k=1, r=1), Ruling.UPSTREAM_FAILED),
        ("all_success", Tally(2, s=2), Ruling.READY),
        ("all_success", Tally(2, s=1), Ruling.WAIT),
        ("all_success", Tally(2, f=1), Ruling.UPSTREAM_FAILED),
        ("all_failed", Tally(2, f=1, u=1), Ruling.READY),
        ("all_failed", Tally(2, s=1), Ruling.SKIP),
        ("all_done", Tally(2, f=1, k=1), Ruling.READY),
        ("all_done", Tally(2, f=1), Ruling.WAIT),
        ("one_success", Tally(3, s=1), Ruling.READY),
        ("one_failed", Tally(3, u=1), Ruling.READY),
        ("one_failed", Tally(2, s=2), Ruling.SKIP),
        ("one_done", Tally(3, f=1), Ruling.READY),
        ("none_failed", Tally(2, s=1, k=1), Ruling.READY),
        ("none_failed", Tally(2, u=1), Ruling.UPSTREAM_FAILED),
        ("none_failed_min_one_success", Tally(2, s=1, k=1), Ruling.READY),
        ("none_skipped", Tally(2, k=1), Ruling.SKIP),
        ("none_skipped", Tally(2, s=1, f=1), Ruling.READY),
        ("all_skipped", Tally(2, k=2), Ruling.READY),
        ("all_skipped", Tally(2, k=1, r=1), Ruling.READY),
        ("all_skipped", Tally(2, s=1), Ruling.SKIP),
        ("always", Tally(3), Ruling.READY),
    ],
)
def test_the_table(rule: str, tally: Tally, expected: Ruling) -> None:
    assert rule_on(TriggerRule(rule), tally) is expected
