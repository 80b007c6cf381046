"""Orders in which the stage may be given to two writers: all of them, or those that cover every stopping place."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb

Schedule = tuple[int, ...]
"""Who has the next turn, by position; when it is used up, or names one that cannot go on, the first one that can."""


def interleavings(first: int, second: int) -> int:
    """How many there are of so many turns each."""
    return comb(first + second, first)


def all_of(first: int, second: int) -> Iterator[Schedule]:
    """Every interleaving of so many turns each."""
    for places in combinations(range(first + second), first):
        yield tuple(0 if i in places else 1 for i in range(first + second))


def covering(first: int, second: int) -> Iterator[Schedule]:
    """For each k: one runs k statements, the other one until it is done or blocked, then the first goes on; both ways.

    And one statement each by turns, either beginning.
    """
    for k in range(first + 1):
        yield (0,) * k + (1,) * second + (0,) * (first - k)
    for k in range(1, second):
        yield (1,) * k + (0,) * first + (1,) * (second - k)
    yield (0, 1) * max(first, second)
    yield (1, 0) * max(first, second)


def schedules(first: int, second: int, *, at_most: int) -> Sequence[Schedule]:
    """All interleavings if there are at most so many, else the covering ones; without repetition."""
    if interleavings(first, second) <= at_most:
        return list(all_of(first, second))
    return list(dict.fromkeys(covering(first, second)))
