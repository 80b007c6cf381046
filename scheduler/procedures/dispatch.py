"""Hand admitted attempts to the executor, after the commit, and remember where they belong until they end."""

from collections.abc import Collection, Mapping

from attrs import define, field

from scheduler.executors.base import Executor
from scheduler.loading.sources import PinnedSources
from scheduler.model import Workload
from scheduler.procedures.advance import Whereabouts
from scheduler.procedures.placement import Place
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
    sources: PinnedSources
    whereabouts: dict[str, Whereabouts] = field(factory=dict, init=False)
    """By token, of attempts that were handed over and have not ended; a hint that saves reading it."""
    somebody_waits: bool = field(default=True, init=False)
    """The last admission left scheduled tasks without a slot, as far as it looked."""
    freed: int = field(default=0, init=False)
    """How many slots the short way has given back: who admits meanwhile looks again if this has changed."""

    def free_slots(self) -> int:
        """How many attempts the executor takes now."""
        return self.executor.free_slots()

    def give_back(self, slots: int) -> None:
        """After a commit that ended so many attempts: wake admission, if it left anybody waiting."""
        self.freed += slots
        if self.somebody_waits:
            self.store.poke(Topic.SLOT_FREED)

    async def hand_over(self, workloads: Collection[Workload], whereabouts: Mapping[str, Whereabouts]) -> None:
        """Submit, once the pinned sources lie where the workloads say."""
        if not workloads:
            return
        for source_hash, file in {(one.source_hash, one.file) for one in workloads}:
            await self._pin(source_hash, file)
        self.whereabouts.update(whereabouts)
        while len(self.whereabouts) > REMEMBERED:
            self.whereabouts.pop(next(iter(self.whereabouts)))
        self.executor.submit(list(workloads))

    async def _pin(self, source_hash: str, file: str) -> None:
        """Another daemon may have loaded a file that an attempt of ours needs: then its text is in the store."""
        if not self.sources.has(source_hash, file):
            text = await self.store.read(dags.source_of, source_hash)
            if text is not None:
                self.sources.write(source_hash, file, text)
