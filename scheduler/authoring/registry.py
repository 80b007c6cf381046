"""Which dags a DAG file made, and on which of its lines.

A dag belongs to the module whose top-level code was running, innermost, when it was made: so a dag made by an
imported factory belongs to the file that calls it, and a dag of an imported DAG file does not.
"""

import sys
from collections.abc import Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from attrs import frozen

from scheduler.authoring.errors import DagError

if TYPE_CHECKING:
    from scheduler.authoring.dags import DAG

_made: "list[DAG]" = []


@frozen
class Place:
    """Where in a DAG file something was made. `namespace` is the globals of that file's module."""

    namespace: Mapping[str, Any] | None
    line: int | None


def place_here() -> Place:
    """The line that is being executed in the file whose top-level code is running."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 -- inspect.stack reads source files
    stack = []
    while frame is not None:
        stack.append(frame)
        if frame.f_code.co_name == "<module>":
            namespace = frame.f_globals
            line = next(above.f_lineno for above in stack if above.f_globals is namespace)
            return Place(namespace, line)
        frame = frame.f_back
    return Place(None, None)


def register(dag: "DAG") -> None:
    """Remember a dag that has just been made."""
    _made.append(dag)


def collect_dags(namespace: Mapping[str, Any]) -> "dict[str, DAG]":
    """The dags made by the module with these globals, by id, in the order of making.

    Raises DagError if two of them have the same id.
    """
    found: dict[str, DAG] = {}
    for dag in _made:
        if dag.place.namespace is not namespace:
            continue
        if dag.dag_id in found:
            first = found[dag.dag_id].place.line
            raise DagError(
                f"dag_id {dag.dag_id!r} is used twice in this file (first on line {first}): rename one of them",
                dag.place.line,
            )
        found[dag.dag_id] = dag
    return found
