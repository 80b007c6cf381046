"""Mutants of our SQL, judged where production runs it.

While ordinary tests of routines run, each statement that a transaction locks or writes with is also tried in
mutated forms, on the rows and with the arguments of that moment: locking statements by rivals on connections of
their own, writes in a savepoint of the transaction itself. A mutant is killed when a check tells it from the
original. The original must pass every check, each time.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
from attrs import define, field

from scheduler.store import engine
from scheduler.store.locks import APPEND_ONLY, SATELLITES, Lock, LockStatement, Mode, Wait
from scheduler.store.statements import compiled
from scheduler.store.writer import Transaction

MOVED = {
    Lock.SEAT: "hostname",
    Lock.DAG_FILE: "path",
    Lock.DAG: "file",
    Lock.DAG_RUN: "run_id",
    Lock.POOL: "name",
    Lock.TASK_INSTANCE: "task_id",
}
"""A column of each table that is written with its own value, to move a row to the end of the heap."""

CLAUSE = re.compile(r"\s+FOR (NO KEY )?UPDATE OF \w+( SKIP LOCKED)?")
ORDER = re.compile(r"\s+ORDER BY [\w.]+(?=\s)")
SCANS = (
    "as it likes",
    "SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off",
    "SET LOCAL enable_seqscan = off",
)

CONTENTS = (
    "SELECT md5(string_agg(c, '|')) FROM ("
    + " UNION ALL ".join(
        # what sequences and clocks put in differs each time, whoever writes
        f"SELECT string_agg(r, '|' ORDER BY r) AS c FROM (SELECT (to_jsonb(t) - ARRAY[{without}])::text AS r"
        f" FROM {table} t) AS {table}"
        for table, without in {
            **dict.fromkeys(("seat", "dag", "dag_version"), "'id', 'created_at', 'started_at'"),
            **dict.fromkeys(("dag_file", "dag_run", "pool", "task_instance", "event"), "'id'"),
            **dict.fromkeys(("attempt", "xcom"), "'none'"),
        }.items()
    )
    + ") AS tables"
)
"""A digest of all rows that are written under locks."""
UPSERT = re.compile(r"\s*ON CONFLICT (\([\w, ]+\) )?DO (NOTHING|UPDATE SET [\w]+ = [\w.]+)")


def short(text: str) -> str:
    """A statement in one line."""
    return " ".join(text.split())


def lock_mutants(text: str) -> dict[str, str]:
    """Forms of a locking statement that break the law, by what was done."""
    made = {"ORDER BY dropped": ORDER.sub(" ", text), "locking clause dropped": CLAUSE.sub("", text)}
    made["stronger or weaker mode"] = (
        text.replace("FOR NO KEY UPDATE", "FOR UPDATE")
        if "NO KEY" in text
        else text.replace("FOR UPDATE", "FOR NO KEY UPDATE")
    )
    if "SKIP LOCKED" in text:
        made["SKIP LOCKED dropped"] = text.replace(" SKIP LOCKED", "")
    else:
        made["SKIP LOCKED added"] = f"{text} SKIP LOCKED"
    for what, mutant in made.items():
        assert mutant != text, f"{what}: {text}"
    return made


def conjuncts(text: str) -> Iterator[tuple[str, str]]:
    """(a condition, the statement where it is always true) for each condition of each WHERE.

    Those joined by OR count as one. It stays in the text, so that the statement keeps its parameters.
    """
    for match in re.finditer(r"\bWHERE\s", text):
        start, depth, at = match.end(), 0, match.end()
        cuts = [start]
        while at < len(text):
            char = text[at]
            depth += (char == "(") - (char == ")")
            if depth < 0 or (
                depth == 0 and re.match(r"\s(RETURNING|ORDER BY|LIMIT|FOR|GROUP BY|UNION|ON CONFLICT)\b", text[at:])
            ):
                break
            if depth == 0 and text[at : at + 5] == " AND ":
                cuts += [at, at + 5]
                at += 4
            at += 1
        cuts.append(at)
        for a, b in zip(cuts[::2], cuts[1::2], strict=True):
            before = text[:a].count(text[a:b])
            which = f"{short(text[a:b])}{f' (no. {before + 1})' if before else ''}"
            yield which, f"{text[:a]}({text[a:b]} OR true){text[b:]}"


def write_mutants(text: str) -> dict[str, str]:
    """Forms of a writing statement without one of its conditions, or without its clause for what is there already."""
    made = {f"without {part}": mutant for part, mutant in conjuncts(text)}
    if UPSERT.search(text):
        made["ON CONFLICT dropped"] = UPSERT.sub("", text)
    assert ("ON CONFLICT" in text) == ("ON CONFLICT dropped" in made), text
    return made


@define(eq=False)
class Verdicts:
    """What became of each mutant, over all executions."""

    killed: dict[tuple[str, str], str] = field(factory=dict)
    """(statement, what was done) -> what told them apart."""
    alive: dict[tuple[str, str], int] = field(factory=dict)
    """(statement, what was done) -> in how many executions nothing did."""
    checked: int = 0
    """How often an original passed the checks."""

    def note(self, text: str, what: str, problem: str | None) -> None:
        key = short(text), what
        if problem is not None:
            self.killed[key] = problem
            self.alive.pop(key, None)
        elif key not in self.killed:
            self.alive[key] = self.alive.get(key, 0) + 1


@define(eq=False)
class Inspector:
    """See the module. Put between the writers and their transactions by `inspecting`."""

    dsn: str
    verdicts: Verdicts = field(factory=Verdicts)
    _busy: bool = False

    @asynccontextmanager
    async def _rivals(self, count: int):  # type: ignore[no-untyped-def]
        made = [await asyncpg.connect(self.dsn.replace("+asyncpg", ""), statement_cache_size=0) for _ in range(count)]
        for one in made:
            await one.set_type_codec("uuid", schema="pg_catalog", encoder=str, decoder=str, format="text")
            await one.execute("SET lock_timeout = '50ms'; SET deadlock_timeout = '10s'")
        try:
            yield made
        finally:
            for one in made:
                await one.close()

    async def lock(self, tx: Transaction, statement: LockStatement, params: dict[str, Any]) -> None:
        """Judge a locking statement that is about to be run."""
        made = compiled(statement.select)
        text, arguments = made.text, made.arguments(params)
        await self.conditions(tx, statement, text, arguments)
        todo = {
            what: mutant
            for what, mutant in lock_mutants(text).items()
            if (short(text), what) not in self.verdicts.killed
        }
        if not todo:
            return
        async with self._rivals(3) as rivals:
            problem = await self._lock_problem(rivals, statement, text, arguments)
            assert problem in (None, ""), f"{tx.name}: {problem}: {short(text)}"
            if problem is None:
                self.verdicts.checked += 1
                for what, mutant in todo.items():
                    self.verdicts.note(
                        text, what, await self._lock_problem(rivals, statement, mutant, arguments) or None
                    )

    async def _lock_problem(
        self, rivals: Sequence[Any], statement: LockStatement, text: str, arguments: list[Any]
    ) -> str | None:
        """What is wrong with it; None: nothing; "": it locked nothing, so nothing can be said."""
        first, second, third = rivals
        table, column = statement.lock.table.name, MOVED[statement.lock]
        for key in [row["id"] for row in await third.fetch(f"SELECT id FROM {table} ORDER BY id DESC")]:
            try:
                await third.execute(f"UPDATE {table} SET {column} = {column} WHERE id = {key}")
            except asyncpg.LockNotAvailableError:
                continue
        try:
            for plan in SCANS:
                await first.execute("BEGIN" if plan == SCANS[0] else f"BEGIN; {plan}")
                keys = [row["id"] for row in await first.fetch(text, *arguments)]
                if not keys:
                    return ""
                if keys != sorted(keys):
                    return f"not in order: {keys}"
                if await self._free(second, table, keys, "NO KEY UPDATE"):
                    return "rows returned and not locked"
                shared = await self._free(second, table, keys, "KEY SHARE")
                if statement.mode is Mode.NO_KEY_UPDATE and len(shared) != len(keys):
                    return "locked more strongly than declared"
                if statement.mode is Mode.UPDATE and shared:
                    return "locked more weakly than declared"
                try:
                    others = await second.fetch(text, *arguments)
                except asyncpg.LockNotAvailableError:
                    if statement.wait is Wait.SKIP:
                        return "waits, though declared to skip"
                else:
                    if statement.wait is Wait.WAIT:
                        return f"does not wait: returns {len(others)} rows"
                await first.execute("ROLLBACK")
            return None
        finally:
            if first.is_in_transaction():
                await first.execute("ROLLBACK")

    async def _free(self, rival: Any, table: str, keys: list[int], mode: str) -> list[int]:
        rows = await rival.fetch(f"SELECT id FROM {table} WHERE id = ANY($1::bigint[]) FOR {mode} SKIP LOCKED", keys)
        return [row["id"] for row in rows]

    async def conditions(self, tx: Transaction, statement: LockStatement, text: str, arguments: list[Any]) -> None:
        """Judge each condition of a locking statement by the rows that are locked."""
        mutants = {f"without {part}": mutant for part, mutant in conjuncts(text)}
        todo = {what: one for what, one in mutants.items() if (short(text), what) not in self.verdicts.killed}
        if not todo:
            return
        everybody = [row["id"] for row in await tx._driver.fetch(f"SELECT id FROM {statement.lock.table.name}")]
        for disturbance in ("", *disturbances(statement.lock, everybody)) if everybody else ():
            if not todo:
                return
            original = await self._keys(tx._driver, text, arguments, disturbance)
            assert original == await self._keys(tx._driver, text, arguments, disturbance)
            for what, mutant in list(todo.items()):
                if await self._keys(tx._driver, mutant, arguments, disturbance) != original:
                    self.verdicts.note(text, what, f"other rows locked {disturbance and 'after ' + disturbance}")
                    del todo[what]
        for what in todo:
            self.verdicts.note(text, what, None)

    async def _keys(self, driver: Any, text: str, arguments: list[Any], after: str) -> list[Any]:
        await driver.execute("SAVEPOINT judging")
        try:
            if after:
                await driver.execute(after)
            return [row["id"] for row in await driver.fetch(text, *arguments)]
        except asyncpg.PostgresError as error:
            return [error.sqlstate]
        finally:
            await driver.execute("ROLLBACK TO SAVEPOINT judging")

    async def write(
        self, tx: Transaction, rows: Mapping[Lock, Sequence[int]], text: str, arguments: list[Any], *, counts: bool
    ) -> None:
        """Judge a writing statement that is about to be run on these rows; `counts`: it is to touch as many."""
        todo = {
            what: mutant
            for what, mutant in write_mutants(text).items()
            if (short(text), what) not in self.verdicts.killed
        }
        if not todo:
            return
        self.verdicts.checked += 1
        # two forms are run at two instants
        text_now, todo = still(text), {what: still(mutant) for what, mutant in todo.items()}
        driver = tx._driver
        original = await self._effect(driver, text_now, arguments)
        assert original == await self._effect(driver, text_now, arguments), f"not the same twice: {short(text)}"
        expected = sum(len(keys) for keys in rows.values())
        assert not counts or original[0] == expected, f"{tx.name}: {short(text)} touches {original}"
        for what, mutant in list(todo.items()):
            if await self._effect(driver, mutant, arguments) != original:
                self.verdicts.note(text, what, "another effect")
                del todo[what]
        before = [*(one for lock, keys in rows.items() if keys for one in disturbances(lock, keys)), ITSELF]
        for disturbance in before:
            if not todo:
                return
            fenced = await self._effect(driver, text_now, arguments, after=disturbance)
            for what, mutant in list(todo.items()):
                if await self._effect(driver, mutant, arguments, after=disturbance, original=text_now) != fenced:
                    self.verdicts.note(text, what, f"not fenced against: {disturbance}")
                    del todo[what]
        for what in todo:
            self.verdicts.note(text, what, None)

    async def _effect(
        self, driver: Any, text: str, arguments: list[Any], *, after: str = "", original: str = ""
    ) -> tuple[Any, ...]:
        """How many rows it writes and what all tables hold then, or the SQLSTATE; undone."""
        await driver.execute("SAVEPOINT judging")
        try:
            if after == ITSELF:
                await driver.fetch(original or text, *arguments)
            elif after:
                await driver.execute(after)
            if text.startswith("WITH"):
                touched = sum((await driver.fetchrow(text, *arguments)).values())
            else:
                touched = int((await driver.execute(text, *arguments)).rsplit(" ", 1)[-1])
            return touched, await driver.fetchval(CONTENTS)
        except asyncpg.PostgresError as error:
            return (str(error.sqlstate),)
        finally:
            await driver.execute("ROLLBACK TO SAVEPOINT judging")


ITSELF = "the same statement, once before"


def still(text: str) -> str:
    """With a clock that does not go on within a transaction."""
    return text.replace("clock_timestamp()", "transaction_timestamp()")


ACTIVE = ("queued", "running", "restarting")
TASK_STATES = ("none", "scheduled", *ACTIVE, "success", "failed", "skipped", "up_for_retry")
RUN_STATES = ("queued", "running", "success", "failed")


def disturbances(lock: Lock, keys: Sequence[int]) -> list[str]:
    """Ways in which rows may turn out to be other than a writer believes."""
    listed = ", ".join(map(str, keys))
    which, others = f"WHERE id IN ({listed})", f"WHERE id NOT IN ({listed})"
    if lock is Lock.TASK_INSTANCE:
        made = [
            f"UPDATE task_instance SET state = '{state}', token ="
            f" {'coalesce(token, gen_random_uuid())' if state in ACTIVE else 'NULL'} {which}"
            for state in TASK_STATES
        ]
        made.append(f"UPDATE task_instance SET token = gen_random_uuid() {which} AND token IS NOT NULL")
        of = f"WHERE ti_id IN ({', '.join(map(str, keys))})"
        return [
            *made,
            *(f"UPDATE attempt SET state = '{state}' {of}" for state in ("queued", "running", "success", "lost")),
            f"INSERT INTO xcom SELECT id, 'return_value', '0' FROM task_instance {which} ON CONFLICT DO NOTHING",
        ]
    if lock is Lock.DAG_RUN:
        return [
            f"UPDATE dag_run SET state = '{state}',"
            f" end_date = {end if state in ('success', 'failed') else 'NULL'} {rows}"
            for rows in (which, others)
            for end in ("now()", "'infinity'")
            for state in RUN_STATES
        ] + [
            "INSERT INTO event (run_pk, kind, due_at) VALUES (0, 'task', now())",
            f"INSERT INTO event (run_pk, kind, due_at) SELECT id, 'task', now() FROM dag_run {which}",
        ]
    if lock is Lock.DAG:
        return [
            f"UPDATE dag SET {change} {which}"
            for change in (
                "is_present = true, is_paused = false, next_due = '-infinity'",
                "is_present = true, is_paused = true, next_due = '-infinity'",
                "is_present = false, is_paused = false, next_due = '-infinity'",
                "is_present = true, is_paused = false, next_due = 'infinity'",
                "file = 'elsewhere'",
            )
        ] + [
            f"{runs}; UPDATE dag SET is_present = true, is_paused = false, {change} {which}"
            for runs in (
                "UPDATE dag_run SET state = 'success', end_date = now()",
                # one dag has an active run, the others have none
                "UPDATE dag_run SET state = 'success', end_date = now(); UPDATE dag_run SET state = 'running',"
                " end_date = NULL WHERE id = (SELECT min(id) FROM dag_run)",
            )
            for change in (
                "next_due = '-infinity', max_active_runs = 1, is_continuous = false",
                "next_due = 'infinity', is_continuous = true",
            )
        ]
    if lock is Lock.SEAT:
        return [
            f"UPDATE seat SET {change} {which}"
            for change in (
                "lease_until = '-infinity'",
                "lease_until = 'infinity'",
                "lease_until = '-infinity', kind = 'worker'",
                "lease_until = '-infinity', kind = 'daemon'",
                "lease_until = 'infinity', hostname = 'elsewhere'",
                "lease_until = 'infinity', home = 'elsewhere'",
                "lease_until = 'infinity', kind = 'worker'",
            )
        ] + [
            f"UPDATE seat SET lease_until = '-infinity', kind = 'worker'; UPDATE attempt SET {change}"
            for change in (
                "state = 'success'",
                "state = 'running', worker = (SELECT min(uuid::text)::uuid FROM seat), daemon = gen_random_uuid()",
                "state = 'queued', worker = NULL, daemon = (SELECT min(uuid::text)::uuid FROM seat)",
            )
        ]
    return []


@contextmanager
def inspecting(inspector: Inspector) -> Iterator[None]:
    """Every lock and write of every transaction passes the inspector first."""
    names = (
        "lock",
        "write",
        "write_with_satellites",
        "write_together",
        "write_satellite",
        "insert",
        "append",
        "consume",
    )
    usual_methods = {name: getattr(Transaction, name) for name in names}

    async def inspected_lock(self: Transaction, statement: LockStatement, **params: Any) -> list[int]:
        await inspector.lock(self, statement, params)
        keys: list[int] = await usual_methods["lock"](self, statement, **params)
        return keys

    def owned(name: str) -> Any:
        """What names a lock or a table, and the keys of its rows or of their owners."""

        async def through(self: Transaction, where: Any, keys: Any, statement: Any, params: Any = None) -> Any:
            made = compiled(statement)
            lock = where if isinstance(where, Lock) else {**SATELLITES, **APPEND_ONLY}[where]
            if keys:
                arguments, counts = made.arguments(params), isinstance(where, Lock)
                await inspector.write(self, {lock: sorted(keys)}, made.text, arguments, counts=counts)
            return await usual_methods[name](self, where, keys, statement, params)

        return through

    def inserting(name: str) -> Any:
        """What names a lock or a table, and no rows: they come to be."""

        async def through(self: Transaction, where: Any, statement: Any, params: Any = None) -> Any:
            made = compiled(statement)
            await inspector.write(self, {}, made.text, made.arguments(params), counts=False)
            return await usual_methods[name](self, where, statement, params)

        return through

    async def inspected_together(self: Transaction, rows: Any, statement: Any, params: Any = None) -> None:
        made = compiled(statement)
        await inspector.write(self, rows, made.text, made.arguments(params), counts=True)
        await usual_methods["write_together"](self, rows, statement, params)

    # the inspections happen inside the transactions and take many times as long as these
    limits: Any = engine
    usual, limits.Limits = (
        engine.Limits,
        lambda: usual(statement=30.0, command=30.5, transaction=60.0, server_transaction=60.0),
    )
    patched: Any = Transaction
    patched.lock = inspected_lock
    patched.write_together = inspected_together
    for name in ("write", "write_with_satellites", "write_satellite", "consume"):
        setattr(patched, name, owned(name))
    for name in ("insert", "append"):
        setattr(patched, name, inserting(name))
    try:
        yield
    finally:
        limits.Limits = usual
        for name, method in usual_methods.items():
            setattr(patched, name, method)
