"""What a DAG file imports and what it makes: dags, tasks, groups, placeholders for results.

Light on purpose: it is imported by every process that runs user code, and needs neither trio nor the store.
"""

from scheduler.authoring.context import Context, get_context, set_context
from scheduler.authoring.dags import DAG, dag
from scheduler.authoring.decorators import TaskFunction, task
from scheduler.authoring.errors import DagError, FailTask, SkipTask
from scheduler.authoring.groups import TaskGroup
from scheduler.authoring.nodes import TaskNode
from scheduler.authoring.placeholders import XComArg
from scheduler.authoring.registry import collect_dags

__all__ = [
    "DAG",
    "Context",
    "DagError",
    "FailTask",
    "SkipTask",
    "TaskFunction",
    "TaskGroup",
    "TaskNode",
    "XComArg",
    "collect_dags",
    "dag",
    "get_context",
    "set_context",
    "task",
]
