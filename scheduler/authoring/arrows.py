"""`a >> b`: the order of tasks and groups, also of lists of them."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from scheduler.authoring.errors import DagError

if TYPE_CHECKING:
    from scheduler.authoring.dags import DAG
    from scheduler.authoring.groups import TaskGroup
    from scheduler.authoring.nodes import TaskNode

    End: TypeAlias = TaskNode | TaskGroup

_Other = TypeVar("_Other")


class Arrows:
    """What can stand at either side of an arrow."""

    @property
    def dag(self) -> "DAG":
        raise NotImplementedError

    @property
    def arrow_end(self) -> "End":
        """The task or group that the arrow is about."""
        raise NotImplementedError

    def set_downstream(self, other: "Arrows | Iterable[Any]") -> None:
        """Let `other` come after this."""
        for end in _ends(other):
            self.dag.connect(self.arrow_end, end)

    def set_upstream(self, other: "Arrows | Iterable[Any]") -> None:
        """Let this come after `other`."""
        for end in _ends(other):
            self.dag.connect(end, self.arrow_end)

    def __rshift__(self, other: _Other) -> _Other:
        self.set_downstream(other)  # type: ignore[arg-type]
        return other

    def __lshift__(self, other: _Other) -> _Other:
        self.set_upstream(other)  # type: ignore[arg-type]
        return other

    def __rrshift__(self, other: Iterable[Any]) -> "Arrows":
        self.set_upstream(other)
        return self

    def __rlshift__(self, other: Iterable[Any]) -> "Arrows":
        self.set_downstream(other)
        return self


def _ends(other: Any) -> Iterator["End"]:
    if isinstance(other, Arrows):
        yield other.arrow_end
    elif isinstance(other, list | tuple | set | frozenset):
        for item in other:
            yield from _ends(item)
    else:
        hint = ": call it, as in f()" if callable(other) else ""
        raise DagError(f"an arrow joins tasks, groups or lists of them, not {_name(other)}{hint}")


def _name(other: object) -> str:
    name = getattr(other, "__name__", None)
    return f"the function {name!r}" if isinstance(name, str) else f"a {type(other).__name__}"
