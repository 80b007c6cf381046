"""There is no way round the law of locks: what writes or locks goes through the methods that check it."""

import ast
import re
from pathlib import Path

import sqlalchemy as sa
from attrs import frozen

from scheduler.store import seats, views
from scheduler.store.statements import compiled
from tests.interleavings import cases
from tests.store.test_locking_law import modules
from tests.test_tidy import without_prose
from tests.world import open_world


async def test_the_database_hides_no_locks(dsn: str) -> None:
    """As above, of what the migrations have made."""
    async with open_world(dsn) as world:
        assert await world.rows("SELECT tgname, tgrelid::regclass FROM pg_trigger WHERE NOT tgisinternal") == []
        constraints = await world.rows(
            "SELECT conname, contype::text AS kind, condeferrable, confdeltype::text AS deleted, confupdtype::text AS"
            " updated FROM pg_constraint WHERE connamespace = current_schema()::regnamespace"
        )
        assert [one["conname"] for one in constraints if one["condeferrable"]] == [], "checked, and locked, at COMMIT"
        foreign = [one for one in constraints if one["kind"] == "f"]
        assert foreign
        cascading = [one["conname"] for one in foreign if (one["deleted"], one["updated"]) != ("a", "a")]
        assert cascading == [], "a cascade locks rows in the order it finds them"
        rules = "SELECT rulename FROM pg_rules WHERE schemaname = current_schema()"
        assert await world.rows(rules) == []


WRITING = re.compile(r"\b(INSERT|UPDATE|DELETE|MERGE|TRUNCATE)\b")
READS, APPENDS, CONSUMES = "fetch", "append", "consume"
RECEIVERS = ("tx", "reading")
DRIVER = ("scheduler.store.writer", "scheduler.store.transaction")
"""Where the connection's own methods are called."""


@frozen(kw_only=True)
class Call:
    """A call of a transaction's method, with the SQL that it is given."""

    where: str
    text: str | None
    """None: nobody can tell before it runs."""


def calls_of(method: str, position: int) -> list[Call]:
    """All calls `tx.METHOD(...)`, or `reading.METHOD(...)`, in the rooms; the statement stands at `position`."""
    found = []
    for module in modules():
        assert module.__file__ is not None
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method):
                continue
            where = f"{module.__name__}:{node.lineno}"
            if ast.unparse(node.func.value) not in RECEIVERS:
                assert method != READS or module.__name__ in DRIVER, f"{where}: call it tx, or reading"
                continue
            for name in _names(node.args[position]):
                made = getattr(module, name, None)
                text = compiled(made).text if isinstance(made, sa.Executable) else None
                found.append(Call(where=f"{where} {name}", text=text))
    return found


def _names(statement: ast.expr) -> list[str]:
    """The names of module-level statements that this may be."""
    if isinstance(statement, ast.IfExp):
        return [*_names(statement.body), *_names(statement.orelse)]
    return [statement.id if isinstance(statement, ast.Name) else ast.unparse(statement)]


def test_what_is_fetched_writes_and_locks_nothing() -> None:
    calls = calls_of(READS, 0)
    assert len(calls) > 40
    made_on_the_spot = {call.where.split(":")[0] for call in calls if call.text is None}
    assert made_on_the_spot <= {"scheduler.store.views"}, "give fetch a statement that is made at import"
    bad = [call.where for call in calls if call.text is not None and WRITING.search(call.text)]
    assert not bad, "write with write, write_with_satellites, write_together, write_satellite or insert"


def test_views_only_select() -> None:
    assert views.__file__ is not None
    text = without_prose(Path(views.__file__).read_text())
    assert not re.search(r"sa\.(insert|update|delete)\(|\.(insert|update|delete)\(\)", text)
    assert not WRITING.search(text)


def test_what_is_appended_is_an_insert_and_what_is_consumed_a_delete() -> None:
    appended, consumed = calls_of(APPENDS, 1), calls_of(CONSUMES, 2)
    assert appended
    assert consumed
    for calls, verb in ((appended, "INSERT"), (consumed, "DELETE")):
        for call in calls:
            assert call.text is not None, call.where
            assert WRITING.findall(call.text) == [verb], f"{call.where}: {call.text}"


def test_statements_of_their_own_are_seats_and_have_a_case() -> None:
    """`Store.single` is a transaction of one statement on one row, with no writer: heartbeats and their like."""
    assert seats.__file__ is not None
    singles = {
        function.name
        for function in ast.walk(ast.parse(Path(seats.__file__).read_text()))
        if isinstance(function, ast.AsyncFunctionDef) and "store.single(" in ast.unparse(function)
    }
    assert singles == set(cases.SINGLES)
