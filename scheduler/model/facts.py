"""Facts: what has been committed and somebody may want to hear of. Never a reason to do anything."""

from enum import StrEnum
from typing import Any

from attrs import field, frozen


class FactKind(StrEnum):
    """What happened."""

    FILE_LOADED = "file loaded"
    FILE_BROKEN = "file broken"
    RUN_CREATED = "run created"
    RUN_FINISHED = "run finished"
    RUN_CLEARED = "run cleared"
    RUN_MARKED = "run marked"
    TASKS_MARKED = "tasks marked"
    TASK_STARTED = "task started"
    TASK_ENDED = "task ended"
    REPORT_REFUSED = "report refused"
    SLOTS_DROPPED = "slots dropped"


@frozen
class Fact:
    """One thing that happened; `about` holds JSON values: dag_id, run_id, task_id, state, message, ..."""

    kind: FactKind
    about: dict[str, Any] = field(factory=dict)
