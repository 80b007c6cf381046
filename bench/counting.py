"""Counts what the store sends: statements and commits do not depend on how busy the machine is."""

import time
from collections import Counter
from typing import Any

import sqlalchemy as sa
from attrs import define, field

from scheduler.store.transaction import Store


@define
class Counts:
    """On the hot connections only; heartbeats and views have their own."""

    statements: int = 0
    commits: int = 0
    rollbacks: int = 0
    in_statements_s: float = 0.0
    """From handing a statement to the driver to its result: PostgreSQL, the socket, and whoever ran meanwhile."""
    by_statement: Counter[str] = field(factory=Counter)

    def watch(self, store: Store) -> None:
        """Count from now on."""
        engine = store.engine.sync_engine
        sa.event.listen(engine, "before_cursor_execute", self._before)
        sa.event.listen(engine, "after_cursor_execute", self._after)
        sa.event.listen(engine, "commit", self._commit)
        sa.event.listen(engine, "rollback", self._rollback)

    def reset(self) -> None:
        self.statements = self.commits = self.rollbacks = 0
        self.in_statements_s = 0.0
        self.by_statement.clear()

    def _before(self, _c: Any, _cu: Any, _s: Any, _p: Any, context: Any, _many: bool) -> None:
        context.bench_began = time.perf_counter()

    def _after(self, _c: Any, _cu: Any, statement: str, _p: Any, context: Any, _many: bool) -> None:
        self.in_statements_s += time.perf_counter() - context.bench_began
        self.statements += 1
        self.by_statement[" ".join(statement.split())[:90]] += 1

    def _commit(self, _: Any) -> None:
        self.commits += 1

    def _rollback(self, _: Any) -> None:
        self.rollbacks += 1
