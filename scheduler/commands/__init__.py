"""What people and programs may ask for: one function each, shared by every face (command line, API, pages)."""

from datetime import datetime
from typing import Any

from attrs import frozen

from scheduler.commands import cancel, pause, pools, trigger
from scheduler.commands.errors import CommandError
from scheduler.store.documents import Graphs
from scheduler.store.transaction import Store

__all__ = ["CommandError", "Commands"]


@frozen(kw_only=True)
class Commands:
    """All commands, with what they share. All raise CommandError when they refuse."""

    graphs: Graphs

    async def trigger(
        self,
        store: Store,
        /,
        *,
        dag_id: str,
        conf: dict[str, Any] | None,
        logical_date: datetime | None,
        run_id: str | None = None,
    ) -> str:
        return await trigger.trigger(
            store, graphs=self.graphs, dag_id=dag_id, conf=conf, logical_date=logical_date, run_id=run_id
        )

    async def cancel_run(self, store: Store, /, *, run_id: str, dag_id: str | None = None) -> None:
        await cancel.cancel_run(store, run_id=run_id, dag_id=dag_id)

    async def pause(self, store: Store, /, *, dag_id: str, paused: bool) -> None:
        await pause.pause(store, dag_id=dag_id, paused=paused)

    async def set_pool(self, store: Store, /, *, name: str, slots: int, description: str | None) -> bool:
        return await pools.set_pool(store, name=name, slots=slots, description=description)

    async def delete_pool(self, store: Store, /, *, name: str) -> None:
        await pools.delete_pool(store, name=name)
