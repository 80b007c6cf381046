"""A version is a document and a text: it changes with either, and with nothing else."""

from attrs import evolve

from scheduler.loading.version import version_hash
from scheduler.model import Dag, Schedule, ScheduleKind, Task

DAG = Dag(
    dag_id="d",
    schedule=Schedule(kind=ScheduleKind.NEVER, text="never"),
    tasks=(Task(task_id="t"),),
    params={"a": 1, "b": 2},
)


def test_equal_dags_from_equal_text_are_one_version() -> None:
    assert version_hash(DAG, "aa") == version_hash(evolve(DAG, params={"b": 2, "a": 1}), "aa")


def test_any_change_of_document_or_text_is_a_new_version() -> None:
    changed = {
        version_hash(DAG, "aa"),
        version_hash(DAG, "bb"),
        version_hash(evolve(DAG, max_active_runs=2), "aa"),
        version_hash(evolve(DAG, params={"a": 1}), "aa"),
    }
    assert len(changed) == 4
