"""The accounting of CPU: nothing is lost, and it goes to who used it."""

import time
from typing import Any

import pytest

from bench.split import Split, splitting


def burn(seconds: float) -> int:
    """In this file, which belongs to no layer."""
    until, turns = time.process_time() + seconds, 0
    while time.process_time() < until:
        turns += 1
    return turns


def test_cpu_is_booked_to_whoever_used_it() -> None:
    with splitting() as split:
        before = time.process_time()
        burn(0.3)
        used = time.process_time() - before
    booked = sum(split.layers.values())
    assert split.samples > 5
    assert 0.5 * used <= booked <= 1.5 * used, "up to one interval at each end"
    assert sum(split.routines.values()) == pytest.approx(booked)
    assert set(split.routines) == {"other"}


def test_a_stack_belongs_to_its_innermost_layer_and_its_outermost_routine() -> None:
    split = Split()
    outer: dict[str, Any] = {}
    inner: dict[str, Any] = {}
    exec(compile("def step(work, *given): work(*given)", "/x/scheduler/routines/schedule_tasks.py", "exec"), outer)
    exec(compile("import sys\ndef send(book): book(sys._getframe(), 1.0)", "/x/asyncpg/connection.py", "exec"), inner)
    outer["step"](inner["send"], split.book)
    inner["send"](split.book)
    assert split.layers == {"driver": 2.0}
    assert split.routines == {"schedule_tasks": 1.0, "other": 1.0}
