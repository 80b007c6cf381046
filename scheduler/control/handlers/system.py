"""Requests about the daemon itself: status, and the state of its database's schema."""

from datetime import datetime

from scheduler.control import shapes
from scheduler.control.context import ControlContext
from scheduler.control.operation import Arguments
from scheduler.control.protocol import PROTOCOL, instant
from scheduler.store import views
from scheduler.store.errors import Conflict, StoreUnavailable


async def status(context: ControlContext, _: Arguments) -> shapes.Json:
    """What the daemon knows of itself and the installation's figures; answers without its database too."""
    known = {name: instant(fact) if isinstance(fact, datetime) else fact for name, fact in context.facts().items()}
    facts = {"protocol": PROTOCOL} | known
    try:
        seen = await context.store.read(views.overview)
    except (StoreUnavailable, Conflict) as error:
        return facts | {"database_away": str(error)}
    return facts | {
        "database_away": None,
        "dags": seen["dags"],
        "runs": seen["runs"],
        "tasks": seen["tasks"],
        "next": [{"dag_id": row["dag_id"], "next_run": instant(row["next_due"])} for row in seen["due"]],
        "failed": [shapes.run_summary(row) for row in seen["failed"]],
    }


async def check_database(context: ControlContext, _: Arguments) -> shapes.Json:
    return dict(await context.check_database())
