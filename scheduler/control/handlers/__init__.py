"""The operations of the control socket: one literal table of name, arguments and function."""

from typing import Any

from scheduler.control.context import ControlContext
from scheduler.control.handlers import changes, dags, pools, runs, system, tasks
from scheduler.control.operation import Arguments, Operation

OPERATIONS: dict[str, Operation[ControlContext, Any]] = {
    "dags.check": Operation(Arguments, dags.check_dags),
    "dags.list": Operation(dags.ListDags, dags.list_dags),
    "dags.next": Operation(dags.NextRuns, dags.next_runs),
    "dags.pause": Operation(dags.PauseDag, dags.pause_dag),
    "dags.show": Operation(dags.OneDag, dags.show_dag),
    "db.check": Operation(Arguments, system.check_database),
    "logs.locate": Operation(tasks.LogsOf, tasks.locate_logs),
    "pools.delete": Operation(pools.OnePool, pools.delete_pool),
    "pools.list": Operation(Arguments, pools.list_pools),
    "pools.set": Operation(pools.SetPool, pools.set_pool),
    "runs.cancel": Operation(runs.OneRun, runs.cancel_run),
    "runs.clear": Operation(changes.ClearRun, changes.clear_run),
    "runs.list": Operation(runs.ListRuns, runs.list_runs),
    "runs.mark": Operation(changes.MarkRun, changes.mark_run),
    "runs.show": Operation(runs.OneRun, runs.show_run),
    "runs.trigger": Operation(runs.Trigger, runs.trigger),
    "runs.wait": Operation(runs.WaitForRun, runs.wait_for_run, waits=True),
    "status": Operation(Arguments, system.status),
    "tasks.clear": Operation(changes.SomeTasks, changes.clear_tasks),
    "tasks.list": Operation(tasks.TasksOfRun, tasks.list_tasks),
    "tasks.mark": Operation(changes.MarkTasks, changes.mark_tasks),
    "tasks.show": Operation(tasks.OneTask, tasks.show_task),
}
