"""What the routines of one daemon remember of runs; see `decisions.readiness` and `schedule_tasks`.

A memory is good for exactly one `seq` of its run, which is read under the run's lock. Nothing depends on it
being there: what is missing is read from the database.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from attrs import define, evolve, field, frozen

from scheduler.decisions.graph import Graph
from scheduler.decisions.readiness import Picture
from scheduler.store import runs, tasks
from scheduler.store.documents import Graphs
from scheduler.store.writer import Reading, Row

KEPT = 500


@frozen(kw_only=True)
class Known:
    """One run at one `seq`."""

    seq: int
    picture: Picture | None = None
    card: Row | None = None
    """A row of `runs.cards`."""


@define(eq=False)
class Pictures:
    """The most recently used runs, by key."""

    _known: OrderedDict[int, Known] = field(factory=OrderedDict, init=False)

    def get(self, run_pk: int, seq: int) -> Known | None:
        """What is known of a run, if it is good for `seq`."""
        known = self._known.get(run_pk)
        return known if known is not None and known.seq == seq else None

    def latest(self, run_pk: int) -> Known | None:
        """What was known of a run last: to plan by, and to check under its lock."""
        return self._known.get(run_pk)

    def keep(self, pictures: Mapping[int, Known], *, finished: Iterable[int] = ()) -> None:
        """Take over what a committed transaction has made or read; forget the runs that are over."""
        for run_pk, known in pictures.items():
            before = self._known.get(run_pk)
            if before is not None and before.seq > known.seq:
                continue  # read before, kept after somebody else's commit
            if before is not None and before.seq == known.seq:
                known = evolve(known, picture=known.picture or before.picture, card=known.card or before.card)
            self._known[run_pk] = known
            self._known.move_to_end(run_pk)
        self.forget(finished)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)

    def forget(self, run_pks: Iterable[int]) -> None:
        """These are over, or did not agree with the rows."""
        for run_pk in run_pks:
            self._known.pop(run_pk, None)

    def clear(self) -> None:
        """Forget everything: something did not agree with the rows."""
        self._known.clear()


async def cards_of(tx: Reading, pictures: Pictures, seqs: Mapping[int, int]) -> dict[int, Row]:
    """A row of `runs.cards` for each of these runs at their `seq`, remembered or read."""
    found: dict[int, Row] = {}
    for key, seq in seqs.items():
        memory = pictures.get(key, seq)
        if memory is not None and memory.card is not None:
            found[key] = memory.card
    missing = seqs.keys() - found.keys()
    return found | (await runs.cards(tx, missing) if missing else {})


async def look_at(tx: Reading, graphs: Graphs, run_pks: Iterable[int]) -> dict[int, Known]:
    """Read all there is to know of these runs, in one snapshot."""
    cards = await runs.cards(tx, list(run_pks))
    known: dict[int, Graph] = await graphs.load(tx, {card["version_id"] for card in cards.values()})
    seen = await tasks.of_runs(tx, list(cards))
    return {
        key: Known(seq=card["seq"], picture=Picture.of(known[card["version_id"]], seen[key]), card=card)
        for key, card in cards.items()
    }
