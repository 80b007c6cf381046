"""Structured concurrency for a daemon: supervised routines, child processes, clean endings, a bridge.

It knows nothing of what it supervises. `README.md` holds its numbered promises.

Names are imported when they are first used, so that a child process that only needs its lifeline does not pay
for trio, and nobody but those who cross into asyncio pays for that.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nurseries.bridge import Bridge, deadline, open_bridge
    from nurseries.clock import Clock, SystemClock
    from nurseries.errors import BudgetExhausted, ChildFailed, CrossingCancelled, Unavailable, Weather
    from nurseries.routine import Pace, Progress, Routine
    from nurseries.switchboard import Switchboard, Wakeup

__all__ = [
    "Bridge",
    "BudgetExhausted",
    "ChildFailed",
    "Clock",
    "CrossingCancelled",
    "Pace",
    "Progress",
    "Routine",
    "Switchboard",
    "SystemClock",
    "Unavailable",
    "Wakeup",
    "Weather",
    "deadline",
    "open_bridge",
]

_HOMES = {
    "bridge": ("Bridge", "deadline", "open_bridge"),
    "clock": ("Clock", "SystemClock"),
    "errors": ("BudgetExhausted", "ChildFailed", "CrossingCancelled", "Unavailable", "Weather"),
    "routine": ("Pace", "Progress", "Routine"),
    "switchboard": ("Switchboard", "Wakeup"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
