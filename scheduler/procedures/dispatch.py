"""Hand admitted attempts to the executor, after the commit, and remember where they belong until they end.

Between the commit and the hand-over an attempt is started and nobody has it. Who admits says so (`admission`), so that
rescue can tell what is on its way from what never arrives: what has committed by now belongs to an admission that is
under way, or will never be handed over.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import trio
from attrs import define, field

from nurseries.errors import Weather
from scheduler.executors.base import Executor
from scheduler.loading.sources import PinnedSources
from scheduler.procedures.advance import Advanced
from scheduler.procedures.launch import Launched
from scheduler.procedures.pictures import Pictures
from scheduler.procedures.placement import Capacity, Place, Placed, Whereabouts
from scheduler.store import dags
from scheduler.store.errors import OutcomeUnknown
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
    _under_way: dict[trio.Event, None] = field(factory=dict, init=False)
    """Admissions, the oldest first; set when they have ended."""
    _given_up: set[str] = field(factory=set, init=False)

    @contextmanager
    def admission(self) -> Iterator[None]:
        """Around every transaction that admits, together with its hand-over.

        If nobody knows whether it was committed, or what was committed cannot be handed over, rescue looks at once.
        """
        ended = trio.Event()
        self._under_way[ended] = None
        try:
            yield
        except OutcomeUnknown:
            self.store.poke(Topic.ATTEMPT_LOST)
            raise
        finally:
            del self._under_way[ended]
            ended.set()

    async def all_handed_over(self) -> None:
        """Return when every admission that is under way now has ended."""
        for ended in list(self._under_way):
            await ended.wait()

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
        """Submit, once the pinned sources lie where the workloads say. Raises Weather: they are left to rescue."""
        if not placed.workloads:
            return
        try:
            for source_hash, file in {(one.source_hash, one.file) for one in placed.workloads}:
                await self._pin(source_hash, file)
        except Weather:
            self.store.poke(Topic.ATTEMPT_LOST)
            raise
        self.whereabouts.update(placed.whereabouts)
        while len(self.whereabouts) > REMEMBERED:
            self.whereabouts.pop(next(iter(self.whereabouts)))
        self.executor.submit([one for one in placed.workloads if one.token not in self._given_up])

    async def hand_over_launched(self, launched: Launched) -> None:
        """Remember new runs, and submit those of their tasks that were started with them."""
        self.pictures.keep(launched.pictures)
        await self.hand_over(launched.placed)

    def missing(self, started: Mapping[str, str]) -> set[str]:
        """Those of these attempts, started at the workers given, which those workers have not got.

        A worker that is not connected just now is not judged: it says what it has when it calls again.
        """
        connected = {one.worker_id for one in self.executor.workers()}
        return {token for token, worker in started.items() if worker in connected and not self.executor.holds(token)}

    def give_up(self, tokens: Iterable[str]) -> None:
        """These are never handed over from now on: rescue is about to declare them lost."""
        self._given_up.update(tokens)

    async def _pin(self, source_hash: str, file: str) -> None:
        """Another daemon may have loaded a file that an attempt of ours needs: then its text is in the store."""
        if not self.sources.has(source_hash, file):
            text = await self.store.read(dags.source_of, source_hash)
            if text is not None:
                try:
                    self.sources.write(source_hash, file, text)
                except OSError as error:
                    raise Weather(f"no copy of {file} can be made for its tasks: {error}") from error
