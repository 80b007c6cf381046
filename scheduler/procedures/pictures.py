"""The pictures of runs that the routines of one daemon share; see `decisions.readiness` and `schedule_tasks`.

A picture is good for exactly one `seq` of its run, which is read under the run's lock. Nothing depends on it
being there: what is missing is read from the database.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from attrs import define, field

from scheduler.decisions.readiness import Picture

KEPT = 500


@define(eq=False)
class Pictures:
    """The most recently used pictures, by run key."""

    _known: OrderedDict[int, tuple[int, Picture]] = field(factory=OrderedDict, init=False)

    def get(self, run_pk: int, seq: int) -> Picture | None:
        """The picture of a run if there is one that is good for `seq`."""
        known = self._known.get(run_pk)
        return known[1] if known is not None and known[0] == seq else None

    def keep(self, pictures: Mapping[int, tuple[int, Picture]], *, finished: Iterable[int] = ()) -> None:
        """Take over what a committed transaction has made; forget the runs that are over."""
        for run_pk, picture in pictures.items():
            self._known[run_pk] = picture
            self._known.move_to_end(run_pk)
        for run_pk in finished:
            self._known.pop(run_pk, None)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)

    def clear(self) -> None:
        """Forget everything: something did not agree with the rows."""
        self._known.clear()
