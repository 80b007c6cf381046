"""What DAG files import: `from scheduler import dag, task`.

Names are imported when they are first used, so that nothing pays for what it does not need.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scheduler.authoring import (
        DAG,
        Context,
        DagError,
        FailTask,
        SkipTask,
        TaskGroup,
        XComArg,
        dag,
        get_context,
        task,
    )

__all__ = [
    "DAG",
    "Context",
    "DagError",
    "FailTask",
    "SkipTask",
    "TaskGroup",
    "XComArg",
    "dag",
    "get_context",
    "task",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("scheduler.authoring"), name)
