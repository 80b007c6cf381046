"""The states of runs, task instances and attempts, and the one table of what may follow what."""

from enum import StrEnum


class RunType(StrEnum):
    """Why a run exists; the first part of its run id."""

    SCHEDULED = "scheduled"
    MANUAL = "manual"


class RunState(StrEnum):
    """One execution of a dag."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"


class Verdict(StrEnum):
    """An end imposed on a run from outside its tasks; the run then ends as failed."""

    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


class TaskState(StrEnum):
    """One task in one run."""

    NONE = "none"
    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    UP_FOR_RETRY = "up_for_retry"
    SUCCESS = "success"
    FAILED = "failed"
    SKIPPED = "skipped"
    UPSTREAM_FAILED = "upstream_failed"
    REMOVED = "removed"


class AttemptState(StrEnum):
    """One claim of one try, identified by its token."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    SKIPPED = "skipped"
    LOST = "lost"
    REVOKED = "revoked"


CANDIDATES = frozenset({TaskState.NONE, TaskState.UP_FOR_RETRY})
"""Only these are judged by trigger rules."""

ACTIVE = frozenset({TaskState.QUEUED, TaskState.RUNNING})
"""An attempt may exist: these hold slots of every limit that applies."""

FINISHED = frozenset(
    {
        TaskState.SUCCESS,
        TaskState.FAILED,
        TaskState.SKIPPED,
        TaskState.UPSTREAM_FAILED,
        TaskState.REMOVED,
    }
)

_T = TaskState

TRANSITIONS: dict[tuple[TaskState, TaskState], str] = {
    (_T.NONE, _T.SCHEDULED): "schedule",
    (_T.NONE, _T.SUCCESS): "schedule",
    (_T.NONE, _T.SKIPPED): "schedule",
    (_T.NONE, _T.UPSTREAM_FAILED): "schedule",
    (_T.UP_FOR_RETRY, _T.SCHEDULED): "schedule",
    (_T.UP_FOR_RETRY, _T.SKIPPED): "schedule",
    (_T.UP_FOR_RETRY, _T.UPSTREAM_FAILED): "schedule",
    (_T.SCHEDULED, _T.SKIPPED): "schedule",
    (_T.SCHEDULED, _T.QUEUED): "admit",
    (_T.QUEUED, _T.RUNNING): "start",
    (_T.QUEUED, _T.SCHEDULED): "end",
    (_T.QUEUED, _T.FAILED): "end",
    (_T.QUEUED, _T.UP_FOR_RETRY): "end",
    (_T.QUEUED, _T.SKIPPED): "revoke",
    (_T.RUNNING, _T.SUCCESS): "end",
    (_T.RUNNING, _T.FAILED): "end",
    (_T.RUNNING, _T.SKIPPED): "end",
    (_T.RUNNING, _T.UP_FOR_RETRY): "end",
    (_T.RUNNING, _T.SCHEDULED): "end",
}
"""(from, to) -> the store verb that alone may make this change; anything else is a bug."""


def sources(verb: str, to: TaskState) -> frozenset[TaskState]:
    """The states from which `verb` may move a task instance to `to`."""
    return frozenset(a for (a, b), who in TRANSITIONS.items() if b is to and who == verb)
