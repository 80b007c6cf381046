"""Functions become tasks: ids, arguments, placeholders, what a call does in the task process."""

import asyncio
import functools
from collections import namedtuple
from typing import Any

import pytest

from scheduler.authoring import DAG, DagError, TaskGroup, XComArg, task
from scheduler.model import TaskKind


@task
def give(value: Any = None) -> Any:
    return value


@task
def keep(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def test_a_call_inside_a_dag_makes_a_task_and_runs_nothing() -> None:
    ran = []

    @task
    def act() -> None:
        ran.append(1)

    with DAG("d") as dag:
        out = act()
    assert isinstance(out, XComArg)
    assert ran == []
    assert dag.task("act").call({}) is None
    assert ran == [1]


def test_a_call_outside_a_dag_says_what_to_do() -> None:
    with pytest.raises(DagError, match="outside a dag: put it into a @dag function"):
        give()
    assert give.function(3) == 3


def test_results_are_filled_in_at_any_depth() -> None:
    point = namedtuple("point", "x y")
    with DAG("d") as dag:
        a, b = give.override(task_id="a")(), give.override(task_id="b")()
        keep(a, [b, {"k": (a["x"][0], 7)}], point(a, 1), plain={"z": [1]}, part=b["y"])
    node = dag.task("keep")
    args, kwargs = node.call({"a": {"x": [5]}, "b": {"y": None}})
    assert args == ({"x": [5]}, [{"y": None}, {"k": (5, 7)}], point({"x": [5]}, 1))
    assert kwargs == {"plain": {"z": [1]}, "part": None}
    assert {source.task_id for source in node.inputs()} == {"a", "b"}


def test_a_task_without_a_result_counts_as_none_also_in_parts() -> None:
    with DAG("d") as dag:
        a = give()
        keep(a, a["x"]["y"])
    assert dag.task("keep").call({}) == ((None, None), {})


def test_a_part_that_is_not_there_is_named() -> None:
    with DAG("d") as dag:
        keep(give()["rows"])
    with pytest.raises(LookupError, match=r"<result of give>\['rows'\] does not exist.*keys 'row', 'n'"):
        dag.task("keep").call({"give": {"row": 1, "n": 2}})
    with pytest.raises(LookupError, match="a list of length 2"):
        dag.task("keep").call({"give": [1, 2]})


def test_values_without_placeholders_are_passed_as_the_same_object() -> None:
    value = [object()]
    with DAG("d") as dag:
        keep(value)
    assert dag.task("keep").call({})[0][0] is value


@pytest.mark.parametrize("use", [iter, bool, len, list, lambda out: 1 in out])
def test_a_placeholder_used_while_loading_says_so(use: Any) -> None:
    with DAG("d"):
        out = give()
    with pytest.raises(TypeError, match="known only when the task has run"):
        use(out)


def test_a_placeholder_in_a_set_or_with_a_strange_key_is_refused() -> None:
    with DAG("d"):
        out = give()
        with pytest.raises(DagError, match="use a list"):
            keep({out})
        with pytest.raises(TypeError, match="takes a str or an int"):
            out[1:2]  # type: ignore[index]


def test_results_stay_within_one_dag() -> None:
    with DAG("one"):
        out = give()
    with DAG("two"), pytest.raises(DagError, match="results stay within one dag"):
        keep(out)


def test_wrong_arguments_are_refused_when_the_file_is_loaded() -> None:
    @task
    def fetch(city: str, *, days: int = 1) -> None: ...

    with DAG("d") as dag:
        with pytest.raises(TypeError, match=r"task 'fetch': missing a required argument: 'city'"):
            fetch()
        with pytest.raises(TypeError, match="unexpected keyword argument 'day'"):
            fetch("Oslo", day=2)
    assert dag.nodes == ()


def test_calls_of_one_function_are_numbered_and_calls_of_two_with_one_name_refused() -> None:
    with DAG("d") as dag:
        for _ in range(3):
            give()
        for i in range(2):

            @task
            def loop() -> int:
                return i  # noqa: B023

            loop()

        @task(task_id="give")
        def other() -> None: ...

        with pytest.raises(DagError, match="task_id 'give' is used twice in dag 'd'"):
            other()
    assert [node.task_id for node in dag.nodes] == ["give", "give__1", "give__2", "loop", "loop__1"]


def test_async_functions_are_known_as_such_and_give_a_coroutine() -> None:
    @task
    async def wait(n: int) -> int:
        return n

    class Callable:
        async def __call__(self) -> None: ...

    async def with_two(a: int, b: int) -> None: ...

    with DAG("d") as dag:
        wait(give())
        task(task_id="object")(Callable())()
        task(task_id="partial")(functools.partial(with_two, 1))(2)
    assert [node.is_async for node in dag.nodes] == [False, True, True, True]
    coroutine = dag.task("wait").call({"give": 4})
    assert asyncio.iscoroutine(coroutine)
    with pytest.raises(StopIteration) as caught:
        coroutine.send(None)
    assert caught.value.value == 4


def test_the_kinds_of_task() -> None:
    with DAG("d") as dag:

        @task.bash
        def command(n: int) -> str:
            return f"echo {n}"

        @task.branch(task_id="choose")
        def chooses() -> str:
            return "a"

        @task.short_circuit(ignore_downstream_trigger_rules=False)
        def go_on() -> bool:
            return False

        command(3)
        chooses()
        go_on()
        task.empty("nothing")
        task.bash("echo hi", task_id="hi")
        task.bash(command=give(), task_id="said")
    kinds = {node.task_id: node.kind for node in dag.nodes}
    assert kinds == {
        "command": TaskKind.BASH,
        "choose": TaskKind.BRANCH,
        "go_on": TaskKind.SHORT_CIRCUIT,
        "nothing": TaskKind.EMPTY,
        "hi": TaskKind.BASH,
        "give": TaskKind.PYTHON,
        "said": TaskKind.BASH,
    }
    assert dag.task("command").call({}) == "echo 3"
    assert dag.task("hi").call({}) == "echo hi"
    assert dag.task("said").call({"give": "ls"}) == "ls"
    assert dag.task("nothing").call({}) is None
    model = dag.to_model()
    assert {t.task_id: t.inputs for t in model.tasks}["said"] == ("give",)
    assert not next(t for t in model.tasks if t.task_id == "go_on").ignore_downstream_trigger_rules


def test_what_cannot_be_a_task_is_refused() -> None:
    def values() -> Any:
        yield 1

    async def command() -> str:
        return ""

    with DAG("d"):
        with pytest.raises(DagError, match="is a generator"):
            task(values)
        with pytest.raises(DagError, match="not `async def`"):
            task.bash(command)
        with pytest.raises(DagError, match="needs a task_id"):
            task.bash(command="echo")
        with pytest.raises(DagError, match="task_id='x'"):
            task("x")  # type: ignore[call-overload]
        with pytest.raises(DagError, match="the command is a str"):
            task.bash(command=3, task_id="x")  # type: ignore[call-overload]
        with pytest.raises(DagError, match="call the task in a loop"):
            give.expand(value=[1])
        with pytest.raises(AttributeError, match=r"there is no task\.sensor"):
            task.sensor  # noqa: B018


def test_override_changes_one_call_only() -> None:
    slow = give.override(task_id="slow", retries=4)
    with DAG("d", default_args={"retries": 2, "owner": "me"}) as dag:
        give()
        slow()
        give.override(pool="p")()
    retries = [node.settings.retry.retries for node in dag.nodes]
    assert retries == [2, 4, 2]
    assert [node.task_id for node in dag.nodes] == ["give", "slow", "give__1"]
    assert [node.settings.pool for node in dag.nodes] == ["default_pool", "default_pool", "p"]


def test_groups_prefix_ids_and_nest() -> None:
    with DAG("d") as dag:
        with TaskGroup("outer") as outer:
            give()
            with TaskGroup("inner"):
                give()
            with TaskGroup("bare", prefix_group_id=False):
                give()
        give()
    assert [(node.task_id, node.group and node.group.group_id) for node in dag.nodes] == [
        ("outer.give", "outer"),
        ("outer.inner.give", "outer.inner"),
        ("outer.give__1", "outer.bare"),
        ("give", None),
    ]
    assert outer.group_id == "outer"


def test_group_ids_are_checked() -> None:
    with pytest.raises(DagError, match="outside a dag"):
        TaskGroup("g")
    with DAG("d"):
        TaskGroup("g")
        with pytest.raises(DagError, match="used twice"):
            TaskGroup("g")
        with pytest.raises(DagError, match="use '_'"):
            TaskGroup("a.b")
        with pytest.raises(DagError, match="not valid"):
            TaskGroup("ä")
        with pytest.raises(DagError, match="that of a group"):
            task.empty("g")
        task.empty("t")
        with pytest.raises(DagError, match="used twice"):
            TaskGroup("t")
