"""Scripts of SQL played on real connections, one statement at a time, in an order that somebody else chooses.

A move lets one writer send its next statement, or, where a table has the row gate, visit its next row. After each
move everybody is settled: at rest, finished, stopped at a row, or seen blocked in `pg_blocking_pids`. Nothing waits
on time. With `deadlock_timeout` at 30 s a cycle is seen here before PostgreSQL breaks it; `play(..., patient=False)`
lets PostgreSQL find the same one by itself, as production would.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import asyncpg
from attrs import Factory, define, frozen

from tests.database import Server

ROWS = 12
"""Keys of rows that the gate can stop at: 1 to this."""

GATE = """
CREATE OR REPLACE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE me integer := nullif(current_setting('stress.me', true), '')::integer; here integer;
BEGIN
  IF TG_OP = 'DELETE' THEN here := OLD.id; ELSE here := NEW.id; END IF;
  IF me IS NOT NULL THEN
    PERFORM pg_advisory_lock_shared(me, here);
    PERFORM pg_advisory_unlock_shared(me, here);
  END IF;
  IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
  RETURN NEW;
END $$
"""
"""Row level only: the row is locked before the body runs, so a writer stops holding what it has visited."""

SETTLED = """
SELECT p.pid, pg_blocking_pids(p.pid) AS by,
  (SELECT l.objid FROM pg_locks l WHERE l.pid = p.pid AND NOT l.granted AND l.locktype = 'advisory'
   AND l.objsubid = 2 LIMIT 1) AS row
FROM unnest($1::integer[]) AS p(pid)
"""

PLANS: Mapping[str, Sequence[str]] = {
    "as it likes": (),
    "index scans": ("seqscan", "bitmapscan"),
    "bitmap scans": ("seqscan", "indexscan", "indexonlyscan"),
    "heap scans": ("indexscan", "bitmapscan", "indexonlyscan"),
    "hash joins": ("nestloop", "mergejoin", "indexscan", "bitmapscan"),
    "nested loops": ("hashjoin", "mergejoin", "seqscan"),
    "merge joins": ("hashjoin", "nestloop"),
}
"""What the planner may not use, by name."""


@frozen
class Script:
    """One writer: a transaction of these statements. `{x}` stands for the values of column x read so far."""

    name: str
    steps: tuple[str, ...]


@define(eq=False)
class Actor:
    """A writer at work."""

    script: Script
    connection: Any
    pid: int
    me: int
    at: int = 0
    pending: "asyncio.Task[Any] | None" = None
    row: int | None = None
    blocked_by: frozenset[int] = frozenset()
    memory: dict[str, list[Any]] = Factory(dict)
    error: asyncpg.PostgresError | None = None
    done: bool = False

    @property
    def name(self) -> str:
        return f"{'ABCDEF'[self.me]} ({self.script.name})"


@frozen
class Played:
    """How a play ended."""

    moves: tuple[int, ...]
    story: tuple[str, ...]
    cycle: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    """SQLSTATEs that PostgreSQL answered with."""
    broken: str | None = None

    @property
    def is_bad(self) -> bool:
        return bool(self.cycle) or self.broken is not None

    def __str__(self) -> str:
        end = [f"cycle of waits: {' -> '.join(self.cycle)}"] if self.cycle else []
        end += [f"wrong: {self.broken}"] if self.broken else []
        return "\n".join([*self.story, *end])


Choose = Callable[[Sequence[int]], int]
"""From the numbers of the writers that can move, the one that does."""


class Stage:
    """Connections to a database with a row gate, kept over many plays. A plain thread may use it: it has a loop."""

    def __init__(self, dsn: str, actors: int = 4) -> None:
        self._loop = asyncio.SelectorEventLoop()  # new_event_loop() would give one on top of trio
        self._dsn = dsn.replace("+asyncpg", "")
        self.plays = 0
        self.moves = 0
        self._run(self._open(actors))

    def _run(self, coroutine: Any) -> Any:
        return self._loop.run_until_complete(coroutine)

    async def _open(self, actors: int) -> None:
        self._watcher = await asyncpg.connect(self._dsn)
        self._pid = self._watcher.get_server_pid()
        self._actors = []
        for _ in range(actors):
            # without a cache of statements: a kept plan would outlive the planner's settings
            connection = await asyncpg.connect(
                self._dsn, statement_cache_size=0, server_settings={"deadlock_timeout": "30s"}
            )
            self._actors.append((connection, connection.get_server_pid()))
        await self._watcher.execute(GATE)

    def close(self) -> None:
        async def close() -> None:
            for connection in [self._watcher, *(one for one, _ in self._actors)]:
                await connection.close()

        self._run(close())
        self._loop.close()

    def sql(self, text: str) -> list[Any]:
        """Run some SQL beside the play."""

        async def run() -> list[Any]:
            if text.count(";") > 0:
                await self._watcher.execute(text)
                return []
            return list(await self._watcher.fetch(text))

        result: list[Any] = self._run(run())
        return result

    def play(
        self,
        scripts: Sequence[Script],
        choose: Choose,
        *,
        reset: str = "",
        plans: Sequence[str] = (),
        by_row: bool = False,
        invariant: str | None = None,
        patient: bool = True,
    ) -> Played:
        """Play the scripts to the end, or to a cycle of waits.

        `invariant` is a query that returns a sentence (or null) once all have finished. With `patient=False`
        PostgreSQL breaks cycles after 10 ms.
        """
        self.plays += 1
        played: Played = self._run(self._play(scripts, choose, reset, plans, by_row, invariant, patient))
        self.moves += len(played.moves)
        return played

    async def _play(
        self,
        scripts: Sequence[Script],
        choose: Choose,
        reset: str,
        plans: Sequence[str],
        by_row: bool,
        invariant: str | None,
        patient: bool,
    ) -> Played:
        if reset:
            await self._watcher.execute(reset)
        actors = [Actor(s, *self._actors[i], me=i) for i, s in enumerate(scripts)]
        story, moves, cycle = [f"plans: {', '.join(plans)}"] if plans else [], [], ()
        try:
            if by_row:
                await self._watcher.execute(
                    f"SELECT pg_advisory_lock(m, r) FROM generate_series(0, {len(actors) - 1}) m,"
                    f" generate_series(1, {ROWS}) r"
                )
            for i, actor in enumerate(actors):
                await self._begin(actor, plans[i] if plans else "as it likes", patient)
            while True:
                movable = [i for i, one in enumerate(actors) if (not one.done and one.pending is None) or one.row]
                if not movable:
                    break
                chosen = choose(movable)
                moves.append(chosen)
                story.append(await self._move(actors[chosen]))
                await self._settle(actors, patient)
                cycle = _cycle(actors) if patient else ()
                if cycle:
                    break
            assert cycle or all(one.done for one in actors), [(one.name, one.blocked_by) for one in actors]
        finally:
            await self._clean_up(actors, by_row)
        broken = None
        if not cycle and invariant is not None:
            broken = await self._watcher.fetchval(invariant)
        errors = tuple(str(one.error.sqlstate) for one in actors if one.error is not None)
        return Played(tuple(moves), tuple(story), tuple(cycle), errors, broken)

    async def _begin(self, actor: Actor, plan: str, patient: bool) -> None:
        settings = [f"SET enable_{name} = off" for name in PLANS[plan]]
        timeout = "30s" if patient else "10ms"
        await actor.connection.execute(
            "; ".join([f"SET stress.me = {actor.me}", f"SET deadlock_timeout = '{timeout}'", *settings, "BEGIN"])
        )

    async def _move(self, actor: Actor) -> str:
        if actor.row is not None:
            row, actor.row = actor.row, None
            await self._watcher.execute(f"SELECT pg_advisory_unlock({actor.me}, {row})")
            return f"{actor.name}: goes on from row {row}"
        steps = actor.script.steps
        if actor.at == len(steps):
            actor.pending = asyncio.ensure_future(actor.connection.execute("COMMIT"))
            actor.at += 1
            return f"{actor.name}: COMMIT"
        known = {name: ", ".join(map(str, values)) or "NULL" for name, values in actor.memory.items()}
        text = steps[actor.at].format_map(known)
        actor.at += 1
        actor.pending = asyncio.ensure_future(actor.connection.fetch(text))
        return f"{actor.name}: {text}"

    async def _settle(self, actors: Sequence[Actor], patient: bool) -> None:
        """Until everybody is at rest, stopped at a row, or seen blocked twice in a row (impatient: and in no cycle)."""
        seen_before: dict[int, frozenset[int]] | None = None
        until = self._loop.time() + 20
        while True:
            assert self._loop.time() < until, f"unsettled: {[(one.name, one.at, one.blocked_by) for one in actors]}"
            under_way = [one for one in actors if one.pending is not None and one.row is None]
            running = [one.pending for one in under_way if one.pending is not None and not one.blocked_by]
            if running:
                await asyncio.wait(running, timeout=0.002)
            for one in under_way:
                assert one.pending is not None
                if one.pending.done():
                    await self._arrived(one)
            waiting = [one for one in under_way if one.pending is not None]
            if not waiting:
                return
            rows = {row["pid"]: row for row in await self._watcher.fetch(SETTLED, [one.pid for one in waiting])}
            for one in waiting:
                seen = rows[one.pid]
                one.blocked_by = frozenset(seen["by"])
                one.row = seen["row"] if self._pid in one.blocked_by else None
            picture = {one.pid: one.blocked_by for one in waiting}
            if all(picture.values()) and picture == seen_before and (patient or not _cycle(actors)):
                return
            seen_before = picture
            await asyncio.sleep(0)

    async def _arrived(self, actor: Actor) -> None:
        task, actor.pending, actor.blocked_by = actor.pending, None, frozenset()
        assert task is not None
        error = task.exception()
        if isinstance(error, asyncpg.PostgresError):
            actor.error, actor.done = error, True
            await actor.connection.execute("ROLLBACK")
            return
        for row in [] if isinstance(task.result(), str) else task.result():
            for name, value in row.items():
                actor.memory.setdefault(name, []).append(value)
        if not isinstance(task.result(), str) and not task.result():
            actor.memory.setdefault("id", [])
        actor.done = actor.at > len(actor.script.steps)

    async def _clean_up(self, actors: Sequence[Actor], by_row: bool) -> None:
        pending = [one for one in actors if one.pending is not None]
        for one in pending:
            await self._watcher.execute(f"SELECT pg_cancel_backend({one.pid})")
        if by_row:
            await self._watcher.execute("SELECT pg_advisory_unlock_all()")
        for one in pending:
            assert one.pending is not None
            await asyncio.wait([one.pending])
            one.pending.exception()
        for one in actors:
            if one.connection.is_in_transaction():
                await one.connection.execute("ROLLBACK")
            # a cancelled gate may have left its lock behind: those of a session outlive a rollback
            await one.connection.execute("RESET ALL; SELECT pg_advisory_unlock_all()")


def _cycle(actors: Sequence[Actor]) -> Sequence[str]:
    """The names around a cycle of waits, if there is one."""
    by_pid = {one.pid: one for one in actors}
    waits = {
        one.pid: [pid for pid in one.blocked_by if pid in by_pid]
        for one in actors
        if one.pending is not None and one.row is None
    }
    for start in waits:
        paths = [[start]]
        while paths:
            path = paths.pop()
            for pid in waits.get(path[-1], []):
                if pid == start:
                    return [by_pid[one].name for one in [*path, start]]
                if pid not in path:
                    paths.append([*path, pid])
    return ()


@contextmanager
def open_stage(server: Server, tables: str) -> Iterator[Stage]:
    """A stage in a database of its own, in which `tables` have been made."""
    with server.database(template="template0") as dsn:
        stage = Stage(dsn)
        try:
            stage.sql(tables)
            yield stage
        finally:
            stage.close()
