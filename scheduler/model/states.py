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
    """An end imposed on a run from outside its tasks."""

    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    MARKED_SUCCESS = "marked success"
    MARKED_FAILED = "marked failed"

    @property
    def end(self) -> RunState:
        """How the run ends, once none of its tasks has an attempt any more."""
        return RunState.SUCCESS if self is Verdict.MARKED_SUCCESS else RunState.FAILED


class TaskState(StrEnum):
    """One task in one run."""

    NONE = "none"
    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    RESTARTING = "restarting"
    """Cleared while it ran: it becomes `none` when its attempt is proved to have ended, or its lease has."""
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

ACTIVE = frozenset({TaskState.QUEUED, TaskState.RUNNING, TaskState.RESTARTING})
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

MARKS = frozenset({TaskState.SUCCESS, TaskState.FAILED, TaskState.SKIPPED})
"""What a person may mark a task as."""

_T = TaskState
_SETTLED = frozenset({_T.SUCCESS, _T.FAILED, _T.SKIPPED, _T.UPSTREAM_FAILED})
_IDLE = CANDIDATES | _SETTLED | {_T.SCHEDULED, _T.QUEUED}

VERBS: dict[str, dict[TaskState, frozenset[TaskState]]] = {
    "schedule": {
        _T.SCHEDULED: CANDIDATES,
        _T.SUCCESS: frozenset({_T.NONE}),
        _T.SKIPPED: CANDIDATES | {_T.SCHEDULED},
        _T.UPSTREAM_FAILED: CANDIDATES,
    },
    "admit": {_T.QUEUED: frozenset({_T.SCHEDULED}), _T.RUNNING: frozenset({_T.SCHEDULED})},
    "start": {_T.RUNNING: frozenset({_T.QUEUED})},
    "revoke": {_T.SKIPPED: frozenset({_T.QUEUED})},
    "end": {
        _T.SUCCESS: frozenset({_T.RUNNING}),
        _T.SKIPPED: frozenset({_T.RUNNING}),
        _T.FAILED: frozenset({_T.QUEUED, _T.RUNNING}),
        _T.UP_FOR_RETRY: frozenset({_T.QUEUED, _T.RUNNING}),
        _T.SCHEDULED: frozenset({_T.QUEUED, _T.RUNNING}),
    },
    "clear": {_T.NONE: _IDLE - {_T.NONE}, _T.RESTARTING: frozenset({_T.RUNNING, _T.RESTARTING})},
    "mark": {mark: _IDLE - {mark} for mark in MARKS},
    # what a person wanted of a task that ran, once its attempt is proved to have ended
    "stop": {
        _T.NONE: frozenset({_T.RESTARTING}),
        **{mark: frozenset({_T.RUNNING, _T.RESTARTING}) for mark in MARKS},
    },
}
"""verb of the store -> state -> the states from which that verb alone may bring a task instance there.

Anything that does not stand here is a bug.
"""


def sources(verb: str, to: TaskState) -> frozenset[TaskState]:
    """The states from which `verb` may move a task instance to `to`."""
    return VERBS[verb].get(to, frozenset())
