"""What a running task may know about itself."""

from datetime import datetime
from typing import Any

from attrs import field, frozen


@frozen(kw_only=True)
class Context:
    """The attempt that is running. Every instant is aware, in UTC."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    try_number: int = 1
    max_tries: int = 0
    """Retries allowed in all: another try may follow while try_number <= max_tries."""
    run_type: str = "manual"
    run_after: datetime
    logical_date: datetime | None = None
    """None for a manual run without a date."""
    data_interval_start: datetime | None = None
    data_interval_end: datetime | None = None
    params: dict[str, Any] = field(factory=dict)
    """The dag's params with the run's conf merged over them."""
    conf: dict[str, Any] = field(factory=dict)
    """What the run was triggered with."""

    def __getitem__(self, name: str) -> Any:
        """`context["run_id"]`: the spelling of Airflow's context."""
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None


_current: Context | None = None


def get_context() -> Context:
    """The context of the running task. Raises RuntimeError outside a running task."""
    if _current is None:
        raise RuntimeError("get_context() works in a running task only, not while the DAG file is loaded")
    return _current


def set_context(context: Context | None) -> None:
    """For the task process: make `context` the one that `get_context` returns."""
    # A plain global, not a context variable: a task process runs one attempt, and its threads may ask, too.
    global _current
    _current = context
