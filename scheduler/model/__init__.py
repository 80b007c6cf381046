"""What is true: the words of the field as frozen values. No I/O, no clock."""

from scheduler.model.dag import (
    DEFAULT_POOL,
    Catchup,
    Dag,
    Isolation,
    RetryPolicy,
    Schedule,
    ScheduleKind,
    Task,
    TaskKind,
    TriggerRule,
)
from scheduler.model.ids import InvalidId, check_id
from scheduler.model.states import (
    ACTIVE,
    CANDIDATES,
    FINISHED,
    MARKS,
    AttemptState,
    RunState,
    RunType,
    TaskState,
    Verdict,
)
from scheduler.model.workload import Outcome, OutcomeKind, StartAnswer, StartRequest, Workload

__all__ = [
    "ACTIVE",
    "CANDIDATES",
    "DEFAULT_POOL",
    "FINISHED",
    "MARKS",
    "AttemptState",
    "Catchup",
    "Dag",
    "InvalidId",
    "Isolation",
    "Outcome",
    "OutcomeKind",
    "RetryPolicy",
    "RunState",
    "RunType",
    "Schedule",
    "ScheduleKind",
    "StartAnswer",
    "StartRequest",
    "Task",
    "TaskKind",
    "TaskState",
    "TriggerRule",
    "Verdict",
    "Workload",
    "check_id",
]
