"""The dag and the group that `with` blocks and `@dag` functions are inside of just now."""

from typing import TYPE_CHECKING

from scheduler.authoring.errors import DagError

if TYPE_CHECKING:
    from scheduler.authoring.dags import DAG
    from scheduler.authoring.groups import TaskGroup

_stack: "list[tuple[DAG, TaskGroup | None]]" = []


def enter(dag: "DAG", group: "TaskGroup | None") -> None:
    """Go in; `leave` goes back to where one was."""
    _stack.append((dag, group))


def leave() -> None:
    _stack.pop()


def current_dag(what: str) -> "DAG":
    """Raises DagError, which says that `what` needs a dag, outside of all dags."""
    if not _stack:
        raise DagError(
            f"{what} is used outside a dag: put it into a @dag function or a `with DAG(...):` block "
            "(the plain function of a task is its .function)"
        )
    return _stack[-1][0]


def current_group(dag: "DAG") -> "TaskGroup | None":
    """The innermost group of `dag` that is open."""
    return _stack[-1][1] if _stack and _stack[-1][0] is dag else None
