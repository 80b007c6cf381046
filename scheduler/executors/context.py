"""What a running task may know about itself."""

from scheduler.authoring.context import Context
from scheduler.model import Workload


def for_attempt(workload: Workload) -> Context:
    """The context that `get_context()` gives inside the task."""
    return Context(
        dag_id=workload.dag_id,
        run_id=workload.run_id,
        task_id=workload.task_id,
        map_index=workload.map_index,
        try_number=workload.try_number,
        max_tries=workload.max_tries,
        run_type=workload.run_type,
        logical_date=workload.logical_date,
        data_interval_start=workload.data_interval_start,
        data_interval_end=workload.data_interval_end,
        run_after=workload.run_after,
        params=workload.params,
        conf=workload.conf,
    )


def variables(workload: Workload) -> dict[str, str]:
    """The same for a bash command, as environment variables."""
    known = {
        "DAG_ID": workload.dag_id,
        "RUN_ID": workload.run_id,
        "TASK_ID": workload.task_id,
        "TRY_NUMBER": str(workload.try_number),
        "LOGICAL_DATE": workload.logical_date and workload.logical_date.isoformat(),
        "DATA_INTERVAL_START": workload.data_interval_start and workload.data_interval_start.isoformat(),
        "DATA_INTERVAL_END": workload.data_interval_end and workload.data_interval_end.isoformat(),
        "RUN_AFTER": workload.run_after.isoformat(),
    }
    return {f"ASYNCSCHED_{name}": value for name, value in known.items() if value}
