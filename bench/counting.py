"""Counts what the store sends: statements and commits do not depend on how busy the machine is."""

from collections import Counter
from typing import Any

import sqlalchemy as sa
from attrs import define, field

from scheduler.store.transaction import Store

BRACKETS = ("BEGIN", "COMMIT", "ROLLBACK")


@define(eq=False)
class Counts:
    """On the hot connections only, seen by the driver itself; heartbeats and views have connections of their own."""

    statements: int = 0
    """Without those that begin and end transactions."""
    commits: int = 0
    rollbacks: int = 0
    in_statements_s: float = 0.0
    """From sending a statement to its result: PostgreSQL, the socket, and whoever ran meanwhile."""
    by_statement: Counter[str] = field(factory=Counter)
    seconds_by_statement: Counter[str] = field(factory=Counter)

    def watch(self, store: Store) -> None:
        """Count from now on."""

        def checked_out(connection: Any, _record: Any, _proxy: Any) -> None:
            connection.driver_connection.add_query_logger(self._note)

        sa.event.listen(store.engine.sync_engine, "checkout", checked_out)

    def reset(self) -> None:
        self.statements = self.commits = self.rollbacks = 0
        self.in_statements_s = 0.0
        self.by_statement.clear()
        self.seconds_by_statement.clear()

    def _note(self, query: Any) -> None:
        text = " ".join(query.query.split())
        word = text.split(" ", 1)[0].rstrip(";")
        self.in_statements_s += query.elapsed
        self.commits += word == "COMMIT"
        self.rollbacks += word == "ROLLBACK"
        self.statements += word not in BRACKETS
        self.by_statement[text[:100]] += 1
        self.seconds_by_statement[text[:100]] += query.elapsed
