"""What travels between the daemon and whoever runs an attempt. JSON values only."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from attrs import field, frozen

from scheduler.model.dag import Isolation


@frozen(kw_only=True)
class Workload:
    """One attempt to be run: everything a worker needs; the results of upstream tasks if it is started already."""

    token: str
    """The claim token, a UUID: identity of the attempt and fence of everything written about it."""
    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    try_number: int = 1
    max_tries: int = 0
    """Retries allowed in all: the try may be followed by another while try_number <= max_tries."""
    run_type: str
    logical_date: datetime | None = None
    data_interval_start: datetime | None = None
    data_interval_end: datetime | None = None
    run_after: datetime
    params: dict[str, Any] = field(factory=dict)
    """The dag's params with the run's conf merged over them."""
    conf: dict[str, Any] = field(factory=dict)
    file: str
    """Path of the DAG file as the user knows it; becomes `__file__`."""
    source_path: str
    """Path of the pinned copy of that file's text, which is what runs."""
    source_hash: str
    """SHA-256 of that text in hex: attempts with the same hash and file share a warm parent."""
    log_path: str
    """Absolute path of the log file to append to; its directory may not exist yet."""
    execution_timeout: float | None = None
    """Seconds."""
    isolation: Isolation = Isolation.PROCESS
    """Where it runs: in a process of its own, or in one that runs many attempts one after the other."""
    inputs: dict[str, Any] | None = None
    """Results of upstream tasks (task_id -> result), when the start was committed together with the admission: the
    worker asks for nothing and runs it at once. None: it asks with a StartRequest, and the answer brings them."""
    worker: str | None = None
    """The worker_id this attempt was started at: it may run nowhere else. None: it is not started yet."""


@frozen(kw_only=True)
class StartRequest:
    """A worker asks to start an attempt: user code runs only after the answer says so."""

    token: str
    worker_id: str
    pid: int
    hostname: str


@frozen(kw_only=True)
class StartAnswer:
    """The daemon's answer: accepted with inputs, or refused with a reason (then the attempt must end)."""

    token: str
    accepted: bool
    inputs: dict[str, Any] = field(factory=dict)
    """task_id -> result of that upstream task; a task without a result is absent."""
    reason: str = ""


class OutcomeKind(StrEnum):
    """How an attempt ended."""

    SUCCESS = "success"
    FAILED = "failed"
    SKIPPED = "skipped"
    LOST = "lost"
    """Its process is gone for a reason that is not the task's: the worker was stopped, the parent died."""


@frozen(kw_only=True)
class Outcome:
    """What a worker reports of an attempt, once; it repeats the report until it is acknowledged."""

    token: str
    kind: OutcomeKind
    result: str | None = None
    """The returned value as JSON text; None when the task returned None."""
    decision: dict[str, list[str]] | None = None
    """Branch: {"followed": [task ids]}. Short circuit: {"skipped": []} meaning all below, absent if it goes on."""
    retryable: bool = True
    """False for FailTask: no further try."""
    message: str = ""
    """One line for people: the exception, "killed by SIGKILL", "timed out after 30 s"."""
    exit_code: int | None = None
    """Of the task process; negative: the signal that ended it."""
    pid: int | None = None
    """The task process, at its worker's host; None if there was none, or nobody knows."""
    reason: str = ""
    """Machine-readable cause of a failure: "exception", "timeout", "signal", "exit", "result", "cancelled",
    "import"; of a loss: "shutdown", "worker", "lease"; empty for success."""
