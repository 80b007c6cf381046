"""Wake-ups by topic: coalesced, never lost, and only hints.

A poke says "there may be something to do"; it carries nothing. Whoever is poked looks for himself, so ten
pokes are as good as one, and a poke that arrives while he is busy makes him look once more.
"""

from collections.abc import Hashable
from types import TracebackType
from typing import Self
from weakref import WeakSet

import trio


class Wakeup:
    """One subscriber's ear. Meant for one waiting task; closing it, or dropping it, ends the subscription."""

    def __init__(self, switchboard: "Switchboard", topics: tuple[Hashable, ...]) -> None:
        self._switchboard = switchboard
        self._event = trio.Event()
        self.topics = topics

    def poke(self) -> None:
        """Make the current or next `wait` return."""
        self._event.set()

    @property
    def is_poked(self) -> bool:
        """Would `wait` return at once?"""
        return self._event.is_set()

    def forget(self) -> None:
        """Drop a pending poke: whatever it hinted at is about to be looked at anyway."""
        if self._event.is_set():
            self._event = trio.Event()

    async def wait(self) -> None:
        """Return when poked;

        at once if that happened since the last wait. A cancelled wait keeps the poke.
        """
        event = self._event
        await event.wait()
        # Only replace what was waited for: a poke that came meanwhile sits in a newer event.
        if self._event is event:
            self._event = trio.Event()

    def close(self) -> None:
        """End the subscription. May be called twice."""
        self._switchboard._forget(self)  # noqa: SLF001 - the two halves of one thing

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Wakeup {', '.join(map(str, self.topics))}{' poked' if self._event.is_set() else ''}>"


class Switchboard:
    """Connects those who know that something happened with those who may want to look."""

    def __init__(self) -> None:
        # Weak: a subscriber that is gone must not be kept, nor poked, for having forgotten to close.
        self._subscribers: dict[Hashable, WeakSet[Wakeup]] = {}

    def poke(self, *topics: Hashable) -> None:
        """Wake everybody subscribed to one of the topics. Synchronous; from the trio thread only."""
        for topic in topics:
            for wakeup in tuple(self._subscribers.get(topic, ())):
                wakeup.poke()

    def subscribe(self, *topics: Hashable) -> Wakeup:
        """A wake-up that hears each of the topics, from now on."""
        wakeup = Wakeup(self, topics)
        for topic in topics:
            self._subscribers.setdefault(topic, WeakSet()).add(wakeup)
        return wakeup

    def _forget(self, wakeup: Wakeup) -> None:
        for topic in wakeup.topics:
            subscribers = self._subscribers.get(topic)
            if subscribers is not None:
                subscribers.discard(wakeup)
                if not subscribers:
                    del self._subscribers[topic]

    def __repr__(self) -> str:
        return f"<Switchboard of {len(self._subscribers)} topics>"
