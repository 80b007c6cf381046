"""Trigger rules: what the states of a task's direct upstream tasks say about it.

One table, read left to right, first match wins; what matches nothing waits. Nothing waits for all of upstream
to be done unless its rule says so.
"""

from collections.abc import Callable
from enum import Enum

from attrs import frozen

from scheduler.model import TaskState, TriggerRule


class Ruling(Enum):
    """Neither set now nor ready is WAIT."""

    WAIT = "wait"
    READY = "ready"
    SKIP = TaskState.SKIPPED
    UPSTREAM_FAILED = TaskState.UPSTREAM_FAILED


@frozen
class Tally:
    """How many direct upstream instances there are, and how many of them ended in which state."""

    up: int
    s: int = 0
    f: int = 0
    u: int = 0
    k: int = 0
    r: int = 0

    @property
    def done(self) -> bool:
        return self.s + self.f + self.u + self.k + self.r >= self.up


def _all_success(t: Tally) -> Ruling:
    if t.f + t.u > 0:
        return Ruling.UPSTREAM_FAILED
    if t.k > 0:
        return Ruling.SKIP
    return _ready_if(t.s + t.r >= t.up)


def _all_failed(t: Tally) -> Ruling:
    if t.s + t.k > 0:
        return Ruling.SKIP
    return _ready_if(t.f + t.u + t.r >= t.up)


def _all_done(t: Tally) -> Ruling:
    return _ready_if(t.done)


def _all_done_min_one_success(t: Tally) -> Ruling:
    if t.k > 0:
        return Ruling.SKIP
    if t.done and t.s == 0:
        return Ruling.UPSTREAM_FAILED
    return _ready_if(t.done)


def _one_success(t: Tally) -> Ruling:
    if t.done and t.s == 0:
        return Ruling.SKIP if t.k == t.f + t.u + t.k + t.r else Ruling.UPSTREAM_FAILED
    return _ready_if(t.s >= 1)


def _one_failed(t: Tally) -> Ruling:
    if t.done and t.f + t.u == 0:
        return Ruling.SKIP
    return _ready_if(t.f + t.u >= 1)


def _one_done(t: Tally) -> Ruling:
    if t.done and t.s + t.f == 0:
        return Ruling.SKIP
    return _ready_if(t.s + t.f >= 1)


def _none_failed(t: Tally) -> Ruling:
    if t.f + t.u > 0:
        return Ruling.UPSTREAM_FAILED
    return _ready_if(t.s + t.k + t.r >= t.up)


def _none_failed_min_one_success(t: Tally) -> Ruling:
    if t.f + t.u > 0:
        return Ruling.UPSTREAM_FAILED
    if t.k == t.up:
        return Ruling.SKIP
    if t.done and t.s == 0:
        return Ruling.UPSTREAM_FAILED
    return _ready_if(t.done and t.s >= 1)


def _none_skipped(t: Tally) -> Ruling:
    if t.k > 0:
        return Ruling.SKIP
    return _ready_if(t.done)


def _all_skipped(t: Tally) -> Ruling:
    if t.s + t.f + t.u > 0 or t.r == t.up:
        return Ruling.SKIP
    return _ready_if(t.k + t.r >= t.up)


def _always(_: Tally) -> Ruling:
    return Ruling.READY


def _ready_if(condition: bool) -> Ruling:
    return Ruling.READY if condition else Ruling.WAIT


_RULES: dict[TriggerRule, Callable[[Tally], Ruling]] = {
    TriggerRule.ALL_SUCCESS: _all_success,
    TriggerRule.ALL_FAILED: _all_failed,
    TriggerRule.ALL_DONE: _all_done,
    TriggerRule.ALL_DONE_MIN_ONE_SUCCESS: _all_done_min_one_success,
    TriggerRule.ALL_SKIPPED: _all_skipped,
    TriggerRule.ONE_SUCCESS: _one_success,
    TriggerRule.ONE_FAILED: _one_failed,
    TriggerRule.ONE_DONE: _one_done,
    TriggerRule.NONE_FAILED: _none_failed,
    TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS: _none_failed_min_one_success,
    TriggerRule.NONE_SKIPPED: _none_skipped,
    TriggerRule.ALWAYS: _always,
}


def rule_on(rule: TriggerRule, tally: Tally) -> Ruling:
    """Judge one task by its rule. A task without upstream is ready whatever its rule."""
    if tally.up == 0:
        return Ruling.READY
    return _RULES[rule](tally)
