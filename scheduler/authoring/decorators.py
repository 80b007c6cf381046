"""`@task` and its variants: functions become tasks where they are called inside a dag."""

import inspect
from collections.abc import Callable
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar, Unpack, overload

from scheduler.authoring import scope
from scheduler.authoring.errors import DagError
from scheduler.authoring.nodes import TaskNode, is_async
from scheduler.authoring.options import CommonOptions, TaskOptions, checked
from scheduler.authoring.placeholders import XComArg
from scheduler.authoring.registry import place_here
from scheduler.model import TaskKind

P = ParamSpec("P")
R = TypeVar("R")


class TaskFunction(Generic[P, R]):
    """A function that makes a task each time it is called inside a dag, and returns a placeholder for the result."""

    def __init__(self, function: Callable[P, R], kind: TaskKind, options: dict[str, Any]) -> None:
        if not callable(function):
            raise DagError(f"@task decorates functions, not a {type(function).__name__}")
        if kind is TaskKind.BASH and is_async(function):
            raise DagError("a bash task returns its command at once: write `def`, not `async def`")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise DagError(f"task {_name(function)!r} is a generator, whose values would be lost: return a list")
        self.function = function
        self._kind = kind
        self._options = options
        self.__name__ = _name(function)
        self.__doc__ = getattr(function, "__doc__", None)
        self.__wrapped__ = function

    def __call__(self, *args: Any, **kwargs: Any) -> XComArg:
        """Raises DagError outside a dag, TypeError if the arguments do not fit the function."""
        name = self._options.get("task_id", self.__name__)
        dag = scope.current_dag(f"task {name!r}")
        _bind(self.function, name, args, kwargs)
        return XComArg(
            dag.add_task(
                name,
                kind=self._kind,
                function=self.function,
                args=args,
                kwargs=kwargs,
                options=self._options,
                line=place_here().line,
            )
        )

    def override(self, **options: Unpack[TaskOptions]) -> "TaskFunction[P, R]":
        """The same function with other options. Raises DagError for an option that is unknown or wrong."""
        changes = checked(options, what=f"task {self.__name__!r}")
        return TaskFunction(self.function, self._kind, {**self._options, **changes})

    def expand(self, **_: Any) -> NoReturn:
        raise DagError(f"task {self.__name__!r}: expand() is not supported yet; call the task in a loop")

    def partial(self, **_: Any) -> NoReturn:
        raise DagError(f"task {self.__name__!r}: partial() is not supported yet; call the task in a loop")

    def __repr__(self) -> str:
        return f"<task function {self.__name__}>"


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _bind(function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some builtins have none
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"task {name!r}: {error}; it is defined as {name}{signature}") from None


class _Decorator:
    """`@decorator` and `@decorator(option=...)`."""

    def __init__(self, kind: TaskKind, what: str) -> None:
        self._kind = kind
        self._what = what

    @overload
    def __call__(self, function: Callable[P, R], /) -> TaskFunction[P, R]: ...
    @overload
    def __call__(
        self, function: None = None, /, **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[P, R]], TaskFunction[P, R]]: ...
    def __call__(
        self, function: Callable[P, R] | None = None, /, **options: Unpack[TaskOptions]
    ) -> TaskFunction[P, R] | Callable[[Callable[P, R]], TaskFunction[P, R]]:
        if isinstance(function, str):
            raise DagError(f"{self._what}(...) takes the task's id as task_id={function!r}")
        given = checked(options, what=self._what)
        if function is not None:
            return TaskFunction(function, self._kind, given)
        return lambda decorated: TaskFunction(decorated, self._kind, given)


class _BashDecorator:
    """`@task.bash` on a function that returns the command, or `task.bash("command", task_id=...)`."""

    _plain = _Decorator(TaskKind.BASH, "task.bash")

    @overload
    def __call__(self, function: Callable[P, str], /) -> TaskFunction[P, str]: ...
    @overload
    def __call__(
        self, function: None = None, /, **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[P, str]], TaskFunction[P, str]]: ...
    @overload
    def __call__(self, /, *, command: str | XComArg, **options: Unpack[TaskOptions]) -> XComArg: ...
    @overload
    def __call__(self, command: str | XComArg, /, **options: Unpack[TaskOptions]) -> XComArg: ...
    def __call__(self, function: Any = None, /, *, command: Any = None, **options: Unpack[TaskOptions]) -> Any:
        if isinstance(function, str | XComArg):
            command, function = function, None
        if command is None:
            return self._plain(function, **options)
        if not isinstance(command, str | XComArg):
            raise DagError(f"task.bash: the command is a str, not a {type(command).__name__}")
        return _add("task.bash", TaskKind.BASH, {"command": command}, checked(options, what="task.bash"))


def _add(what: str, kind: TaskKind, kwargs: dict[str, Any], options: dict[str, Any]) -> XComArg:
    """A task without a function."""
    if "task_id" not in options:
        raise DagError(f"{what} needs a task_id")
    dag = scope.current_dag(f"{what}(task_id={options['task_id']!r})")
    return XComArg(
        dag.add_task(
            options["task_id"],
            kind=kind,
            function=None,
            args=(),
            kwargs=kwargs,
            options=options,
            line=place_here().line,
        )
    )


class TaskDecorator(_Decorator):
    """`@task`: a Python function as a task. Its variants are `.bash`, `.branch`, `.short_circuit`, `.empty`."""

    bash = _BashDecorator()
    branch = _Decorator(TaskKind.BRANCH, "task.branch")
    """The function returns the id of the task or group that is to follow, or a list of them, or None."""
    short_circuit = _Decorator(TaskKind.SHORT_CIRCUIT, "task.short_circuit")
    """If the function returns something false, what comes after is skipped."""

    def empty(self, task_id: str, **options: Unpack[CommonOptions]) -> XComArg:
        """A task that does nothing: a point to draw arrows to and from."""
        given = checked({**options, "task_id": task_id}, what="task.empty")
        return _add("task.empty", TaskKind.EMPTY, {}, given)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"there is no task.{name}: there are task, task.bash, .branch, .short_circuit, .empty")


task = TaskDecorator(TaskKind.PYTHON, "task")


__all__ = ["TaskDecorator", "TaskFunction", "TaskNode", "task"]
