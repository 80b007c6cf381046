"""Requests about pools: list, set, delete."""

from scheduler.control import shapes
from scheduler.control.context import ControlContext
from scheduler.control.operation import Arguments
from scheduler.control.protocol import Code, ControlError
from scheduler.store import views


async def list_pools(context: ControlContext, _: Arguments) -> list[shapes.Json]:
    return [shapes.pool(row) for row in await context.store.read(views.pools)]


MOST_SLOTS = 2**31 - 1


class SetPool(Arguments):
    name: str
    slots: int
    description: str | None = None


async def set_pool(context: ControlContext, arguments: SetPool) -> shapes.Json:
    if arguments.slots > MOST_SLOTS:
        raise ControlError(Code.USAGE, f"slots must be at most {MOST_SLOTS}, or -1 for no limit")
    await context.commands.set_pool(
        context.store, name=arguments.name, slots=arguments.slots, description=arguments.description
    )
    return {"name": arguments.name, "slots": arguments.slots}


class OnePool(Arguments):
    name: str


async def delete_pool(context: ControlContext, arguments: OnePool) -> shapes.Json:
    await context.commands.delete_pool(context.store, name=arguments.name)
    return {"name": arguments.name}
