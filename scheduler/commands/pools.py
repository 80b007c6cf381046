"""Create, change and delete pools; set the limit of the whole installation."""

from scheduler.commands.errors import CommandError
from scheduler.model import DEFAULT_POOL, InvalidId, check_id
from scheduler.store import pools
from scheduler.store.transaction import Store


async def set_pool(store: Store, *, name: str, slots: int, description: str | None = None) -> bool:
    """Create or change a pool; True if it is new. slots: at least 0, or -1 for no limit. Raises CommandError."""
    try:
        check_id(name, what="pool")
    except InvalidId as error:
        raise CommandError("usage", str(error)) from error
    if slots < -1:
        raise CommandError("usage", f"slots must be -1 (no limit), 0 or more, not {slots}.")
    return await store.transact(pools.write_pool, name, slots, description)


async def delete_pool(store: Store, *, name: str) -> None:
    """Delete a pool that nothing needs. Raises CommandError."""
    if name in (DEFAULT_POOL, pools.EVERYTHING):
        raise CommandError("usage", f"Pool {name!r} cannot be deleted; change its slots with `asyncsched pools set`.")
    needed = await store.transact(pools.drop_pool, name)
    if needed is None:
        raise CommandError("not_found", f"There is no pool {name!r}. `asyncsched pools list` shows them all.")
    if needed:
        raise CommandError("conflict", f"Pool {name!r} is needed by {needed} tasks that have not ended.")


async def set_parallelism(store: Store, *, slots: int) -> None:
    """How many task instances may be queued or running in the whole installation."""
    await store.transact(pools.write_pool, pools.EVERYTHING, slots, None)
