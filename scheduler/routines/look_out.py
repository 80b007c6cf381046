"""Look for work that nobody has told this daemon of, and wake those whose work it is.

Pokes reach the routines of one daemon. What another daemon has left, what a dead one was about to do, what became
due unnoticed: one question every few seconds finds it, so that the routines need not all ask. They look for
themselves too, at a slower pace.

It is also how daemons hear of each other's work. In company the question comes every second: nothing is announced
between daemons, since a NOTIFY would queue the commits that carry it behind one lock of the whole server.
"""

from collections.abc import Callable

from attrs import field, frozen

from nurseries.routine import Pace, Progress
from scheduler.procedures.steadiness import Steadiness
from scheduler.procedures.vacancies import Company
from scheduler.routines.rescue import PATIENCE_SECONDS
from scheduler.store import signs
from scheduler.store.transaction import Store

IN_COMPANY_SECONDS = 1.0


@frozen(kw_only=True)
class LookOut:
    """Reads only, in one statement."""

    store: Store
    daemon: str
    """The uuid of this daemon's seat."""
    steadiness: Steadiness
    poke: Callable[..., None]
    company: Company = field(factory=Company)
    """Told what was seen of it."""
    pace = Pace(seconds=5)
    wakes_on = ()

    async def step(self) -> Progress:
        found = await self.store.read(signs.look, daemon=self.daemon, patience=PATIENCE_SECONDS)
        self.steadiness.note()
        self.company.is_there = found.has_company
        self.poke(*found.topics)
        return Progress.again(IN_COMPANY_SECONDS) if found.has_company else Progress.IDLE
