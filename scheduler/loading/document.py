"""What the parsing child says, as JSON, and how much of it is believed."""

import hashlib
import math

import msgspec

from scheduler.model import Dag, Task, check_id
from scheduler.timetables import validate

_INT4 = 2**31 - 1


class Problem(msgspec.Struct, frozen=True):
    """Why a file cannot be used, and on which of its lines."""

    line: int | None
    message: str


class Document(msgspec.Struct, frozen=True, omit_defaults=True):
    """Either `error`, or the text that was executed and the dags it made."""

    source: str = ""
    source_hash: str = ""
    dags: tuple[Dag, ...] = ()
    error: Problem | None = None


_decoder: msgspec.json.Decoder[Document] = msgspec.json.Decoder(Document)


def decode(data: bytes) -> Document:
    """Raises ValueError for anything that the child, left alone, would not have written.

    A DAG file can get at the descriptor and write what it likes, so nothing that others rely on is taken on trust.
    """
    document = _decoder.decode(data)
    if document.error is not None:
        return document
    if hashlib.sha256(document.source.encode()).hexdigest() != document.source_hash:
        raise ValueError("the source does not have its hash")
    ids = {dag.dag_id for dag in document.dags}
    if len(ids) != len(document.dags):
        raise ValueError("two dags have one id")
    for dag in document.dags:
        _check_dag(dag)
    return document


def _check_dag(dag: Dag) -> None:
    check_id(dag.dag_id, what="dag_id")
    validate(dag.schedule)
    for instant in (dag.start_date, dag.end_date):
        if instant is not None and instant.tzinfo is None:
            raise ValueError("a date without a time zone")
    _check_number(dag.max_active_runs, least=1)
    _check_number(dag.max_active_tasks, least=1)
    _check_seconds(dag.dagrun_timeout)
    for text in (dag.schedule.text, dag.description or "", *dag.tags):
        _check_text(text)
    before: set[str] = set()
    for task in dag.tasks:
        check_id(task.task_id, what="task_id")
        if task.task_id in before or not before.issuperset(task.upstream):
            raise ValueError("tasks are not unique and in order")
        _check_task(task)
        before.add(task.task_id)


def _check_task(task: Task) -> None:
    check_id(task.pool, what="pool")
    if not set(task.upstream).issuperset(task.inputs):
        raise ValueError("an input is not upstream")
    _check_number(task.pool_slots, least=1)
    _check_number(task.priority_weight, least=-_INT4 - 1)
    _check_number(task.retry.retries, least=0)
    for seconds in (task.execution_timeout, task.retry.delay, task.retry.multiplier, task.retry.max_delay):
        _check_seconds(seconds)
    for text in (task.group or "", task.doc or ""):
        _check_text(text)


def _check_number(value: int, *, least: int) -> None:
    if not least <= value <= _INT4:
        raise ValueError(f"{value} is out of bounds")


def _check_seconds(value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and 0 <= value <= _INT4 * 2):
        raise ValueError(f"{value} is out of bounds")


def _check_text(text: str) -> None:
    text.encode()
    if "\0" in text:
        raise ValueError("a NUL character")
