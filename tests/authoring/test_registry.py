"""Which dags a file made, and where; what a running task knows of itself."""

from datetime import UTC, datetime
from typing import Any

import pytest

from scheduler.authoring import Context, DagError, collect_dags, get_context, set_context


def run(text: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "a_dag_file"}
    exec(compile(text, "a_dag_file.py", "exec"), namespace)
    return namespace


def test_dags_are_found_whether_they_have_a_name_or_not_with_their_lines() -> None:
    found = collect_dags(
        run(
            "from scheduler import DAG, dag\n"
            "DAG('nameless')\n"
            "named = DAG('named')\n"
            "with DAG('with'):\n"
            "    pass\n"
            "@dag\n"
            "def decorated(): ...\n"
            "decorated()\n"
            "def make(i): return DAG(i)\n"
            "dags = [make('made_0'), make('made_1')]\n"
        )
    )
    assert {dag_id: dag.place.line for dag_id, dag in found.items()} == {
        "nameless": 2,
        "named": 3,
        "with": 4,
        "decorated": 6,
        "made_0": 9,
        "made_1": 9,
    }


def test_files_do_not_see_each_other() -> None:
    one, two = run("from scheduler import DAG\nDAG('x')\n"), run("from scheduler import DAG\nDAG('x')\n")
    assert list(collect_dags(one)) == ["x"]
    assert collect_dags(one)["x"] is not collect_dags(two)["x"]
    assert collect_dags({}) == {}


def test_one_id_twice_in_a_file_is_refused_with_both_lines() -> None:
    namespace = run("from scheduler import DAG\nDAG('x')\n\nDAG('x')\n")
    with pytest.raises(DagError, match="first on line 2") as caught:
        collect_dags(namespace)
    assert caught.value.line == 4


def test_tasks_know_their_lines_in_the_file() -> None:
    namespace = run(
        "from scheduler import DAG, task\n"
        "@task\n"
        "def f(): ...\n"
        "with DAG('d') as d:\n"
        "    f()\n"
        "    task.empty('e')\n"
        "    task.bash('ls', task_id='b')\n"
    )
    assert [node.line for node in namespace["d"].nodes] == [5, 6, 7]


def test_an_exception_in_a_dag_does_not_leave_it_open() -> None:
    with pytest.raises(ZeroDivisionError):
        run("from scheduler import DAG\nwith DAG('d'):\n    1 / 0\n")
    with pytest.raises(DagError, match="outside a dag"):
        run("from scheduler import task\ntask.empty('x')\n")


def test_the_context_is_that_of_the_running_task_and_of_nothing_else() -> None:
    with pytest.raises(RuntimeError, match="in a running task only"):
        get_context()
    context = Context(dag_id="d", run_id="r", task_id="t", run_after=datetime(2026, 1, 1, tzinfo=UTC), params={"a": 1})
    set_context(context)
    try:
        assert get_context() is context
        assert get_context()["params"] == {"a": 1}
        with pytest.raises(KeyError):
            get_context()["nothing"]
    finally:
        set_context(None)
