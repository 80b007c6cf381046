"""Task groups: a prefix for task ids, and one thing to draw arrows to and from."""

from types import TracebackType
from typing import TYPE_CHECKING

from scheduler.authoring import scope
from scheduler.authoring.arrows import Arrows
from scheduler.authoring.errors import DagError
from scheduler.model import InvalidId, check_id

if TYPE_CHECKING:
    from scheduler.authoring.dags import DAG


class TaskGroup(Arrows):
    """`with TaskGroup("name"):` puts the tasks made inside into a group.

    Arrows to a group go to its first tasks, arrows from it start at its last ones. `prefix_group_id=False` leaves the
    ids of its tasks alone. Raises DagError outside a dag, for an invalid id, and for one that is taken.
    """

    def __init__(
        self, group_id: str, *, prefix_group_id: bool = True, dag: "DAG | None" = None, tooltip: str = ""
    ) -> None:
        try:
            check_id(group_id, what="group_id")
        except InvalidId as error:
            raise DagError(str(error)) from None
        if "." in group_id:
            raise DagError(f"group_id {group_id!r}: '.' separates a group from what is in it, use '_'")
        self._dag = dag or scope.current_dag(f"TaskGroup({group_id!r})")
        self.parent: TaskGroup | None = scope.current_group(self._dag)
        self.label = group_id
        self.tooltip = tooltip
        self.group_id: str = group_id if self.parent is None else f"{self.parent.group_id}.{group_id}"
        inherited = "" if self.parent is None else self.parent.prefix
        self.prefix: str = f"{inherited}{group_id}." if prefix_group_id else inherited
        self.depth: int = 1 if self.parent is None else self.parent.depth + 1
        self._dag.add_group(self)

    @property
    def dag(self) -> "DAG":
        return self._dag

    @property
    def arrow_end(self) -> "TaskGroup":
        return self

    def is_within(self, other: "TaskGroup") -> bool:
        """Whether this is `other` or somewhere inside it."""
        group: TaskGroup | None = self
        while group is not None:
            if group is other:
                return True
            group = group.parent
        return False

    def __enter__(self) -> "TaskGroup":
        scope.enter(self._dag, self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        scope.leave()

    def __repr__(self) -> str:
        return f"<group {self.group_id} of {self._dag.dag_id}>"
