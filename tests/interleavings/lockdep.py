"""One graph of everything that was ever locked while something else was held, over the whole test session.

In the manner of Linux lockdep: a node is a kind of lock (the rows of a table, or the values of its unique index),
an edge says that somebody asked for the second while holding the first. A circle is a deadlock that has not
happened yet, whether or not anything ran at the same time; both statements are printed with their stacks.

Edges that cannot make anybody wait are left out and counted: SKIP LOCKED, rows that belong to a row that is held
already, modes that conflict with none that was ever seen.
"""

import traceback
from collections import Counter
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from attrs import define, field, frozen

from scheduler.store.locks import Acquisition, Mode, Wait
from scheduler.store.writer import Transaction

KEY_SHARE, SHARE, NO_KEY_UPDATE, UPDATE, VALUE = "key share", "share", "no key update", "update", "insert"
_STRENGTH = [KEY_SHARE, SHARE, NO_KEY_UPDATE, UPDATE]


def conflict(held: str, wanted: str) -> bool:
    """PostgreSQL's table of row locks; values of a unique index conflict with each other."""
    if VALUE in (held, wanted):
        return held == wanted
    if held == wanted == SHARE:
        return False
    low, high = sorted((_STRENGTH.index(held), _STRENGTH.index(wanted)))
    return low + high >= 3


@frozen
class Node:
    """A kind of lock."""

    table: str
    values: bool = False
    """The values of its contended unique index, which an INSERT locks; otherwise its rows."""

    def __str__(self) -> str:
        return f"{self.table} {'values' if self.values else 'rows'}"


@frozen
class Taken:
    """One acquisition: where in the code, by which statement."""

    node: Node
    mode: str
    writer: str
    statement: str
    stack: str
    skips: bool = False

    def __str__(self) -> str:
        return f"{self.writer}: {self.node} FOR {self.mode.upper()} by\n      {self.statement}\n{self.stack}"


class CycleFound(AssertionError):
    """Two orders were used."""


@define(eq=False)
class Lockdep:
    """See the module."""

    edges: dict[tuple[Node, Node, str, str], tuple[Taken, Taken]] = field(factory=dict)
    """(held, wanted, mode held, mode wanted) -> who did it first."""
    modes: dict[Node, set[str]] = field(factory=dict)
    dropped: Counter[str] = field(factory=Counter)
    _held: "WeakKeyDictionary[Transaction, list[Taken]]" = field(factory=WeakKeyDictionary)
    _last: "WeakKeyDictionary[Transaction, str]" = field(factory=WeakKeyDictionary)
    _seen: "WeakKeyDictionary[Transaction, int]" = field(factory=WeakKeyDictionary)
    _stacks: dict[tuple[str, str], str] = field(factory=dict)

    def passed(self, transaction: Transaction, statement: str) -> None:
        """A transaction has run this statement; what it declares of it stands in its ledger soon after."""
        self._last[transaction] = statement
        where = transaction.name, statement
        if where not in self._stacks:
            self._stacks[where] = stack()

    def declared(self, transaction: Transaction) -> None:
        """Take in what a transaction's ledger says about its last statement. Raises CycleFound.

        To be called before the next statement.
        """
        ledger = transaction.held.ledger
        seen = self._seen.get(transaction, 0)
        if len(ledger) == seen:
            return
        self._seen[transaction] = len(ledger)
        for entry in ledger[seen:]:
            self._declared(transaction, entry, self._last[transaction])

    def _declared(self, transaction: Transaction, entry: Acquisition, statement: str) -> None:
        node = Node(entry.lock.table.name, values=entry.inserted)
        mode = VALUE if entry.inserted else str(Mode(entry.mode))
        # with no rows it holds nothing, but it might have waited for some
        self.took(transaction, node, mode, statement, skips=entry.wait is Wait.SKIP, holds=bool(entry.keys))

    def took(
        self, transaction: Transaction, node: Node, mode: str, statement: str, *, skips: bool, holds: bool = True
    ) -> None:
        """A transaction asked for `node`, on top of all that it holds. Raises CycleFound."""
        where = self._stacks[transaction.name, statement]
        taken = Taken(node, mode, transaction.name, statement, where, skips)
        held = self._held.setdefault(transaction, [])
        fresh = mode not in self.modes.setdefault(node, set())
        self.modes[node].add(mode)
        for other in held:
            if skips:
                self.dropped["skip locked"] += 1
                continue
            edge = (other.node, node, other.mode, mode)
            if edge not in self.edges:
                self.edges[edge] = (other, taken)
                fresh = True
        if holds:
            held.append(taken)
        if fresh:
            self.check()

    def live(self) -> dict[tuple[Node, Node], tuple[Taken, Taken]]:
        """The edges on which somebody might wait for somebody."""
        return {
            (held, wanted): who
            for (held, wanted, mode_held, mode), who in self.edges.items()
            if any(conflict(other, mode) for other in self.modes[wanted])
            and any(conflict(mode_held, other) for other in self.modes[held])
        }

    def harmless(self) -> int:
        """How many edges are left out because their modes conflict with none that was seen."""
        return len({(held, wanted) for held, wanted, *_ in self.edges} - self.live().keys())

    def check(self) -> None:
        """Raises CycleFound if somebody goes one way and somebody the other."""
        live = self.live()
        after: dict[Node, list[Node]] = {}
        for held, wanted in live:
            after.setdefault(held, []).append(wanted)

        def follow(node: Node, path: list[Node]) -> list[Node]:
            if node in path:
                return path[path.index(node) :]
            for other in after.get(node, ()):
                found = follow(other, [*path, node])
                if found:
                    return found
            return []

        for start in after:
            circle = follow(start, [])
            if circle:
                sides = [live[one, other] for one, other in zip(circle, [*circle[1:], circle[0]], strict=True)]
                told = [f"  {held}\n    and then\n  {wanted}" for held, wanted in sides]
                names = " -> ".join(str(node) for node in [*circle, circle[0]])
                raise CycleFound(f"locks are taken in a circle: {names}\n" + "\n  -- against --\n".join(told))

    def absorb(
        self,
        edges: Mapping[tuple[Node, Node, str, str], tuple[Taken, Taken]],
        modes: Mapping[Node, set[str]],
        dropped: Counter[str],
    ) -> None:
        """Add what another process has seen. The whole is not checked: call `check`."""
        self.edges = {**edges, **self.edges}
        for node, seen in modes.items():
            self.modes.setdefault(node, set()).update(seen)
        self.dropped += dropped

    def guarded(self, n: int = 1) -> None:
        """Count rows that were locked under the lock of the row they belong to."""
        self.dropped["under their owner's lock"] += n


def stack() -> str:
    """Where we are, in the code that is tested."""
    lines = traceback.extract_stack()
    ours = [
        f"        {one.filename}:{one.lineno} in {one.name}"
        for one in lines
        if "/scheduler/" in one.filename or ("/tests/" in one.filename and "/test_" in one.filename)
    ]
    return "\n".join(ours)


LOCKDEP = Lockdep()
"""The session's."""
