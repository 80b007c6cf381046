"""What routines wake each other with. Hints: everything works, at its own pace, with all of them lost."""

from enum import StrEnum


class Topic(StrEnum):
    """Poked after the commit that made it true."""

    DAG_DUE = "dag_due"
    RUN_QUEUED = "run_queued"
    RUN_FINISHED = "run_finished"
    EVENT_APPENDED = "event_appended"
    TIMER_SET = "timer_set"
    TASK_SCHEDULED = "task_scheduled"
    SLOT_FREED = "slot_freed"
    CANCEL_REQUESTED = "cancel_requested"
    START_REQUESTED = "start_requested"
    OUTCOME_REPORTED = "outcome_reported"
    ATTEMPT_LOST = "attempt_lost"
    WORKER_CHANGED = "worker_changed"
    VERSIONS_CHANGED = "versions_changed"
