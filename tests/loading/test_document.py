"""A document from a child is believed only as far as others do not depend on it."""

import hashlib
from typing import Any

import msgspec
import pytest
from attrs import evolve

from scheduler.loading.document import Document, decode
from scheduler.model import Dag, RetryPolicy, Schedule, ScheduleKind, Task

SOURCE = "x = 1\n"
DAG = Dag(
    dag_id="d",
    schedule=Schedule(kind=ScheduleKind.CRON, text="@daily", cron="0 0 * * *"),
    tasks=(Task(task_id="a"), Task(task_id="b", upstream=("a",), inputs=("a",))),
)


def encoded(*dags: Dag, source_hash: str | None = None) -> bytes:
    true = hashlib.sha256(SOURCE.encode()).hexdigest()
    return msgspec.json.encode(Document(source=SOURCE, source_hash=source_hash or true, dags=dags))


def test_an_honest_document_is_read_back_as_it_was() -> None:
    assert decode(encoded(DAG)).dags == (DAG,)


@pytest.mark.parametrize(
    "changes",
    [
        {"dag_id": "../x"},
        {"tasks": DAG.tasks[::-1]},
        {"tasks": (DAG.tasks[0], DAG.tasks[0])},
        {"tasks": (Task(task_id="a", inputs=("zz",)),)},
        {"tasks": (Task(task_id="a/b"),)},
        {"tasks": (Task(task_id="a", pool_slots=0),)},
        {"tasks": (Task(task_id="a", pool_slots=2**40),)},
        {"tasks": (Task(task_id="a", priority_weight=2**31),)},
        {"tasks": (Task(task_id="a", execution_timeout=-1.0),)},
        {"tasks": (Task(task_id="a", retry=RetryPolicy(delay=1e300)),)},
        {"tasks": (Task(task_id="a", doc="\0"),)},
        {"schedule": Schedule(kind=ScheduleKind.CRON, text="x", cron="x")},
        {"schedule": Schedule(kind=ScheduleKind.CRON, text="x", cron="0 0 * * *", timezone="../etc/passwd")},
        {"schedule": Schedule(kind=ScheduleKind.EVERY, text="x", seconds=0.0)},
        {"max_active_runs": 0},
        {"tags": ("\0",)},
    ],
)
def test_a_forged_dag_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        decode(encoded(evolve(DAG, **changes)))


def test_a_forged_hash_or_a_doubled_id_is_refused() -> None:
    with pytest.raises(ValueError):
        decode(encoded(DAG, source_hash="00"))
    with pytest.raises(ValueError):
        decode(encoded(DAG, DAG))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"dags": [{}]}', b"[" * 100_000])
def test_what_is_not_a_document_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        decode(data)
