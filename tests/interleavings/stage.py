"""A stage on which production writers move one statement at a time, as a test says.

An actor is one call of `Store.transact` (or of anything that uses a store); its store stops it before each
statement and before COMMIT. `settle` returns when every actor is parked there, has finished, or has been *seen*
waiting in PostgreSQL: facts, never time. A circle of waits fails at once, with what everybody did.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from attrs import define, evolve, field

from nurseries.errors import Weather
from scheduler.commands.errors import CommandError
from scheduler.routines.load_dags import DuplicateDag
from scheduler.store.errors import Conflict
from scheduler.store.limits import Limits
from scheduler.store.locks import Acquisition
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction
from tests.interleavings.lockdep import LOCKDEP
from tests.interleavings.monitor import Monitor, cycle_in

PATIENT = Limits(
    deadlock=30.0,
    lock=0.0,
    statement=60.0,
    command=60.5,
    transaction=90.0,
    server_transaction=0.0,
    idle_in_transaction=0.0,
)
"""No lock time-out, and a detector that sleeps: a circle of waits stays where it is until we have looked at it."""

LOOK_S, LOOK_AT_MOST_S = 0.003, 0.024
"""How long somebody is on the way before we look whether it waits. Looking takes time from those who are looked at:
most statements are over before, and on a slow machine it is done ever less often."""
GIVE_UP_S = 30.0


class DeadlockFound(AssertionError):
    """Writers wait for each other."""


class WentWrong(AssertionError):
    """A writer ended in a way none may."""


class Abandoned(Exception):
    """The stage was cleared while this actor was parked: its transaction rolls back."""


@define(eq=False)
class Actor:
    """One call, stepped."""

    name: str
    stage: "Stage"
    pid: int | None = None
    parked: str | None = None
    """The statement it stands before."""
    waits: bool = False
    """Seen waiting for another transaction when the stage last settled."""
    finished: bool = False
    crashed: bool = False
    cancelled: bool = False
    result: Any = None
    error: BaseException | None = None
    turns: int = 0
    statements: list[str] = field(factory=list)
    ledger: list[Acquisition] = field(factory=list)
    opening: str = ""
    """SQL that its transaction begins with: settings."""
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    _move: Callable[[], object] = field(default=lambda: None)
    """Wakes it where it is parked."""

    async def before(self, transaction: Transaction, text: str) -> None:
        """On the asyncio side, before each statement."""
        if self.opening and not self.turns:
            await transaction._driver.execute(self.opening)
        self.pid = transaction._driver.get_server_pid()
        self.ledger = transaction.held.ledger
        LOCKDEP.declared(transaction)
        # here, not across the bridge: it is done at every statement, and a crossing costs as much as a statement
        turn = asyncio.get_running_loop().create_future()
        self._park(text, lambda: turn.done() or turn.set_result(None))
        await turn
        self._check_not_abandoned()

    async def after(self, transaction: Transaction, text: str) -> None:
        """On the asyncio side, after each statement."""
        self.statements.append(text)
        LOCKDEP.passed(transaction, text)
        if text == "COMMIT":
            self.pid = None  # what comes next may be a single statement on another connection

    async def park(self, text: str) -> None:
        """Stand here until somebody says `go`; on the trio side."""
        turn = trio.Event()
        self._park(text, turn.set)
        await turn.wait()
        self._check_not_abandoned()

    def _park(self, text: str, move: Callable[[], object]) -> None:
        self._check_not_abandoned()
        self.parked, self._move = text, move
        self.stage.wake()

    def _check_not_abandoned(self) -> None:
        if self.stage.clearing:
            raise Abandoned

    def go(self) -> None:
        """Let it run its next statement."""
        assert self.parked is not None, self
        self.stage.story.append(f"{self.name}: {shorten(self.parked)}")
        self.parked = None
        self.turns += 1
        self._move()

    def __str__(self) -> str:
        if self.finished:
            how = repr(self.error) if self.error is not None else "ended"
        elif self.waits:
            how = "waits for another transaction"
        else:
            how = f"before {shorten(self.parked or '?')}"
        return f"{self.name} ({how})"


def shorten(text: str) -> str:
    """A statement on one line."""
    text = " ".join(text.split())
    return text if len(text) <= 110 else f"{text[:80]} ... {text[-25:]}"


@define(eq=False)
class Stage:
    """See the module. Use `open_stage`."""

    monitor: Monitor
    nursery: trio.Nursery
    actors: list[Actor] = field(factory=list)
    story: list[str] = field(factory=list)
    clearing: bool = False
    blocked: int = 0
    """How often somebody was seen waiting."""
    _changed: trio.Event = field(factory=trio.Event)

    def wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def start(
        self,
        name: str,
        store: Store,
        body: Callable[[Store], Awaitable[Any]],
        *,
        stepped: bool = True,
        opening: str = "",
    ) -> Actor:
        """Begin `body` with a store that stops before each of its statements; if not `stepped`, before it begins."""
        actor = Actor(name=name, stage=self, opening=opening)
        self.actors.append(actor)
        self.story.append(f"{name} begins")
        self.nursery.start_soon(self._act, actor, evolve(store, stepper=actor), body, stepped)
        return actor

    async def _act(self, actor: Actor, store: Store, body: Callable[[Store], Awaitable[Any]], stepped: bool) -> None:
        try:
            with actor.scope:
                if not stepped:
                    await actor.park("its one statement")
                actor.result = await body(store)
        except Exception as error:
            actor.error = error
        finally:
            actor.finished = True
            actor.waits = False
            self.story.append(f"{actor.name} ended" + (f" with {actor.error!r}" if actor.error else ""))
            self.wake()

    def parked(self) -> list[Actor]:
        """Those that can be given a turn, in the order in which they began."""
        return [actor for actor in self.actors if actor.parked is not None]

    def unfinished(self) -> list[Actor]:
        return [actor for actor in self.actors if not actor.finished]

    async def settle(self) -> None:
        """Return when nobody moves. Raises DeadlockFound, or WentWrong."""
        looked = 0  # in vain, since somebody last moved
        with trio.fail_after(GIVE_UP_S):
            while True:
                changed = self._changed
                moving = [actor for actor in self.actors if not actor.finished and actor.parked is None]
                # whoever was seen waiting most probably still is, and is looked at without delay
                if looked or not all(actor.waits for actor in moving):
                    with trio.move_on_after(min(LOOK_S * 2**looked, LOOK_AT_MOST_S)):
                        await changed.wait()
                        looked = 0
                        continue
                if await self._at_rest(moving, changed):
                    break
                looked += 1
        self.check_ends()

    async def _at_rest(self, moving: Sequence[Actor], changed: trio.Event) -> bool:
        """Whether all these are seen waiting."""
        if not moving:
            self._note_waits(())
            return True
        blocked = await self._blocked(moving)
        # asked twice: one seen waiting may have been let go by one that was just committing
        if changed.is_set() or len(blocked) < len(moving) or len(await self._blocked(moving)) < len(moving):
            return False
        if changed.is_set():
            return False
        self._note_waits(moving)
        await self.check_waits()
        return True

    def _note_waits(self, waiting: Sequence[Actor]) -> None:
        for actor in self.actors:
            if actor in waiting and not actor.waits:
                self.story.append(f"{actor.name} waits for another transaction")
                self.blocked += 1
            actor.waits = actor in waiting

    async def _blocked(self, moving: Sequence[Actor]) -> list[Actor]:
        waits = await self.monitor.waits()
        blocked = [actor for actor in moving if actor.pid in waits]
        # one that does a single statement in autocommit never tells its process id
        strangers = len(waits.keys() - {actor.pid for actor in self.actors})
        return blocked + [actor for actor in moving if actor.pid is None][:strangers]

    async def check_waits(self) -> None:
        """Raises DeadlockFound if sessions wait for each other."""
        circle = cycle_in(await self.monitor.waits())
        if circle:
            statements = await self.monitor.statements()
            names = {actor.pid: actor.name for actor in self.actors}
            lines = [f"  {names.get(pid, pid)} {statements.get(pid, '')}" for pid in circle]
            raise DeadlockFound("writers wait for each other:\n" + "\n".join([*lines, *self.told()]))

    def check_ends(self) -> None:
        """Raises WentWrong if an actor ended as none may."""
        for actor in self.actors:
            if actor.finished and actor.error is not None and not self._expected(actor, actor.error):
                raise WentWrong("\n".join([f"{actor.name} ended with {actor.error!r}", *self.told()])) from actor.error

    def _expected(self, actor: Actor, error: BaseException) -> bool:
        if isinstance(error, Conflict):
            return error.sqlstate == "40001" and "another daemon" in str(error)  # our own, not the database's
        if isinstance(error, Weather):
            return actor.crashed or any(one.crashed for one in self.actors)
        return isinstance(error, CommandError | DuplicateDag)

    def told(self) -> list[str]:
        """What happened so far, for a person."""
        return ["what happened:", *(f"  {i:2}. {line}" for i, line in enumerate(self.story, 1))]

    async def turn(self, actor: Actor) -> None:
        """One statement of one actor, and wait until nobody moves."""
        actor.go()
        await self.settle()

    async def run_on(self, actor: Actor) -> None:
        """Turns for one actor until it has finished or waits."""
        while actor.parked is not None:
            await self.turn(actor)

    async def finish(self) -> None:
        """Turns for everybody, in order of appearance, until all have finished."""
        while self.unfinished():
            parked = self.parked()
            if not parked:
                raise DeadlockFound("\n".join(["nobody can go on", *map(str, self.unfinished()), *self.told()]))
            await self.turn(parked[0])

    async def crash(self, actor: Actor) -> None:
        """Cut an actor's connection, at the server."""
        assert actor.pid is not None
        actor.crashed = True
        self.story.append(f"{actor.name}: its connection is cut")
        await self.monitor.execute("SELECT pg_terminate_backend($1)", actor.pid)
        while (await self.monitor.fetch("SELECT count(*) AS n FROM pg_stat_activity WHERE pid = $1", actor.pid))[0][
            "n"
        ]:
            await trio.sleep(0.001)

    async def clear(self) -> None:
        """Roll back whoever is on the stage, and begin anew."""
        self.clearing = True
        for actor in self.actors:
            actor._move()
        while self.unfinished():
            with trio.move_on_after(0.01):
                await self._changed.wait()
            for pid in await self.monitor.waits():
                await self.monitor.execute("SELECT pg_cancel_backend($1)", pid)
        self.clearing = False
        self.actors.clear()
        self.story.clear()


@asynccontextmanager
async def open_stage(monitor: Monitor) -> AsyncIterator[Stage]:
    """A stage on the monitor's database; cleared at the end."""
    async with trio.open_nursery() as nursery:
        stage = Stage(monitor, nursery)
        try:
            yield stage
        finally:
            with trio.CancelScope(shield=True):
                await stage.clear()
