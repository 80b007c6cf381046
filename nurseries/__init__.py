"""Structured concurrency for a daemon: supervised routines, child processes, clean endings, a bridge.

It knows nothing of what it supervises. `README.md` holds its numbered promises.

Names are imported when they are first used, so that a child process that only needs its lifeline does not pay
for trio, and nobody but those who cross into asyncio pays for that.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nurseries.backoff import Budget
    from nurseries.bridge import Bridge, deadline, open_bridge
    from nurseries.clock import Clock, SystemClock
    from nurseries.errors import BudgetExhausted, ChildFailed, CrossingCancelled, Unavailable, Weather
    from nurseries.gate import Gate
    from nurseries.instrument import Instrument
    from nurseries.lifeline import wait_for_parent_death, watch_lifeline
    from nurseries.notify import Notifier
    from nurseries.processes import Child, ChildSpec, Completed, keep_running, open_child, run_to_end
    from nurseries.routine import Pace, Progress, Routine
    from nurseries.shutdown import Ending, Shutdown, run_until_stopped
    from nurseries.supervisor import Phase, RoutineStatistics, Supervisor
    from nurseries.switchboard import Switchboard, Wakeup
    from nurseries.watchdog import feed_watchdog

__all__ = [
    "Bridge",
    "Budget",
    "BudgetExhausted",
    "Child",
    "ChildFailed",
    "ChildSpec",
    "Clock",
    "Completed",
    "CrossingCancelled",
    "Ending",
    "Gate",
    "Instrument",
    "Notifier",
    "Pace",
    "Phase",
    "Progress",
    "Routine",
    "RoutineStatistics",
    "Shutdown",
    "Supervisor",
    "Switchboard",
    "SystemClock",
    "Unavailable",
    "Wakeup",
    "Weather",
    "deadline",
    "feed_watchdog",
    "keep_running",
    "open_bridge",
    "open_child",
    "run_to_end",
    "run_until_stopped",
    "wait_for_parent_death",
    "watch_lifeline",
]

_HOMES = {
    "backoff": ("Budget",),
    "bridge": (
        "Bridge",
        "deadline",
        "open_bridge",
    ),
    "clock": (
        "Clock",
        "SystemClock",
    ),
    "errors": (
        "BudgetExhausted",
        "ChildFailed",
        "CrossingCancelled",
        "Unavailable",
        "Weather",
    ),
    "gate": ("Gate",),
    "instrument": ("Instrument",),
    "lifeline": (
        "wait_for_parent_death",
        "watch_lifeline",
    ),
    "notify": ("Notifier",),
    "processes": (
        "Child",
        "ChildSpec",
        "Completed",
        "keep_running",
        "open_child",
        "run_to_end",
    ),
    "routine": (
        "Pace",
        "Progress",
        "Routine",
    ),
    "shutdown": (
        "Ending",
        "Shutdown",
        "run_until_stopped",
    ),
    "supervisor": (
        "Phase",
        "RoutineStatistics",
        "Supervisor",
    ),
    "switchboard": (
        "Switchboard",
        "Wakeup",
    ),
    "watchdog": ("feed_watchdog",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
