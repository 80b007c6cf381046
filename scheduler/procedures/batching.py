"""How long reports gather before they are recorded, for a daemon in company on busy processors.

A lone daemon needs no rule: while one transaction runs, reports gather for the next, so batches grow with the load.
Daemons that share their processors, or a database at its limit, each make a transaction of the few that came in
meanwhile, and all of them get slower for it. There a transaction that took long is followed by a pause as long as
itself, so that half of the time goes into gathering. What takes its usual few milliseconds is followed by none.
"""

import trio
from attrs import define

from scheduler.procedures.vacancies import Company

SLOW_S = 0.008
"""A transaction of this routine takes 3 to 5 ms where processors and database are not busy."""
LONGEST_S = 0.02


@define(kw_only=True, eq=False)
class Batching:
    """Of one routine."""

    company: Company
    _took: float = 0.0

    def took(self, seconds: float) -> None:
        """The last transaction, from the call to the return."""
        self._took = seconds

    async def gather(self) -> None:
        """Let reports gather, if it is time to; mostly returns at once."""
        if self.pause:
            await trio.sleep(self.pause)

    @property
    def pause(self) -> float:
        """Seconds to wait before the next one."""
        return min(self._took, LONGEST_S) if self.company.is_there and self._took > SLOW_S else 0.0
