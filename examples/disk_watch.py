"""Branching and retries: look how full a disk is, and do one thing or another about it.

The first task fails at its first try, on purpose, as a network disk that is not mounted yet would: see it waiting for
its retry with `asyncsched tasks list`.
"""

import shutil
import tempfile
from datetime import timedelta

from scheduler import dag, get_context, task


@dag(schedule=timedelta(seconds=30), params={"full_above_percent": 90}, max_active_runs=1, tags=["example"])
def disk_watch():
    """Warn when the disk of temporary files is nearly full."""

    @task(
        retries=3,
        retry_delay=timedelta(seconds=1),
        retry_exponential_backoff=True,
        max_retry_delay=timedelta(seconds=10),
    )
    def measure() -> dict:
        if get_context().try_number == 1:
            raise ConnectionError("the disk is not mounted yet (this failure is part of the example)")
        usage = shutil.disk_usage(tempfile.gettempdir())
        return {"percent": round(100 * usage.used / usage.total, 1), "free_bytes": usage.free}

    @task.branch
    def is_it_full(usage: dict) -> str:
        return "warn" if usage["percent"] > get_context().params["full_above_percent"] else "all_is_well"

    @task
    def warn(percent: float) -> str:
        return f"the disk is {percent} % full: make room"

    @task
    def all_is_well(percent: float) -> str:
        return f"the disk is {percent} % full: all is well"

    @task(trigger_rule="none_failed_min_one_success")
    def tell(messages: list) -> None:
        """Runs after whichever branch was taken; the other one has no result."""
        print(next(message for message in messages if message is not None))

    usage = measure()
    branches = [warn(usage["percent"]), all_is_well(usage["percent"])]
    is_it_full(usage) >> branches
    tell(branches)


disk_watch()
