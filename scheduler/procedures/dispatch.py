"""Hand admitted attempts to the executor, after the commit, and remember where they belong until they end."""

from collections.abc import Iterable

from attrs import define, field

from scheduler.executors.base import Executor
from scheduler.loading.sources import PinnedSources
from scheduler.procedures.advance import Advanced
from scheduler.procedures.launch import Launched
from scheduler.procedures.pictures import Pictures
from scheduler.procedures.placement import Capacity, Place, Placed, Whereabouts
from scheduler.store import dags
from scheduler.store.topics import Topic
from scheduler.store.transaction import Store

REMEMBERED = 100_000


@define(kw_only=True, eq=False)
class Dispatch:
    """Shared by the routines that admit. If this process dies before handing over, rescue takes the attempts back."""

    store: Store
    executor: Executor
    place: Place
    pictures: Pictures
    sources: PinnedSources
    whereabouts: dict[str, Whereabouts] = field(factory=dict, init=False)
    """By token, of attempts that were handed over and have not ended; a hint that saves reading it."""
    somebody_waits: bool = field(default=True, init=False)
    """The last admission left scheduled tasks without a slot, as far as it looked."""
    freed: int = field(default=0, init=False)
    """How many attempts the short way has ended: who admits meanwhile looks again if this has changed."""
    _given_up: set[str] = field(factory=set, init=False)

    def capacity(self) -> Capacity:
        """Where attempts can go now."""
        return Capacity(where=self.place, berths=self.executor.berths())

    def capacity_for_new_runs(self) -> Capacity | None:
        """Where what is just launched may start; None while somebody waits, for he goes first, and without a slot."""
        capacity = None if self.somebody_waits else self.capacity()
        return capacity if capacity is not None and capacity.slots > 0 else None

    def give_back(self, done: Advanced) -> None:
        """After a commit that ended attempts: wake admission, if anybody waits that it has not looked at."""
        self.freed += len(done.answers)
        if done.looked_at_all:
            self.somebody_waits = done.passed_over
        elif self.somebody_waits:
            self.store.poke(Topic.SLOT_FREED)

    async def hand_over(self, placed: Placed) -> None:
        """Submit, once the pinned sources lie where the workloads say."""
        if not placed.workloads:
            return
        for source_hash, file in {(one.source_hash, one.file) for one in placed.workloads}:
            await self._pin(source_hash, file)
        self.whereabouts.update(placed.whereabouts)
        while len(self.whereabouts) > REMEMBERED:
            self.whereabouts.pop(next(iter(self.whereabouts)))
        self.executor.submit([one for one in placed.workloads if one.token not in self._given_up])

    async def hand_over_launched(self, launched: Launched) -> None:
        """Remember new runs, and submit those of their tasks that were started with them."""
        self.pictures.keep(launched.pictures)
        await self.hand_over(launched.placed)

    def give_up(self, tokens: Iterable[str]) -> list[str]:
        """Those of these started attempts that the executor has not got; from now on it never gets them.

        For rescue, before it declares them lost: a hand-over that comes late must not run what was given up.
        """
        missing = [token for token in tokens if not self.executor.holds(token)]
        self._given_up.update(missing)
        return missing

    async def _pin(self, source_hash: str, file: str) -> None:
        """Another daemon may have loaded a file that an attempt of ours needs: then its text is in the store."""
        if not self.sources.has(source_hash, file):
            text = await self.store.read(dags.source_of, source_hash)
            if text is not None:
                self.sources.write(source_hash, file, text)
