"""Each locking and each writing statement, in mutated forms: all told from the original, or excused in writing."""

import inspect
import sys
from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa
import trio

from scheduler.store.locks import LockStatement
from scheduler.store.statements import compiled
from tests.database import Server
from tests.store.test_locking_law import load_writers
from tests.stress import lives
from tests.stress.kills import compact
from tests.stress.report import tell
from tests.stress.statements import Inspector, Verdicts, inspecting, short

pytestmark = pytest.mark.stress

EXCUSED: dict[tuple[str, str], str] = {
    (
        "FROM dag_run WHERE dag_run.state IN ($3::VARCHAR, $4::VARCHAR) AND dag_run.end_date <",
        "without dag_run.state",
    ): ("the schema allows an end_date for finished runs and for no others, and NULL is before nothing"),
    (
        "WHERE dag.dag_id = $1::VARCHAR ORDER BY",
        "ORDER BY dropped",
    ): "dag_id is unique, so it locks one row at most, and one row has one order",
    (
        "WHERE pool.name = ANY ($1::TEXT[]) ORDER BY pool.id FOR UPDATE",
        "ORDER BY dropped",
    ): "name is unique and drop_pool gives one: one row at most",
}
"""(part of the statement, part of what was done) -> why nothing can tell the mutant from the original."""


def every_locking_statement() -> dict[str, str]:
    """The text of each in the code base, by where it stands."""
    load_writers()
    return {
        f"{name}.{attribute}": short(compiled(value.select).text)
        for name, module in list(sys.modules.items())
        if name.startswith("scheduler.")
        for attribute, value in vars(module).items()
        if isinstance(value, LockStatement)
    }


def names_of_statements() -> dict[str, str]:
    """Where each statement stands that is made at import, by its text."""
    return {
        short(compiled(value.select if isinstance(value, LockStatement) else value).text): (
            f"{name.removeprefix('scheduler.')}.{attribute}"
        )
        for name, module in list(sys.modules.items())
        if name.startswith("scheduler.")
        for attribute, value in vars(module).items()
        if isinstance(value, LockStatement | sa.TextClause | sa.UpdateBase)
    }


def lives_in(module: ModuleType) -> list[Callable[[str], Coroutine[Any, Any, None]]]:
    """Its async tests that need a database and nothing else."""
    return [
        one
        for name, one in vars(module).items()
        if name.startswith("test_")
        and inspect.iscoroutinefunction(one)
        and list(inspect.signature(one).parameters) == ["dsn"]
    ]


@pytest.mark.takes(40)
def test_every_mutant_of_a_statement_is_killed_or_excused(server: Server) -> None:
    verdicts = Verdicts()
    for test in lives_in(lives):
        with server.database() as dsn:

            async def life(test=test, dsn=dsn) -> None:  # type: ignore[no-untyped-def]
                with trio.fail_after(120), inspecting(Inspector(dsn, verdicts)):
                    await test(dsn)

            trio.run(life)
    survivors = {key: times for key, times in verdicts.alive.items() if not excuse(*key)}
    names = names_of_statements()
    for (text, what), why in verdicts.killed.items():
        tell("mutants", f"statement {names.get(text) or compact(text, 60)}, {compact(what, 70)}: {compact(why, 70)}")
    for text, what in verdicts.alive.keys() - survivors.keys():
        why = f"excused: {excuse(text, what)}"
        tell("mutants", f"statement {names.get(text) or compact(text, 60)}, {compact(what, 70)}: {compact(why, 70)}")
    tell(
        "mutants",
        f"of statements: {len(verdicts.killed)} killed, {len(verdicts.alive) - len(survivors)} excused, "
        f"{len(survivors)} survive; originals passed {verdicts.checked} inspections",
    )
    assert not survivors, "\n".join(f"{what} ({times} times): {text}" for (text, what), times in survivors.items())
    unused = [key for key in EXCUSED if not any(key[0] in text and key[1] in what for text, what in verdicts.alive)]
    assert not unused, f"these are killed, or gone: no excuse is needed: {unused}"
    judged = {text for text, _ in [*verdicts.killed, *verdicts.alive]}
    missing = [where for where, text in every_locking_statement().items() if text not in judged]
    assert not missing, "these locking statements were never run: give them a life in lives.py"


def excuse(text: str, what: str) -> str | None:
    return next((why for (part, done), why in EXCUSED.items() if part in text and done in what), None)
