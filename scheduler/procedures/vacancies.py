"""Whether the end of a run can matter: it makes room, but mostly nobody waits for it.

create_runs and start_runs are woken by every end. One of them rests instead of looking if its last look found nobody
who waits for the end of a run, and nothing has happened since that could have made somebody wait.

No wake-up is lost by that. Say somebody begins to wait by a commit W, and a run ends by a commit E which lets him in;
each is told after its commit.

- The look's snapshot has W. If it has E too, he is let in; if not, the look says that somebody waits, and when E is
  told, the routine looks again.
- It has not. Then W is told after the look has begun, and what was told until then was forgotten before it began: so
  the next step looks, and W wakes it.

Whoever waits because of the time alone (a slot becomes due and its dag is full) is looked for at that time. Daemons
tell each other nothing, so in company nobody rests; that company has come is noticed by `look_out`, which also finds
what was missed until then.
"""

import math

import trio
from attrs import define

from nurseries.switchboard import Wakeup


@define(kw_only=True, eq=False)
class Company:
    """Are there other daemons on this database? Until it is known: yes."""

    is_there: bool = True


@define(kw_only=True, eq=False)
class Vacancies:
    """One routine's reasons to look."""

    told: Wakeup
    """Hears of everything that can make somebody wait."""
    company: Company
    _somebody_waits: bool = True
    _look_at: float = -math.inf
    """By trio's clock."""

    def may_rest(self) -> bool:
        """Is there nothing that the end of a run could let in?"""
        told = self.told.is_poked or self._somebody_waits or self.company.is_there
        return not told and trio.current_time() < self._look_at

    def about_to_look(self) -> None:
        """Before the transaction: one that fails has seen nothing."""
        self.told.forget()
        self._somebody_waits = True

    def seen(self, *, somebody_waits: bool, for_seconds: float) -> None:
        """After it. `for_seconds`: how long that stays true if nothing is told."""
        self._somebody_waits = somebody_waits
        self._look_at = trio.current_time() + for_seconds

    @property
    def seconds_left(self) -> float:
        """Until it is time to look."""
        return max(0.0, self._look_at - trio.current_time())
