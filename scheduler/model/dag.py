"""The definition of a dag as data: what is left of a DAG file once it has been parsed.

Nothing here holds a callable. A `Dag` is encoded as JSON (`msgspec`), which is also its canonical document:
two files with the same document and the same source are the same version.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from attrs import field, frozen

DEFAULT_POOL = "default_pool"


class TriggerRule(StrEnum):
    """When a task may start, judged over its direct upstream tasks."""

    ALL_SUCCESS = "all_success"
    ALL_FAILED = "all_failed"
    ALL_DONE = "all_done"
    ALL_DONE_MIN_ONE_SUCCESS = "all_done_min_one_success"
    ALL_SKIPPED = "all_skipped"
    ONE_SUCCESS = "one_success"
    ONE_FAILED = "one_failed"
    ONE_DONE = "one_done"
    NONE_FAILED = "none_failed"
    NONE_FAILED_MIN_ONE_SUCCESS = "none_failed_min_one_success"
    NONE_SKIPPED = "none_skipped"
    ALWAYS = "always"


class TaskKind(StrEnum):
    """How the task process treats a task's callable and its result."""

    PYTHON = "python"
    BASH = "bash"
    BRANCH = "branch"
    SHORT_CIRCUIT = "short_circuit"
    EMPTY = "empty"


class Isolation(StrEnum):
    """What a task shares with others of its DAG file."""

    PROCESS = "process"
    """Nothing: each attempt runs in a process of its own."""
    REUSE = "reuse"
    """Processes: each runs many attempts, one after the other. For trusted code that wants to be fast."""


class ScheduleKind(StrEnum):
    """What kind of timetable a dag has."""

    CRON = "cron"
    EVERY = "every"
    ONCE = "once"
    CONTINUOUS = "continuous"
    NEVER = "never"


class Catchup(StrEnum):
    """Which missed slots are made up: none, the latest, or all of them (oldest first, capped)."""

    NONE = "none"
    LAST = "last"
    ALL = "all"


@frozen(kw_only=True)
class Schedule:
    """A timetable as data."""

    kind: ScheduleKind
    text: str
    """For people: "*/5 * * * *", "every 0:10:00", "@once", "@continuous", "never"."""
    cron: str = ""
    """Five fields, or six with seconds last; macros are expanded by the author's side."""
    timezone: str = "UTC"
    """IANA name; only cron looks at it."""
    seconds: float = 0.0
    """Length of an EVERY schedule."""


@frozen(kw_only=True)
class RetryPolicy:
    """How often and after how long a failed try is followed by another. All times in seconds."""

    retries: int = 0
    delay: float = 300.0
    multiplier: float = 0.0
    """0 or 1: constant delay. Otherwise the n-th failure waits about delay * multiplier**(n-1)."""
    max_delay: float | None = None


@frozen(kw_only=True)
class Task:
    """One node of a dag."""

    task_id: str
    kind: TaskKind = TaskKind.PYTHON
    upstream: tuple[str, ...] = ()
    """Direct upstream task ids, sorted."""
    inputs: tuple[str, ...] = ()
    """Task ids whose results are arguments of this one, sorted; always a subset of `upstream`."""
    trigger_rule: TriggerRule = TriggerRule.ALL_SUCCESS
    retry: RetryPolicy = field(factory=RetryPolicy)
    execution_timeout: float | None = None
    """Seconds of run time of one try."""
    pool: str = DEFAULT_POOL
    pool_slots: int = 1
    priority_weight: int = 1
    """Effective weight, the weight rule already applied; clamped to 32 bits."""
    ignore_downstream_trigger_rules: bool = True
    """Short circuit only: skip all descendants (true) or the direct ones."""
    rerun_when_lost: bool = True
    """A try lost to infrastructure is run again without charge (true) or counts as a failure."""
    group: str | None = None
    doc: str | None = None
    is_async: bool = False
    isolation: Isolation | None = None
    """None: that of the dag."""


@frozen(kw_only=True)
class Dag:
    """A dag as parsed from one file."""

    dag_id: str
    schedule: Schedule
    tasks: tuple[Task, ...]
    """In topological order: every task stands after all of its upstream tasks."""
    start_date: datetime | None = None
    end_date: datetime | None = None
    catchup: Catchup = Catchup.LAST
    max_active_runs: int = 16
    max_active_tasks: int = 16
    dagrun_timeout: float | None = None
    """Seconds from the start of a run until it is failed."""
    params: dict[str, Any] = field(factory=dict)
    """Default values; a run's conf is merged over them."""
    tags: tuple[str, ...] = ()
    description: str | None = None
    paused_upon_creation: bool = False
    isolation: Isolation = Isolation.PROCESS
    line: int | None = None
    """Where in its file the dag is defined."""
