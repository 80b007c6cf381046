"""Between two rows of one statement: a row trigger, in a schema that only tests have.

Before each row that is written it notes the row, and takes and gives back a shared advisory lock on the row's key.
Whoever holds that lock exclusively halts a bulk statement right there: the rows before are locked, and this one is.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attrs import frozen

from scheduler.store.writer import Transaction
from tests.interleavings.monitor import Monitor
from tests.interleavings.observe import RANKED

UNIQUE = {
    "seat": ("uuid",),
    "dag_file": ("path",),
    "dag": ("dag_id",),
    "dag_run": ("dag_pk", "run_id"),
    "pool": ("name",),
    "task_instance": ("run_pk", "task_index", "map_index"),
}
"""The contended unique key of each table that has a rank: INSERT arrives in its order."""

_FUNCTION = """
CREATE SCHEMA stepping;
CREATE FUNCTION stepping.row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE r record; seen text := coalesce(current_setting('stepping.rows', true), '');
BEGIN
  IF TG_OP = 'DELETE' THEN r := OLD; ELSE r := NEW; END IF;
  PERFORM set_config('stepping.rows', seen || jsonb_build_array(TG_TABLE_NAME, TG_OP, to_jsonb(r)) || E'\\n', true);
  PERFORM pg_advisory_lock_shared(TG_RELID::integer, r.id::integer);
  PERFORM pg_advisory_unlock_shared(TG_RELID::integer, r.id::integer);
  RETURN r;
END $$;
"""
TRIGGERS = _FUNCTION + "".join(
    f"CREATE TRIGGER stepping BEFORE INSERT OR UPDATE OR DELETE ON public.{table}"
    " FOR EACH ROW EXECUTE FUNCTION stepping.row();"
    for table in RANKED
)
"""Setting a scene does not fire them: the monitor's session is a replica's."""


@frozen
class Visit:
    """A row that a statement came to."""

    table: str
    verb: str
    key: int
    unique: tuple[object, ...]


async def visits(transaction: Transaction) -> list[Visit]:
    """The rows this transaction has written so far, in the order in which it came to them."""
    text = await transaction._driver.fetchval("SELECT current_setting('stepping.rows', true)")
    found = []
    for line in (text or "").splitlines():
        table, verb, row = json.loads(line)
        found.append(Visit(table, verb, row["id"], tuple(row[column] for column in UNIQUE[table])))
    return found


class Recorder:
    """A stepper that keeps the visits of each statement apart."""

    def __init__(self, opening: str = "") -> None:
        self.statements: list[tuple[str, list[Visit]]] = []
        self._opening = opening
        self._seen = 0

    async def before(self, transaction: Transaction, text: str) -> None:
        if self._opening:
            await transaction._driver.execute(self._opening)
            self._opening = ""

    async def after(self, transaction: Transaction, text: str) -> None:
        if text == "COMMIT":
            return
        everything = await visits(transaction)
        if len(everything) > self._seen:
            self.statements.append((text, everything[self._seen :]))
            self._seen = len(everything)


@asynccontextmanager
async def halted_at(controller: Monitor, visit: Visit) -> AsyncIterator[None]:
    """Nobody gets past this row in the block."""
    row = (visit.table, visit.key)
    await controller.execute("SELECT pg_advisory_lock($1::regclass::oid::integer, $2)", *row)
    try:
        yield
    finally:
        await controller.execute("SELECT pg_advisory_unlock($1::regclass::oid::integer, $2)", *row)
