"""What people and programs may ask for: one function each, shared by every face (command line, API, pages)."""

from datetime import datetime
from typing import Any

from attrs import Factory, field, frozen

from scheduler.commands import cancel, clear, mark, pause, pools
from scheduler.commands.choosing import Choice
from scheduler.commands.errors import CommandError
from scheduler.commands.trigger import Triggered, Triggers
from scheduler.model import RunState, TaskState
from scheduler.procedures.dispatch import Dispatch
from scheduler.procedures.rewriting import RunChange
from scheduler.store.documents import Graphs
from scheduler.store.transaction import Store

__all__ = ["Choice", "CommandError", "Commands", "RunChange", "Triggered"]


@frozen(kw_only=True)
class Commands:
    """All commands, with what they share. All raise CommandError when they refuse."""

    graphs: Graphs
    dispatch: Dispatch | None = None
    """What is triggered can start at once; None: it is left to the routines."""
    _triggers: Triggers = field(
        init=False, default=Factory(lambda self: Triggers(graphs=self.graphs, dispatch=self.dispatch), takes_self=True)
    )

    async def trigger(
        self,
        store: Store,
        /,
        *,
        dag_id: str,
        conf: dict[str, Any] | None,
        logical_date: datetime | None,
        run_id: str | None = None,
    ) -> Triggered:
        return await self._triggers.trigger(store, dag_id=dag_id, conf=conf, logical_date=logical_date, run_id=run_id)

    async def cancel_run(self, store: Store, /, *, run_id: str, dag_id: str | None = None) -> None:
        await cancel.cancel_run(store, run_id=run_id, dag_id=dag_id)

    async def clear(self, store: Store, /, *, choice: Choice, dry_run: bool = False) -> list[RunChange]:
        return await clear.clear(store, graphs=self.graphs, choice=choice, dry_run=dry_run)

    async def mark(
        self, store: Store, /, *, choice: Choice, state: TaskState, dry_run: bool = False
    ) -> list[RunChange]:
        return await mark.mark(store, graphs=self.graphs, choice=choice, state=state, dry_run=dry_run)

    async def mark_run(self, store: Store, /, *, dag_id: str, run_id: str, state: RunState) -> RunState:
        return await mark.mark_run(store, dag_id=dag_id, run_id=run_id, state=state)

    async def pause(self, store: Store, /, *, dag_id: str, paused: bool) -> None:
        await pause.pause(store, dag_id=dag_id, paused=paused)

    async def set_pool(self, store: Store, /, *, name: str, slots: int, description: str | None) -> bool:
        return await pools.set_pool(store, name=name, slots=slots, description=description)

    async def delete_pool(self, store: Store, /, *, name: str) -> None:
        await pools.delete_pool(store, name=name)
