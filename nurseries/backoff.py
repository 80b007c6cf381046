"""How often something may fail, and how long to wait after the n-th failure."""

import random
from collections import deque
from collections.abc import Callable

from attrs import field, frozen
from attrs.validators import ge, gt

from nurseries.errors import BudgetExhausted


@frozen(kw_only=True)
class Budget:
    """At most `restarts` restarts within `seconds`, each after a random part of a doubling delay.

    `restarts=None` never runs out. The delay after the n-th failure in a row is drawn evenly between nothing
    and `backoff_min_s * 2**(n-1)`, at most `backoff_max_s`: full jitter, so that many who failed together do
    not come back together. Failures further apart than `seconds`, or with a success between them, are not in a
    row.
    """

    restarts: int | None = 5
    seconds: float = field(default=60.0, validator=gt(0))
    backoff_min_s: float = field(default=0.1, validator=ge(0))
    backoff_max_s: float = field(default=30.0, validator=ge(0))

    def __attrs_post_init__(self) -> None:
        if self.restarts is not None and self.restarts < 0:
            raise ValueError(f"a budget of {self.restarts} restarts makes no sense")

    def delay(self, failures: int, *, pick: Callable[[float, float], float] = random.uniform) -> float:
        """Seconds to wait after the given number of failures in a row (from 1)."""
        # The exponent is bounded: 2.0**1100 is an error, and the ceiling is reached long before.
        return pick(0.0, min(self.backoff_max_s, self.backoff_min_s * 2.0 ** min(failures - 1, 60)))


class Spending:
    """The failures of one thing, judged by its budget."""

    def __init__(self, name: str, budget: Budget) -> None:
        self.name = name
        self.budget = budget
        self.total = 0
        self._in_a_row = 0
        self._last = float("-inf")
        self._recent: deque[float] = deque(maxlen=None if budget.restarts is None else budget.restarts + 1)

    def spend(self, now: float, why: str) -> float:
        """Count a failure at `now` (monotonic seconds); how long to wait before the restart.

        Raises `BudgetExhausted` if there is no restart left.
        """
        self.total += 1
        self._in_a_row = self._in_a_row + 1 if now - self._last <= self.budget.seconds else 1
        self._last = now
        if self.budget.restarts is not None:
            self._recent.append(now)
            failures = sum(1 for at in self._recent if now - at <= self.budget.seconds)
            if failures > self.budget.restarts:
                raise BudgetExhausted(self.name, failures, self.budget.seconds, why)
        return self.budget.delay(self._in_a_row)

    def recover(self) -> None:
        """Note a success: the next failure is the first in a row again. What was spent stays spent."""
        self._in_a_row = 0
