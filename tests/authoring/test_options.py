"""Options are checked where they are written, and arrive in the units of the model."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from scheduler.authoring import DAG, DagError, dag, task
from scheduler.model import Catchup, Dag, Isolation, RetryPolicy, ScheduleKind, Task, TriggerRule


def model_of(**options: Any) -> Task:
    with DAG("d") as made:
        task(task_id="t", **options)(lambda: None)()
    return made.to_model().tasks[0]


def test_options_arrive_in_seconds_and_with_defaults() -> None:
    found = model_of(
        retries=3,
        retry_delay=timedelta(minutes=2),
        retry_exponential_backoff=True,
        max_retry_delay=600,
        execution_timeout=timedelta(seconds=1.5),
        trigger_rule="one_done",
        pool="http",
        pool_slots=2,
        priority_weight=-4,
        weight_rule="absolute",
        rerun_when_lost=False,
        doc_md="why",
    )
    assert found.retry == RetryPolicy(retries=3, delay=120.0, multiplier=2.0, max_delay=600.0)
    assert found.execution_timeout == 1.5
    assert found.trigger_rule is TriggerRule.ONE_DONE
    assert (found.pool, found.pool_slots, found.priority_weight) == ("http", 2, -4)
    assert (found.rerun_when_lost, found.doc) == (False, "why")
    assert model_of() == Task(task_id="t")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"retrys": 1}, "task has no option 'retrys', did you mean 'retries'?"),
        ({"retries": -1}, "retries must be from 0"),
        ({"retries": True}, "retries must be a whole number, not True"),
        ({"retries": 1.5}, "retries must be a whole number"),
        ({"retry_delay": "5m"}, "retry_delay must be a timedelta or a number of seconds, not '5m'"),
        ({"retry_delay": timedelta(seconds=-1)}, "retry_delay must be 0 or more seconds"),
        ({"retry_delay": float("nan")}, "retry_delay must be"),
        ({"retry_exponential_backoff": -2}, "a multiplier from 0"),
        ({"execution_timeout": 0}, "execution_timeout must be more than 0 seconds"),
        ({"trigger_rule": "all_done_setup_success"}, "trigger_rule 'all_done_setup_success' is unknown"),
        ({"trigger_rule": "all_sucess"}, "did you mean 'all_success'?"),
        ({"trigger_rule": None}, "trigger_rule must be one of all_success"),
        ({"pool": "päl"}, "pool 'p\\xe4l' is not valid"),
        ({"pool_slots": 0}, "pool_slots must be from 1"),
        ({"priority_weight": 2**31}, "priority_weight must be from"),
        ({"weight_rule": "downsteam"}, "did you mean 'downstream'?"),
        ({"isolation": "reus"}, "isolation 'reus' is unknown, did you mean 'reuse'?"),
        ({"isolation": True}, "isolation must be one of process, reuse, not True"),
        ({"rerun_when_lost": 1}, "rerun_when_lost must be True or False"),
        ({"doc_md": "\0"}, "NUL"),
        ({"doc_md": "\ud800"}, "lone surrogate"),
    ],
)
def test_a_wrong_option_is_refused_with_a_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DagError) as caught:
        model_of(**options)
    assert words in str(caught.value)


def test_every_trigger_rule_of_the_model_may_be_written() -> None:
    for rule in TriggerRule:
        assert model_of(trigger_rule=rule).trigger_rule is rule
        assert model_of(trigger_rule=str(rule)).trigger_rule is rule


def test_dag_options_arrive() -> None:
    @dag(
        schedule="@daily",
        start_date=datetime(2026, 1, 1),
        end_date=datetime(2026, 12, 31, tzinfo=UTC),
        catchup=True,
        max_active_runs=2,
        max_active_tasks=3,
        dagrun_timeout=timedelta(hours=1),
        params={"a": (1, 2)},
        tags=["b", "a"],
        is_paused_upon_creation=True,
    )
    def named() -> None:
        """What it does.

        In detail.
        """

    found = named().to_model()
    assert found.dag_id == "named"
    assert (found.schedule.kind, found.schedule.cron, found.schedule.text) == (ScheduleKind.CRON, "0 0 * * *", "@daily")
    assert found.start_date == datetime(2026, 1, 1, tzinfo=UTC)
    assert found.end_date == datetime(2026, 12, 31, tzinfo=UTC)
    assert (found.catchup, found.max_active_runs, found.max_active_tasks) == (Catchup.ALL, 2, 3)
    assert (found.dagrun_timeout, found.params, found.tags) == (3600.0, {"a": [1, 2]}, ("a", "b"))
    assert found.paused_upon_creation
    assert found.description == "What it does.\n\nIn detail."


def test_isolation_is_that_of_the_dag_unless_the_task_says_otherwise() -> None:
    with DAG("d", isolation="reuse") as made:
        task.empty("as_the_dag")
        task.empty("alone", isolation="process")
    found = made.to_model()
    assert found.isolation is Isolation.REUSE
    assert [one.isolation for one in found.tasks] == [None, Isolation.PROCESS]
    assert DAG("e").to_model().isolation is Isolation.PROCESS
    with pytest.raises(DagError, match="isolation 'thread' is unknown"):
        DAG("f", isolation="thread")


def test_a_document_from_before_there_was_isolation_means_processes() -> None:
    made = DAG("d")
    with made:
        task.empty("t")
    document = msgspec.json.decode(msgspec.json.encode(made.to_model()))
    del document["isolation"], document["tasks"][0]["isolation"]
    assert msgspec.convert(document, Dag) == made.to_model()


def test_dag_decorator_without_options_with_an_id_and_with_arguments() -> None:
    @dag
    def plain() -> None: ...

    @dag("other", schedule=None)
    def renamed() -> None: ...

    @dag(dag_id="third")  # type: ignore[call-arg]
    def spelled() -> None: ...

    @dag()
    def with_arguments(n: int) -> None:
        for i in range(n):
            task.empty(f"t{i}")

    assert [made().dag_id for made in (plain, renamed, spelled)] == ["plain", "other", "third"]
    assert len(with_arguments(3).nodes) == 3


@pytest.mark.parametrize(
    ("catchup", "expected"),
    [(False, "last"), (True, "all"), ("none", "none"), ("last", "last"), ("all", "all")],
)
def test_catchup(catchup: Any, expected: str) -> None:
    assert DAG("d", catchup=catchup).to_model().catchup == expected


@pytest.mark.parametrize(
    ("schedule", "kind", "text"),
    [
        (None, "never", "never"),
        ("@once", "once", "@once"),
        ("@continuous", "continuous", "@continuous"),
        (timedelta(minutes=10), "every", "every 0:10:00"),
        ("*/5  *  * * *", "cron", "*/5 * * * *"),
        ("0 0 * * * 30", "cron", "0 0 * * * 30"),
    ],
)
def test_schedules(schedule: Any, kind: str, text: str) -> None:
    found = DAG("d", schedule=schedule).to_model()
    assert (found.schedule.kind, found.schedule.text) == (kind, text)
    assert found.max_active_runs == (1 if kind == "continuous" else 16)


def test_the_zone_of_a_dag_is_the_one_given_or_that_of_its_start_date() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    by_start = DAG("d", schedule="0 3 * * *", start_date=datetime(2026, 7, 1, tzinfo=berlin)).to_model()
    assert (by_start.schedule.timezone, by_start.schedule.text) == ("Europe/Berlin", "0 3 * * * Europe/Berlin")
    assert by_start.start_date == datetime(2026, 6, 30, 22, tzinfo=UTC)
    given = DAG("d", schedule="0 3 * * *", timezone="Asia/Tokyo", start_date=datetime(2026, 7, 1)).to_model()
    assert (given.schedule.timezone, given.start_date) == ("Asia/Tokyo", datetime(2026, 6, 30, 15, tzinfo=UTC))
    assert DAG("d", schedule="0 3 * * *").to_model().schedule.timezone == "UTC"
    in_defaults = DAG("d", schedule="@daily", default_args={"start_date": datetime(2026, 7, 1, tzinfo=berlin)})
    assert in_defaults.to_model().start_date == datetime(2026, 6, 30, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedle": None}, "did you mean 'schedule'?"),
        ({"schedule": "@dayly"}, "did you mean '@daily'?"),
        ({"schedule": "* * *"}, "it needs 5 fields"),
        ({"schedule": 5}, "schedule must be a cron line"),
        ({"schedule": timedelta(0)}, "schedule must be more than 0"),
        ({"schedule": "@continuous", "max_active_runs": 2}, "max_active_runs must be 1"),
        ({"timezone": "Europe/Berln"}, "timezone 'Europe/Berln' is not an IANA name"),
        ({"timezone": "../x"}, "is not an IANA name"),
        ({"start_date": "2026-01-01"}, "start_date must be a datetime"),
        ({"start_date": datetime(2026, 1, 1).astimezone()}, "must have an IANA name"),
        ({"start_date": datetime(1, 1, 1), "timezone": "Asia/Tokyo"}, "not in the years 1 to 9999"),
        ({"catchup": "some"}, "catchup 'some' is unknown"),
        ({"max_active_runs": 0}, "max_active_runs must be from 1"),
        ({"tags": "etl"}, "tags must be a list of str"),
        ({"default_args": {"retrys": 1}}, "default_args has no option 'retrys'"),
        ({"default_args": {"task_id": "x"}}, "default_args cannot have a task_id"),
        ({"default_args": {"depends_on_past": True}}, "default_args has no option 'depends_on_past'"),
        ({"params": {"x": {1, 2}}}, "param 'x' is not JSON"),
        ({"params": {"x": float("nan")}}, "param 'x' is not JSON"),
        ({"params": {1: 2}}, "the name of a param must be a str"),
    ],
)
def test_a_wrong_dag_option_is_refused_with_a_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DagError) as caught:
        DAG("d", **options).to_model()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "dag_id", ["", ".", "..", "a b", "a/b", "a%2fb", "ä", "a\n", "\u202e", "x" * 201, None, 5, "a\0"]
)
def test_hostile_ids_are_refused(dag_id: Any) -> None:
    with pytest.raises(DagError, match="dag_id"):
        DAG(dag_id)
