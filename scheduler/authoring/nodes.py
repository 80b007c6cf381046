"""A task of a dag: a callable, its arguments with placeholders in them, and its options."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from scheduler.authoring.arrows import Arrows
from scheduler.authoring.errors import DagError
from scheduler.authoring.placeholders import XComArg, fill, find
from scheduler.model import TaskKind

if TYPE_CHECKING:
    from scheduler.authoring.dags import DAG
    from scheduler.authoring.groups import TaskGroup
    from scheduler.authoring.options import Settings


class TaskNode(Arrows):
    """One task. `call` runs it, with the results of its upstream tasks in place of the placeholders."""

    def __init__(
        self,
        *,
        dag: "DAG",
        group: "TaskGroup | None",
        task_id: str,
        kind: TaskKind,
        function: Callable[..., Any] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        settings: "Settings",
        line: int | None,
    ) -> None:
        self._dag = dag
        self.group = group
        self.task_id = task_id
        self.kind = kind
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.settings = settings
        self.line = line
        self.is_async = is_async(function)

    @property
    def dag(self) -> "DAG":
        return self._dag

    @property
    def arrow_end(self) -> "TaskNode":
        return self

    @property
    def output(self) -> XComArg:
        """A placeholder for the result."""
        return XComArg(self)

    def inputs(self) -> Iterator["TaskNode"]:
        """The tasks whose results are arguments of this one; raises DagError for one of another dag."""
        for placeholder in find((self.args, self.kwargs)):
            if placeholder.dag is not self._dag:
                raise DagError(
                    f"task {self.task_id!r} of dag {self._dag.dag_id!r} takes the result of task "
                    f"{placeholder.task_id!r} of dag {placeholder.dag.dag_id!r}: results stay within one dag",
                    self.line,
                )
            yield placeholder.node

    def call(self, inputs: Mapping[str, Any]) -> Any:
        """What the callable returns; a coroutine if `is_async`, the command of a bash task, None if empty.

        `inputs` is task id -> result; a task that is not in it has no result and counts as None.
        Raises what the callable raises, and LookupError if a result lacks a part that is asked for.
        """
        if self.function is None:
            return fill(self.kwargs["command"], inputs) if self.kind is TaskKind.BASH else None
        args = fill(self.args, inputs)
        kwargs = fill(self.kwargs, inputs)
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.task_id} of {self._dag.dag_id}>"


def is_async(function: Callable[..., Any] | None) -> bool:
    """Whether calling it gives a coroutine."""
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 -- an object with `async def __call__`
    )
