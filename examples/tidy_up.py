"""Bash, a task group, params and a cron line in a time zone: remove what the other examples wrote, when it is old.

It runs in the night, Berlin time. To see it now: `asyncsched trigger tidy_up --conf '{"keep_days": 0}' --wait`.
"""

import os
import tempfile
import time
from pathlib import Path

from scheduler import DAG, SkipTask, TaskGroup, get_context, task

OUT = Path(os.environ.get("EXAMPLES_OUT") or Path(tempfile.gettempdir()) / "asyncsched-examples")

with DAG("tidy_up", schedule="30 3 * * *", timezone="Europe/Berlin", params={"keep_days": 7}, tags=["example"]):
    before = task.bash(f"df -h '{OUT.parent}'", task_id="disk_before")

    with TaskGroup("remove") as remove:

        @task
        def find_old() -> list:
            oldest = time.time() - 86400 * get_context().params["keep_days"]
            old = [str(path) for path in sorted(OUT.glob("time_zones.*")) if path.stat().st_mtime < oldest]
            if not old:
                raise SkipTask("nothing is old enough")
            return old

        @task
        def delete(paths: list) -> int:
            for path in paths:
                print(f"deleting {path}")
                Path(path).unlink(missing_ok=True)
            return len(paths)

        delete(find_old())

    @task.bash(trigger_rule="all_done")
    def disk_after() -> str:
        return f"df -h '{OUT.parent}'"

    before >> remove >> disk_after()
