"""Instruments for tests that wait on facts and never on time.

Part of the product: applications test with them.
"""

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import trio
from attrs import frozen

from nurseries.routine import Progress


class FakeClock:
    """A clock that stands still until it is told to advance."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        assert start.tzinfo is not None, "a clock tells aware times"
        self._now = start.astimezone(UTC)
        self._monotonic = 0.0

    def now(self) -> datetime:
        """The wall time it was set to."""
        return self._now

    def monotonic(self) -> float:
        """The seconds it has been advanced by."""
        return self._monotonic

    def advance(self, by: timedelta | float) -> datetime:
        """Let time pass (seconds, if a number); never backwards."""
        delta = by if isinstance(by, timedelta) else timedelta(seconds=by)
        assert delta >= timedelta(0), "time does not go backwards; use set() for a clock that was put back"
        self._now += delta
        self._monotonic += delta.total_seconds()
        return self._now

    def set(self, now: datetime) -> None:
        """Put the wall clock to another time, as an administrator would; monotonic time does not move."""
        self._now = now.astimezone(UTC)


@frozen(kw_only=True)
class Step:
    """One step that ended, as a `StepRecorder` saw it."""

    name: str
    progress: Progress | None
    error: BaseException | None


class StepRecorder:
    """An instrument that remembers every step and lets a test wait for the next ones."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.under_way: list[str] = []
        self._changed = trio.Event()

    def step_started(self, name: str) -> None:
        """Called by the supervisor."""
        self.under_way.append(name)
        self._wake()

    def step_ended(
        self,
        name: str,
        *,
        seconds: float,  # noqa: ARG002 - a fact of the machine, not of the program
        progress: Progress | None,
        error: BaseException | None,
    ) -> None:
        """Called by the supervisor."""
        self.under_way.remove(name)
        self.steps.append(Step(name=name, progress=progress, error=error))
        self._wake()

    def count(self, name: str) -> int:
        """How many steps of this routine have ended."""
        return sum(1 for step in self.steps if step.name == name)

    async def wait_steps(self, name: str, *, at_least: int) -> None:
        """Return when so many steps of this routine have ended, counted from the beginning."""
        while self.count(name) < at_least:
            await self._changed.wait()

    async def wait_started(self, name: str) -> None:
        """Return when a step of this routine is under way."""
        while name not in self.under_way:
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Stuck(AssertionError):
    """Every actor that has not finished is blocked by another one: a deadlock, or a lost wake-up."""


@frozen(kw_only=True)
class Turn:
    """An actor was let go from the point at which it was parked."""

    actor: Hashable
    point: str


class Conductor:
    """Lets several actors run one at a time, from one point to the next, in an order that a test chooses.

    Actors call `await conductor.point("...")` wherever the order could matter. `play` gives a turn only when
    every actor is settled: parked at a point, finished, or blocked by another one (as `blocked` reports, for
    instance from a database's lock table). So the same choices give the same interleaving, which a property
    test can replay and shrink.
    """

    def __init__(self) -> None:
        self._parked: dict[Hashable, tuple[str, trio.Event]] = {}
        self._actor_of: dict[trio.lowlevel.Task, Hashable] = {}
        self._changed = trio.Event()

    async def point(self, name: str, *, actor: Hashable | None = None) -> None:
        """Park here until `play` gives the turn. Outside of `play`, and for anybody who is no actor: go on.

        `actor` must be given if this runs in another task than the actor's own (inside a crossing, for
        instance).
        """
        who = self._actor_of.get(trio.lowlevel.current_task()) if actor is None else actor
        if who is None or who not in self._actor_of.values():
            return
        assert who not in self._parked, f"{who} is parked at {self._parked[who][0]} already"
        turn = trio.Event()
        self._parked[who] = (name, turn)
        self._wake()
        try:
            await turn.wait()
        finally:
            self._parked.pop(who, None)

    async def play(
        self,
        actors: Mapping[Hashable, Callable[[], Awaitable[object]]],
        choose: Callable[[Sequence[Hashable]], Hashable],
        *,
        blocked: Callable[[], Awaitable[Collection[Hashable]]] | None = None,
        look_again_s: float = 0.005,
    ) -> list[Turn]:
        """Run all actors to their end; `choose` picks from the parked ones (in the order of `actors`) who goes on.

        `blocked` says which actors wait for another one; while some are neither parked nor finished it is
        asked every `look_again_s` seconds. Returns the turns given. Raises `Stuck`, or what the actors raise,
        in a group.
        """
        finished: set[Hashable] = set()
        turns: list[Turn] = []

        async def act(actor: Hashable, body: Callable[[], Awaitable[object]]) -> None:
            task = trio.lowlevel.current_task()
            self._actor_of[task] = actor
            try:
                await self.point("start")
                await body()
            finally:
                del self._actor_of[task]
                finished.add(actor)
                self._wake()

        async with trio.open_nursery() as nursery:
            for actor, body in actors.items():
                nursery.start_soon(act, actor, body, name=f"actor {actor}")
            while True:
                await self._settle(actors, finished, blocked, look_again_s)
                if len(finished) == len(actors):
                    return turns
                parked = [actor for actor in actors if actor in self._parked]
                if not parked:
                    raise Stuck(f"nobody can go on: {sorted(map(str, set(actors) - finished))} block each other")
                actor = choose(parked)
                name, turn = self._parked.pop(actor)
                turns.append(Turn(actor=actor, point=name))
                turn.set()

    async def _settle(
        self,
        actors: Collection[Hashable],
        finished: Collection[Hashable],
        blocked: Callable[[], Awaitable[Collection[Hashable]]] | None,
        look_again_s: float,
    ) -> None:
        while True:
            changed = self._changed
            under_way = {actor for actor in actors if actor not in finished and actor not in self._parked}
            if not under_way:
                return
            if blocked is None:
                await changed.wait()
                continue
            with trio.move_on_after(look_again_s):
                await changed.wait()
                continue
            # Asked twice: an actor seen blocked may have been let go by one that was just committing.
            if under_way <= set(await blocked()) and not changed.is_set() and under_way <= set(await blocked()):
                return

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class NotifySink:
    """The service manager's end of `NOTIFY_SOCKET`: a socket in the given folder that collects messages."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(self.path))
        self._socket.setblocking(False)
        self.messages: list[str] = []
        self.senders: list[int] = []

    def collect(self) -> list[str]:
        """All messages so far, one `NAME=value` each, in order."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._take()
        return self.messages

    async def wait_for(self, message: str) -> None:
        """Return when a message that begins so has come."""
        while not any(line.startswith(message) for line in self.collect()):
            await trio.lowlevel.wait_readable(self._socket)

    def _take(self) -> None:
        data, ancillary, _, _ = self._socket.recvmsg(65536, socket.CMSG_SPACE(12))
        pid = next((int.from_bytes(value[:4], "little") for _, _, value in ancillary), 0)
        for line in data.decode().splitlines():
            self.messages.append(line)
            self.senders.append(pid)

    def close(self) -> None:
        """Take the socket away, as a service manager that restarts would."""
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_fds() -> dict[int, str]:
    """This process's open file descriptors and what they are, so that a test can show that none was left."""
    return dict(_open_fds())


def _open_fds() -> Iterator[tuple[int, str]]:
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            yield int(name), os.readlink(f"/proc/self/fd/{name}")
