"""Which run, which task: the selectors of the command line, resolved where the rows are.

`RUN`, `DAG/RUN` or just `DAG` (its newest run) name a run; `/TASK` after it a task, then `#N` its try N.
"""

from collections.abc import Sequence

from attrs import frozen

from scheduler.control.context import ControlContext
from scheduler.control.protocol import Code, ControlError
from scheduler.store import views
from scheduler.store.writer import Reading, Row


@frozen(kw_only=True)
class Selected:
    """A run, and perhaps one task of it and one try of that."""

    run: Row
    task_id: str | None = None
    try_number: int | None = None


async def select_run(context: ControlContext, text: str) -> Row:
    """The run that `text` names. Raises ControlError: NOT_FOUND, or CONFLICT with the list of matches."""
    return (await _select(context, text, with_task=False)).run


async def select(context: ControlContext, text: str) -> Selected:
    """The run, or the task of a run, that `text` names. Raises ControlError."""
    return await _select(context, text, with_task=True)


async def _select(context: ControlContext, text: str, *, with_task: bool) -> Selected:
    names, try_number = _split(text, with_task=with_task)

    async def look(reading: Reading) -> list[Selected]:
        found: list[Selected] = []
        for dag_id, run_id, task_id in _readings(names, with_task=with_task):
            matches = await _runs(reading, dag_id=dag_id, run_id=run_id)
            for run in matches:
                if task_id is None or await views.tasks(reading, run_key=run["id"], task_id=task_id):
                    found.append(Selected(run=run, task_id=task_id, try_number=try_number))  # noqa: PERF401
            if found:
                break
        return found

    found = await context.store.read(look)
    if not found:
        raise ControlError(Code.NOT_FOUND, _nothing(text, names, with_task=with_task))
    if len(found) > 1:
        matches = ", ".join(f"{each.run['dag_id']}/{each.run['run_id']}" for each in found)
        raise ControlError(Code.CONFLICT, f"{text!r} names more than one run: {matches}. Write DAG/RUN.")
    return found[0]


def _split(text: str, *, with_task: bool) -> tuple[list[str], int | None]:
    path, mark, number = text.partition("#")
    names = path.split("/")
    most = 3 if with_task else 2
    grammar = "RUN or DAG/RUN" + (", with /TASK or /TASK#TRY after it" if with_task else "")
    if not all(names) or len(names) > most or (mark and (not number.isascii() or not number.isdigit())):
        raise ControlError(Code.USAGE, f"{text!r} is not {grammar}")
    if mark and (not with_task or len(names) == 1):
        raise ControlError(Code.USAGE, f"{text!r}: #TRY belongs after a task, {grammar}")
    return names, int(number) if mark else None


def _readings(names: Sequence[str], *, with_task: bool) -> list[tuple[str | None, str | None, str | None]]:
    """What the names may mean as (dag, run, task), most literal first; a run of None is the dag's newest."""
    if len(names) == 1:
        return [(None, names[0], None), (names[0], None, None)]
    if len(names) == 2:
        first, second = names
        pair = [(first, second, None)]
        return [*pair, (None, first, second), (first, None, second)] if with_task else [*pair]
    return [(names[0], names[1], names[2])]


async def _runs(reading: Reading, *, dag_id: str | None, run_id: str | None) -> Sequence[Row]:
    if run_id is None:
        return await views.runs(reading, dag_id=dag_id, limit=1)
    return await views.runs_named(reading, dag_id=dag_id, run_id=run_id)


def _nothing(text: str, names: Sequence[str], *, with_task: bool) -> str:
    if len(names) == 1:
        return f"there is no run {text!r}, and no dag of that name with a run: see `asyncsched runs list`"
    what = "run or task" if with_task else "run"
    return f"there is no {what} {text!r}: see `asyncsched runs list {names[0]}`"
