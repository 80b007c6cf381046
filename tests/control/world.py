"""A small installation in a real database: what the handlers are asked about."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from attrs import define

from nurseries.bridge import open_bridge
from nurseries.switchboard import Switchboard
from scheduler.commands import Commands
from scheduler.control import ControlContext
from scheduler.control.handlers import OPERATIONS
from scheduler.model import Dag, Schedule, ScheduleKind, Task
from scheduler.store import tables as t
from scheduler.store.documents import Graphs, encode
from scheduler.store.engine import open_store
from scheduler.store.transaction import Store

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@define
class World:
    """An open store, and the context the handlers get."""

    store: Store
    context: ControlContext
    switchboard: Switchboard

    async def ask(self, op: str, **args: Any) -> Any:
        """Serve one request as the server would, without the socket."""
        import msgspec

        operation = OPERATIONS[op]
        arguments = msgspec.convert(args, operation.arguments)
        result = await operation.run(self.context, arguments)
        return msgspec.json.decode(msgspec.json.encode(result))

    async def insert(self, table: sa.Table, **values: Any) -> Any:
        """Insert one row and return its key."""
        return await self.execute(sa.insert(table).values(**values).returning(*table.primary_key.columns))

    async def execute(self, statement: sa.Executable) -> Any:
        async def crossing() -> Any:
            async with self.store.engine.connect() as connection:
                result = await connection.execute(statement)
                row = result.first() if result.returns_rows else None
                await connection.commit()
                return row[0] if row is not None else None

        return await self.store.bridge.shielded(crossing)

    async def dag(self, dag_id: str, **changed: Any) -> int:
        """A dag of two tasks, every hour, with its version."""
        definition = Dag(
            dag_id=dag_id,
            schedule=Schedule(kind=ScheduleKind.CRON, text="0 * * * *", cron="0 * * * *"),
            tasks=(Task(task_id="extract"), Task(task_id="load", upstream=("extract",))),
            start_date=T0,
        )
        values = {"file": f"{dag_id}.py", "schedule": "0 * * * *", "max_active_runs": 16, "next_due": T0} | changed
        key = await self.insert(t.dag, dag_id=dag_id, **values)
        version = await self.insert(
            t.dag_version, dag_pk=key, number=1, hash="h", document=encode(definition), source="", source_hash="s"
        )
        await self.execute(sa.update(t.dag).where(t.dag.c.id == key).values(version_id=version))
        return int(key)

    async def run(self, dag_pk: int, run_id: str, **changed: Any) -> int:
        """A running run with its two tasks not begun."""
        values = {
            "version_id": await self.version(dag_pk),
            "run_type": "manual",
            "state": "running",
            "run_after": T0,
            "queued_at": T0,
            "start_date": T0,
        }
        key = await self.insert(t.dag_run, dag_pk=dag_pk, run_id=run_id, **(values | changed))
        for index, task_id in enumerate(("extract", "load")):
            await self.task(key, task_id, index)
        return int(key)

    async def version(self, dag_pk: int) -> int:
        return int(await self.execute(sa.select(t.dag.c.version_id).where(t.dag.c.id == dag_pk)))

    async def task(self, run_pk: int, task_id: str, index: int, **changed: Any) -> int:
        values = {
            "state": "none",
            "max_tries": 1,
            "pool": "default_pool",
            "pool_slots": 1,
            "priority": 1,
        }
        given = values | changed
        return int(await self.insert(t.task_instance, run_pk=run_pk, task_id=task_id, task_index=index, **given))

    async def change(self, table: sa.Table, key: Any, **values: Any) -> None:
        """Change the row with this key."""
        (column,) = table.primary_key.columns
        await self.execute(sa.update(table).where(column == key).values(**values))

    async def attempt(self, run_pk: int, task_id: str, token: str, **changed: Any) -> None:
        ti = t.task_instance
        key = await self.execute(sa.select(ti.c.id).where(ti.c.run_pk == run_pk, ti.c.task_id == task_id))
        values = {
            "try_number": 1,
            "state": "success",
            "daemon": "00000000-0000-4000-8000-000000000001",
            "queued_at": T0,
            "started_at": T0,
            "ended_at": T0 + timedelta(seconds=1),
            "log_path": f"/logs/{token}.log",
        }
        await self.insert(t.attempt, token=token, ti_id=key, **(values | changed))


@asynccontextmanager
async def world(dsn: str, **facts: Any) -> AsyncIterator[World]:
    """Open the database at `dsn` for the handlers."""
    switchboard = Switchboard()

    async def check_database() -> Mapping[str, Any]:
        return {"current": "1", "head": "1", "is_current": True}

    async with open_bridge() as bridge, open_store(bridge, dsn, poke=switchboard.poke) as store:
        context = ControlContext(
            store=store,
            commands=Commands(graphs=Graphs()),
            switchboard=switchboard,
            facts=lambda: facts,
            check_database=check_database,
        )
        yield World(store, context, switchboard)
