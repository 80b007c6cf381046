"""What the daemon lends to the handlers of control requests."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from attrs import frozen

from nurseries.switchboard import Switchboard
from scheduler.commands import Commands
from scheduler.store.transaction import Store


@frozen(kw_only=True)
class ControlContext:
    """Everything a handler may use."""

    store: Store
    commands: Commands
    switchboard: Switchboard
    """Pokes on `Topic.RUN_FINISHED` end the waits of `runs.wait` early."""
    facts: Callable[[], Mapping[str, Any]]
    """What only the daemon itself knows, merged into the answer of `status`: "version", "pid", "home",
    "dags_dir", "database", "started_at", "ready", "workers" (a list of {"worker_id", "pid", "hostname", "slots",
    "running", "draining"}), "routines" (statistics by name)."""
    check_database: Callable[[], Awaitable[Mapping[str, Any]]]
    """The schema of the daemon's database: {"current", "head", "is_current"}."""
