"""A pure model of what our writers ask of PostgreSQL: rows, modes, queues, the values that inserts lock.

Programs are made from the ranks and from what each production writer declares; which rows, how many, and whether
a lock skips is drawn. A blocked writer waits for those that hold the row in a conflicting mode and for those that
stand before it in the queue. A cycle of waits is a deadlock.
"""

from collections.abc import Callable, Iterator, Sequence

from attrs import define, field, frozen

from scheduler.store.locks import INSERTED, SATELLITES, Lock, Mode
from scheduler.store.writer import WRITERS, Writer
from tests.store.test_locking_law import load_writers

KEY_SHARE, SHARE, NO_KEY_UPDATE, UPDATE = range(4)
"""They conflict if their sum is 3 or more: PostgreSQL's table of row locks."""
KEYS = 3
"""Rows of each rank, and values of each unique index."""
ACTORS = 4

Key = tuple[int, int]
"""(place, value): a row at a rank, or a value of the rank's unique index at the rank + 1."""


@frozen
class Take:
    """Ask for one key."""

    key: Key
    mode: int
    skip: bool = False


@frozen
class Child:
    """Insert a row that refers to this rank: KEY SHARE on the parent, which is held, or was inserted, by us."""

    parent: int


@frozen
class Refer:
    """Insert a row that refers to one particular row, held or not. No writer of ours does."""

    key: Key


Step = Take | Child | Refer
Program = tuple[Step, ...]


def parents(lock: Lock) -> list[int]:
    """The ranks that rows of this rank's table refer to, from the schema."""
    ranks = {one.table.name: one.value for one in Lock}
    return [ranks[key.column.table.name] for key in lock.table.foreign_keys if key.column.table.name in ranks]


def satellites(lock: Lock) -> int:
    """How many tables hang on this rank by a foreign key: each insert takes KEY SHARE on the held row."""
    return sum(1 for table, owner in SATELLITES.items() if owner is lock and table.foreign_keys)


def rows(place: int, mask: int) -> list[int]:
    """The values whose bits are set, ascending."""
    return [value for value in range(KEYS) if mask >> value & 1]


def program(writer: Writer, masks: Sequence[int], skips: int) -> Program:  # type: ignore[type-arg]
    """A run of this writer: which rows (a mask for each acquisition) and which acquisitions skip (one bit each)."""
    mode = UPDATE if writer.mode is Mode.UPDATE else NO_KEY_UPDATE
    places = sorted(
        [(one.value, one, False) for one in writer.locks]
        + [(one.value + INSERTED, one, True) for one in writer.inserts],
        key=lambda at: at[0],
    )
    steps: list[Step] = []
    for n, (place, lock, inserts) in enumerate(places):
        mask = masks[n % len(masks)]
        for value in rows(place, mask):
            if inserts:
                steps.append(Take((place, value), UPDATE))
                steps += [Child(parent) for parent in parents(lock)]
            else:
                steps.append(Take((place, value), mode, bool(skips >> n & 1)))
        steps += [Child(lock.value)] * satellites(lock)
    return tuple(steps)


def production() -> dict[str, Callable[[Sequence[int], int], Program]]:
    """A maker of programs for every registered writer of the code base."""
    load_writers()

    def maker(one: Writer) -> Callable[[Sequence[int], int], Program]:  # type: ignore[type-arg]
        return lambda masks, skips: program(one, masks, skips)

    return {
        name: maker(one) for name, one in sorted(WRITERS.items()) if one.function.__module__.startswith("scheduler.")
    }


class Deadlock(AssertionError):
    """A cycle of waits in the model."""


@define(eq=False)
class LockTable:
    """Who holds what, who waits for what."""

    held: dict[Key, dict[int, int]] = field(factory=dict)
    queues: dict[Key, list[tuple[int, int]]] = field(factory=dict)

    def holders(self, key: Key, actor: int, mode: int) -> list[int]:
        return [who for who, has in self.held.get(key, {}).items() if who != actor and has + mode >= 3]

    def take(self, actor: int, key: Key, mode: int) -> bool:
        """True: granted at once. A request that no holder minds goes past the queue, as in PostgreSQL."""
        if self.held.get(key, {}).get(actor, -1) >= mode:
            return True
        if self.holders(key, actor, mode):
            return False
        self._grant(actor, key, mode)
        return True

    def wait(self, actor: int, key: Key, mode: int) -> None:
        self.queues.setdefault(key, []).append((actor, mode))

    def _grant(self, actor: int, key: Key, mode: int) -> None:
        has = self.held.setdefault(key, {})
        has[actor] = max(has.get(actor, -1), mode)

    def release(self, actor: int) -> list[int]:
        """All of an actor's locks and its place in a queue; returns who was let go."""
        for queue in self.queues.values():
            queue[:] = [entry for entry in queue if entry[0] != actor]
        freed = [key for key, holders in self.held.items() if holders.pop(actor, None) is not None]
        woken = []
        for key in [*freed, *self.queues]:
            queue = self.queues.get(key, [])
            for entry in list(queue):
                if not self.waits_for(key, *entry):
                    queue.remove(entry)
                    self._grant(entry[0], key, entry[1])
                    woken.append(entry[0])
        return woken

    def waits_for(self, key: Key, actor: int, mode: int) -> set[int]:
        """Conflicting holders, and conflicting requests that came before."""
        found = set(self.holders(key, actor, mode))
        for who, wanted in self.queues.get(key, []):
            if who == actor:
                break
            if wanted + mode >= 3:
                found.add(who)
        return found


@define(eq=False)
class Actor:
    """A transaction under way."""

    name: str
    steps: Iterator[Step]
    blocked: bool = False


@define(eq=False)
class Model:
    """Some transactions at once, moved one step at a time."""

    locks: LockTable = field(factory=LockTable)
    actors: dict[int, Actor] = field(factory=dict)
    story: list[str] = field(factory=list)
    waits: int = 0
    """How often somebody had to wait: a model in which nobody ever does proves nothing."""

    def begin(self, number: int, name: str, steps: Program) -> None:
        if number not in self.actors:
            self.actors[number] = Actor(name, iter(steps))
            self.story.append(f"{number} begins {name}")

    def end(self, number: int, how: str) -> None:
        """Commit, cancel or crash: for locks it is the same."""
        if self.actors.pop(number, None) is not None:
            self.story.append(f"{number} {how}")
            for woken in self.locks.release(number):
                self.actors[woken].blocked = False

    def step(self, number: int) -> None:
        """Let one go on by one lock. Raises Deadlock if that closes a cycle."""
        actor = self.actors.get(number)
        if actor is None or actor.blocked:
            return
        step = next(actor.steps, None)
        if step is None:
            self.end(number, "commits")
            return
        take = self._as_take(number, step)
        if take is None or self.locks.take(number, take.key, take.mode):
            if take is not None:
                self.story.append(f"{number} {actor.name} gets {take.key} in mode {take.mode}")
        elif not take.skip:
            actor.blocked = True
            self.waits += 1
            self.locks.wait(number, take.key, take.mode)
            self.story.append(f"{number} {actor.name} waits for {take.key} in mode {take.mode}")
            self.check()

    def _as_take(self, number: int, step: Step) -> Take | None:
        if isinstance(step, Take):
            return step
        if isinstance(step, Refer):
            return Take(step.key, KEY_SHARE)
        ours = [key for key, holders in self.locks.held.items() if key[0] == step.parent and number in holders]
        return Take(min(ours), KEY_SHARE) if ours else None

    def check(self) -> None:
        """Raises Deadlock if waits go round."""
        waits: dict[int, set[int]] = {}
        for key, queue in self.locks.queues.items():
            for who, mode in queue:
                waits.setdefault(who, set()).update(self.locks.waits_for(key, who, mode))
        for start in waits:
            seen, todo = set(), list(waits[start])
            while todo:
                here = todo.pop()
                if here == start:
                    raise Deadlock("\n".join(self.story))
                if here not in seen:
                    seen.add(here)
                    todo += waits.get(here, ())


# --- known-bad writers, in the model ------------------------------------------------------------------------

_RUN, _TI, _DAG = Lock.DAG_RUN.value, Lock.TASK_INSTANCE.value, Lock.DAG.value


def _takes(place: int, values: Sequence[int], mode: int = NO_KEY_UPDATE) -> list[Step]:
    return [Take((place, value), mode) for value in values]


def _bad(*parts: Callable[[Sequence[int]], Sequence[Step]]) -> Callable[[Sequence[int], int], Program]:
    return lambda masks, skips: tuple(step for n, part in enumerate(parts) for step in part(rows(0, masks[n])))


BAD: dict[str, tuple[Callable[[Sequence[int], int], Program], ...]] = {
    "task instance before run": (_bad(lambda r: _takes(_TI, r), lambda r: _takes(_RUN, r)),),
    "rows of one statement in falling order": (_bad(lambda r: _takes(_TI, r[::-1])),),
    "two sorted statements on one table": (_bad(lambda r: _takes(_TI, r), lambda r: _takes(_TI, r)),),
    "the same, on runs": (_bad(lambda r: _takes(_RUN, r), lambda r: _takes(_RUN, r)),),
    "upgrade from SHARE": (_bad(lambda r: _takes(_RUN, r[:1], SHARE), lambda r: _takes(_RUN, [0], NO_KEY_UPDATE)),),
    "NO KEY UPDATE, then DELETE, against a child that came meanwhile": (
        _bad(lambda r: _takes(_RUN, [0]), lambda r: _takes(_RUN, [0], UPDATE)),
        _bad(lambda r: [Refer((_RUN, 0))], lambda r: _takes(_RUN, [0])),
    ),
    "child inserted, then parent FOR UPDATE": (
        _bad(lambda r: [Refer((_RUN, 1))], lambda r: _takes(_RUN, [1], UPDATE)),
    ),
    "event with a foreign key to a run that is not held": (
        _bad(lambda r: _takes(_TI, r), lambda r: [Refer((_RUN, v)) for v in r]),
    ),
    "unsorted inserts on a unique key": (
        _bad(lambda r: _takes(_DAG + INSERTED, r[::-1], UPDATE)),
        _bad(lambda r: _takes(_DAG + INSERTED, r, UPDATE)),
    ),
    "insert before lock at one rank": (_bad(lambda r: _takes(_DAG + INSERTED, r, UPDATE), lambda r: _takes(_DAG, r)),),
    "SKIP LOCKED on one side, then a plain lock below": (
        _bad(lambda r: [Take((_TI, v), NO_KEY_UPDATE, skip=True) for v in r], lambda r: _takes(_RUN, r)),
    ),
    "purge that starts with the instances": (
        _bad(lambda r: _takes(_TI, r, UPDATE), lambda r: _takes(_RUN, r, UPDATE)),
    ),
}

PARTNERS = {_TI: ("judge_runs", "purge_runs"), _RUN: ("judge_runs", "purge_runs"), _DAG: ("store_file",)}
"""Production writers that go over the same rows: begun as often as the bad ones, so that they meet."""


def partners(name: str) -> tuple[str, ...]:
    """Of a known-bad writer."""
    makers = BAD[name]
    ranks = {step.key[0] // 10 * 10 for make in makers for step in make([3] * 4, 0) if isinstance(step, (Take, Refer))}
    return tuple(sorted({one for rank in ranks for one in PARTNERS[rank]}))
