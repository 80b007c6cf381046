"""Requests that change what has happened: clear and mark, tasks or whole runs."""

from collections.abc import Sequence

from scheduler.commands import Choice, RunChange
from scheduler.control import shapes
from scheduler.control.context import ControlContext
from scheduler.control.handlers.select import Selected, select, select_run
from scheduler.control.operation import Arguments
from scheduler.control.protocol import Code, ControlError
from scheduler.decisions.clearing import Selection
from scheduler.model import MARKS, RunState, TaskState

ENDS = (RunState.SUCCESS, RunState.FAILED)


class ClearRun(Arguments):
    run: str
    """RUN, DAG/RUN, or DAG for its newest."""
    past: bool = False
    future: bool = False
    only: tuple[TaskState, ...] = ()
    """Only tasks in one of these states; none named: all."""
    dry_run: bool = False


async def clear_run(context: ControlContext, arguments: ClearRun) -> shapes.Json:
    """Clear the tasks of a run, and perhaps of those before or after it."""
    run = await select_run(context, arguments.run)
    choice = Choice(
        dag_id=run["dag_id"],
        run_id=run["run_id"],
        selection=Selection(only=_only(arguments.only)),
        past=arguments.past,
        future=arguments.future,
    )
    done = await context.commands.clear(context.store, choice=choice, dry_run=arguments.dry_run)
    return shapes.changes(done, dry_run=arguments.dry_run)


class SomeTasks(Arguments):
    tasks: tuple[str, ...]
    """RUN/TASK or DAG/RUN/TASK each, all of one run."""
    upstream: bool = False
    downstream: bool = False
    past: bool = False
    future: bool = False
    only: tuple[TaskState, ...] = ()
    dry_run: bool = False


async def clear_tasks(context: ControlContext, arguments: SomeTasks) -> shapes.Json:
    """Clear tasks of a run, perhaps with those above and below them, and the same in other runs."""
    choice = await _choice(context, arguments)
    done = await context.commands.clear(context.store, choice=choice, dry_run=arguments.dry_run)
    return shapes.changes(done, dry_run=arguments.dry_run)


class MarkTasks(SomeTasks, kw_only=True):
    state: TaskState


async def mark_tasks(context: ControlContext, arguments: MarkTasks) -> shapes.Json:
    """Give tasks a state, and clear the failures below them."""
    if arguments.state not in MARKS:
        raise ControlError(Code.USAGE, f"a task is marked as success, failed or skipped, not {arguments.state}")
    choice = await _choice(context, arguments)
    done: Sequence[RunChange] = await context.commands.mark(
        context.store, choice=choice, state=arguments.state, dry_run=arguments.dry_run
    )
    return shapes.changes(done, dry_run=arguments.dry_run)


class MarkRun(Arguments):
    run: str
    state: RunState


async def mark_run(context: ControlContext, arguments: MarkRun) -> shapes.Json:
    """End a run as success or failed; `before` is the state it was in."""
    if arguments.state not in ENDS:
        raise ControlError(Code.USAGE, f"a run is marked as success or failed, not {arguments.state}")
    run = await select_run(context, arguments.run)
    before = await context.commands.mark_run(
        context.store, dag_id=run["dag_id"], run_id=run["run_id"], state=arguments.state
    )
    return {"dag_id": run["dag_id"], "run_id": run["run_id"], "before": str(before), "state": str(arguments.state)}


async def _choice(context: ControlContext, arguments: SomeTasks) -> Choice:
    if not arguments.tasks:
        raise ControlError(Code.USAGE, "name at least one task: RUN/TASK")
    chosen = [await select(context, text) for text in arguments.tasks]
    names = {_task_of(one, text) for one, text in zip(chosen, arguments.tasks, strict=True)}
    runs = {one.run["id"] for one in chosen}
    if len(runs) > 1:
        raise ControlError(Code.USAGE, "the tasks are of several runs: name tasks of one run, or use past or future")
    run = chosen[0].run
    return Choice(
        dag_id=run["dag_id"],
        run_id=run["run_id"],
        selection=Selection(
            tasks=frozenset(names),
            upstream=arguments.upstream,
            downstream=arguments.downstream,
            only=_only(arguments.only),
        ),
        past=arguments.past,
        future=arguments.future,
    )


def _task_of(chosen: Selected, text: str) -> str:
    if chosen.task_id is None:
        raise ControlError(Code.USAGE, f"{text!r} names a run: add /TASK")
    if chosen.try_number is not None:
        raise ControlError(Code.USAGE, f"{text!r}: a task is cleared or marked as a whole, without #TRY")
    return chosen.task_id


def _only(states: Sequence[TaskState]) -> frozenset[TaskState] | None:
    return frozenset(states) if states else None
