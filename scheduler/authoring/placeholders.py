"""Placeholders for results that exist only once a run is under way, alone or inside lists, tuples and dicts."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from scheduler.authoring.arrows import Arrows
from scheduler.authoring.errors import DagError

if TYPE_CHECKING:
    from scheduler.authoring.dags import DAG
    from scheduler.authoring.nodes import TaskNode


class XComArg(Arrows):
    """The result of a task, to be given to other tasks; `out["key"]` stands for a part of it."""

    def __init__(self, node: "TaskNode", path: tuple[Any, ...] = ()) -> None:
        self._node = node
        self._path = path

    @property
    def node(self) -> "TaskNode":
        """The task whose result this is."""
        return self._node

    @property
    def task_id(self) -> str:
        """Id of the task whose result this is, with the prefix of its group."""
        return self._node.task_id

    @property
    def dag(self) -> "DAG":
        return self._node.dag

    @property
    def arrow_end(self) -> "TaskNode":
        return self._node

    def __getitem__(self, key: str | int) -> "XComArg":
        if not isinstance(key, str | int):
            raise TypeError(f"{self!r}[...] takes a str or an int, not {type(key).__name__}")
        return XComArg(self._node, (*self._path, key))

    def resolve(self, inputs: Mapping[str, Any]) -> Any:
        """The real value; None if the task has no result. Raises LookupError if the result has no such part."""
        value = inputs.get(self.task_id)
        if value is None:
            return None
        for key in self._path:
            try:
                value = value[key]
            except (LookupError, TypeError) as error:
                raise LookupError(
                    f"{self!r} does not exist: that result is {_describe(value)}, "
                    f"which has no [{key!r}] ({type(error).__name__})"
                ) from None
        return value

    def _unknown(self) -> NoReturn:
        raise TypeError(
            f"{self!r} is known only when the task has run, not while the DAG file is loaded: "
            "pass it to a task and use it there"
        )

    # Without these, `for x in out` would run for ever by way of __getitem__, and `if out` would always be true.
    def __iter__(self) -> Iterator[Any]:
        self._unknown()

    def __len__(self) -> int:
        self._unknown()

    def __bool__(self) -> bool:
        self._unknown()

    def __contains__(self, item: object) -> bool:
        self._unknown()

    def __repr__(self) -> str:
        return f"<result of {self.task_id}>" + "".join(f"[{key!r}]" for key in self._path)


def _describe(value: object) -> str:
    if isinstance(value, dict):
        keys = ", ".join(repr(key) for key in list(value)[:10])
        return f"a dict with the keys {keys}{', ...' if len(value) > 10 else ''}" if value else "an empty dict"
    if isinstance(value, list):
        return f"a list of length {len(value)}"
    return f"of type {type(value).__name__}"


def find(value: Any) -> Iterator[XComArg]:
    """Every placeholder in `value`, at any depth of lists, tuples and dicts."""
    if isinstance(value, XComArg):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from find(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from find(item)
    elif isinstance(value, set | frozenset) and any(isinstance(item, XComArg) for item in value):
        raise DagError("the result of a task cannot stand in a set: use a list")


def fill(value: Any, inputs: Mapping[str, Any]) -> Any:
    """`value` with real results instead of placeholders; what holds none is passed on as it is."""
    if isinstance(value, XComArg):
        return value.resolve(inputs)
    if next(find(value), None) is None:
        return value
    if isinstance(value, dict):
        return {key: fill(item, inputs) for key, item in value.items()}
    items = [fill(item, inputs) for item in value]
    if isinstance(value, tuple):
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return items
