"""`DAG` and `@dag`: a place to put tasks in, and what becomes of it: a `model.Dag`."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypedDict, Unpack, overload
from zoneinfo import ZoneInfo

from scheduler import model
from scheduler.authoring import checks, scope
from scheduler.authoring.document import to_model
from scheduler.authoring.errors import DagError
from scheduler.authoring.groups import TaskGroup
from scheduler.authoring.nodes import TaskNode
from scheduler.authoring.options import Settings, checked, complete, isolation
from scheduler.authoring.registry import Place, place_here, register
from scheduler.authoring.schedules import read_schedule, zone_name
from scheduler.model import Catchup, Isolation, Schedule, ScheduleKind, TaskKind

if TYPE_CHECKING:
    from scheduler.authoring.arrows import End

P = ParamSpec("P")

_IGNORED_DEFAULTS = frozenset({"owner"})
_CATCHUP = {True: Catchup.ALL, False: Catchup.LAST}
_DATES = ("start_date", "end_date")


class DagOptions(TypedDict, total=False):
    """What may be given to `DAG(...)` and `@dag(...)`."""

    schedule: str | timedelta | None
    start_date: datetime | None
    """No run before it. A naive one is in the dag's time zone."""
    end_date: datetime | None
    """No run after it."""
    timezone: str | tzinfo | None
    """Of cron lines and of naive dates; by default that of `start_date`, else UTC."""
    catchup: bool | str
    """Missed runs: False or "last" makes up the latest, True or "all" all of them, "none" none."""
    max_active_runs: int
    max_active_tasks: int
    """Per run."""
    dagrun_timeout: timedelta | float | None
    default_args: Mapping[str, Any] | None
    """Options for all tasks."""
    params: Mapping[str, Any] | None
    """Defaults; the conf of a run is merged over them."""
    tags: Iterable[str]
    description: str | None
    doc_md: str | None
    is_paused_upon_creation: bool
    isolation: Isolation | str
    """"process" (the default): each attempt has a process of its own; "reuse": one runs many, one after the other."""


class DAG:
    """Tasks and their order. Tasks made inside `with DAG(...):` or a `@dag` function belong to it.

    Raises DagError for an id or option that is not valid.
    """

    def __init__(self, dag_id: str, **options: Unpack[DagOptions]) -> None:
        self._make(dag_id, options, place_here())

    def _make(self, dag_id: str, options: DagOptions, place: Place) -> None:
        self.dag_id = checks.identifier(dag_id, "dag_id")
        self.place = place
        unknown = [name for name in options if name not in DagOptions.__annotations__]
        if unknown:
            meant = checks.did_you_mean(unknown[0], DagOptions.__annotations__)
            raise DagError(f"dag {dag_id!r} has no option {unknown[0]!r}{meant}")
        defaults = dict(options.get("default_args") or {})
        start, end = (options.get(name) or defaults.pop(name, None) for name in _DATES)
        for name in (*_DATES, *_IGNORED_DEFAULTS):
            defaults.pop(name, None)
        self._defaults = checked(defaults, what="default_args")
        if "task_id" in self._defaults:
            raise DagError("default_args cannot have a task_id: it would be that of all tasks")
        start_date = None if start is None else checks.instant(start, "start_date")
        end_date = None if end is None else checks.instant(end, "end_date")
        zone = zone_name(options.get("timezone"), start_date)
        self.timezone = zone
        self.start_date = _utc(start_date, zone)
        self.end_date = _utc(end_date, zone)
        self.schedule: Schedule = read_schedule(options.get("schedule"), zone=zone)
        self.catchup = _catchup(options.get("catchup", False))
        continuous = self.schedule.kind is ScheduleKind.CONTINUOUS
        self.max_active_runs = checks.whole(
            options.get("max_active_runs", 1 if continuous else 16), "max_active_runs", least=1
        )
        if continuous and self.max_active_runs != 1:
            raise DagError(f"dag {dag_id!r}: @continuous runs one after another, so max_active_runs must be 1")
        self.max_active_tasks = checks.whole(options.get("max_active_tasks", 16), "max_active_tasks", least=1)
        timeout = options.get("dagrun_timeout")
        self.dagrun_timeout = None if timeout is None else checks.seconds(timeout, "dagrun_timeout")
        self.params = dict(options.get("params") or {})
        tags = options.get("tags", ())
        if isinstance(tags, str):
            raise DagError(f"tags must be a list of str, not the str {checks.describe(tags)}")
        self.tags = tuple(sorted({checks.text(tag, "a tag") for tag in tags}))
        description = options.get("description") or options.get("doc_md")
        self.description = None if description is None else checks.text(description, "description")
        self.is_paused_upon_creation = checks.flag(
            options.get("is_paused_upon_creation", False), "is_paused_upon_creation"
        )
        self.isolation = isolation(options.get("isolation", Isolation.PROCESS))
        self._tasks: dict[str, TaskNode] = {}
        self._groups: dict[str, TaskGroup] = {}
        self._arrows: list[tuple[End, End, int | None]] = []
        register(self)

    @property
    def nodes(self) -> tuple[TaskNode, ...]:
        """All tasks, in the order of making."""
        return tuple(self._tasks.values())

    @property
    def arrows(self) -> "tuple[tuple[End, End, int | None], ...]":
        """(before, after, line) of each arrow that was drawn; arguments are not among them."""
        return tuple(self._arrows)

    def task(self, task_id: str) -> TaskNode:
        """Raises KeyError if there is none."""
        return self._tasks[task_id]

    def to_model(self) -> model.Dag:
        """The dag as data. Raises DagError, with the line, if it is not one: a circle, params that are not JSON."""
        return to_model(self)

    def add_task(
        self,
        name: str,
        *,
        kind: TaskKind,
        function: Callable[..., Any] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: Mapping[str, Any],
        line: int | None,
    ) -> TaskNode:
        """Make a task in the group that is open. A function that is called again gets a number after its id.

        Raises DagError if the id is not valid, or is that of another task or of a group.
        """
        group = scope.current_group(self)
        task_id = self._free_id(("" if group is None else group.prefix) + name, function)
        settings: Settings = complete({**self._defaults, **options})
        node = TaskNode(
            dag=self,
            group=group,
            task_id=task_id,
            kind=kind,
            function=function,
            args=args,
            kwargs=kwargs,
            settings=settings,
            line=line,
        )
        list(node.inputs())  # refuses the results of other dags here, where the line is known
        self._tasks[task_id] = node
        return node

    def _free_id(self, wanted: str, function: Callable[..., Any] | None) -> str:
        task_id = checks.identifier(wanted, "task_id")
        if task_id in self._groups:
            raise DagError(f"task_id {task_id!r} is that of a group of dag {self.dag_id!r}: rename one of them")
        if task_id not in self._tasks:
            return task_id
        other = self._tasks[task_id]
        if function is None or _code(function) is not _code(other.function):
            raise DagError(
                f"task_id {task_id!r} is used twice in dag {self.dag_id!r} (first on line {other.line}): "
                "rename one of them, for example with task_id="
            )
        number = 1
        while (numbered := f"{task_id}__{number}") in self._tasks:
            number += 1
        return checks.identifier(numbered, "task_id")

    def add_group(self, group: TaskGroup) -> None:
        """Raises DagError if its id is taken."""
        if group.group_id in self._groups or group.group_id in self._tasks:
            raise DagError(f"group_id {group.group_id!r} is used twice in dag {self.dag_id!r}: rename one of them")
        checks.identifier(group.group_id, "group_id")
        self._groups[group.group_id] = group

    def connect(self, before: "End", after: "End") -> None:
        """Let `after` come after `before`. Raises DagError for an arrow to another dag, or to itself."""
        for end in (before, after):
            if end.dag is not self:
                raise DagError(f"an arrow joins {before!r} and {after!r}, which are not of one dag")
        if before is after:
            raise DagError(f"an arrow leads from {before!r} to itself")
        self._arrows.append((before, after, place_here().line))

    def __enter__(self) -> "DAG":
        scope.enter(self, None)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        scope.leave()

    def __repr__(self) -> str:
        return f"<dag {self.dag_id}, {len(self._tasks)} tasks>"


def _code(function: Callable[..., Any] | None) -> object:
    """The same for a function defined again by the same lines, as in a loop."""
    return getattr(function, "__code__", function)


def _utc(value: datetime | None, zone: str) -> datetime | None:
    if value is None:
        return None
    if value.tzinfo is None:
        value = value.replace(tzinfo=ZoneInfo(zone))
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise DagError(f"{value.isoformat()} is not in the years 1 to 9999 UTC") from None


def _catchup(value: object) -> Catchup:
    if isinstance(value, bool):
        return _CATCHUP[value]
    return Catchup(checks.one_of(value, "catchup", ("none", "last", "all")))


class DagFunction(Generic[P]):
    """A function that makes a dag when it is called: the tasks it makes belong to that."""

    def __init__(self, function: Callable[P, Any], dag_id: str | None, options: DagOptions) -> None:
        self.function = function
        self.dag_id = function.__name__ if dag_id is None else dag_id
        self._options = options
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> DAG:
        options = self._options.copy()
        if self.__doc__ and not options.get("description"):
            options["description"] = inspect.cleandoc(self.__doc__)
        made = DAG.__new__(DAG)
        made._make(self.dag_id, options, self._place())
        with made:
            self.function(*args, **kwargs)
        return made

    def _place(self) -> Place:
        """The line of the function if it stands in the file that calls it: there people look for the dag."""
        here = place_here()
        if here.namespace is not None and here.namespace is self.function.__globals__:
            return Place(here.namespace, self.function.__code__.co_firstlineno)
        return here

    def __repr__(self) -> str:
        return f"<dag function {self.__name__}>"


@overload
def dag(function: Callable[P, Any], /) -> DagFunction[P]: ...
@overload
def dag(
    dag_id: str | None = None, /, **options: Unpack[DagOptions]
) -> Callable[[Callable[P, Any]], DagFunction[P]]: ...
def dag(
    first: Callable[P, Any] | str | None = None, /, **options: Unpack[DagOptions]
) -> DagFunction[P] | Callable[[Callable[P, Any]], DagFunction[P]]:
    """`@dag(...)` on a function whose calls make dags; the id is the function's name unless it is given first."""
    given: dict[str, Any] = dict(options)
    named = given.pop("dag_id", None)  # Airflow's spelling
    rest: DagOptions = given  # type: ignore[assignment]
    if callable(first):
        return DagFunction(first, None, rest)
    dag_id = first if first is not None else named
    return lambda function: DagFunction(function, dag_id, rest)
