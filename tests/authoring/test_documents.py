"""Arrows, order and weights: what becomes of a dag as data."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler import model
from scheduler.authoring import DAG, DagError, TaskGroup, task


def edges(dag: DAG) -> dict[str, str]:
    """task -> its upstream, in one line."""
    return {t.task_id: " ".join(t.upstream) for t in dag.to_model().tasks if t.upstream}


def tasks(names: str) -> list[Any]:
    return [task.empty(name) for name in names.split()]


def test_arrows_join_tasks_and_lists_in_both_directions() -> None:
    with DAG("d") as dag:
        a, b, c, d, e = tasks("a b c d e")
        a >> [b, c] >> d
        e << d
        [b] << e.node.dag.task("a")
    assert edges(dag) == {"b": "a", "c": "a", "d": "b c", "e": "d"}


def test_an_arrow_returns_its_other_end_so_that_chains_read_from_left_to_right() -> None:
    with DAG("d") as dag:
        a, b, c = tasks("a b c")
        a >> b >> c
    assert edges(dag) == {"b": "a", "c": "b"}
    with DAG("d") as dag:
        a, b, c = tasks("a b c")
        a << b << c
    assert edges(dag) == {"a": "b", "b": "c"}


def test_arguments_are_edges_too() -> None:
    @task
    def f(x: Any = None) -> Any: ...

    with DAG("d") as dag:
        a = f.override(task_id="a")()
        b = f.override(task_id="b")([a, {"k": a["x"]}])
        task.empty("c") >> b
    found = {t.task_id: t for t in dag.to_model().tasks}
    assert found["b"].upstream == ("a", "c")
    assert found["b"].inputs == ("a",)


def test_arrows_to_a_group_go_to_its_first_tasks_and_from_it_start_at_its_last() -> None:
    with DAG("d") as dag:
        start, end = tasks("start end")
        with TaskGroup("g", prefix_group_id=False) as group:
            a, b, _ = tasks("a b c")
            a >> b
        start >> group >> end
    assert edges(dag) == {"a": "start", "b": "a", "c": "start", "end": "b c"}


def test_an_arrow_may_be_drawn_before_the_group_is_filled() -> None:
    with DAG("d") as dag:
        start = task.empty("start")
        group = TaskGroup("g", prefix_group_id=False)
        start >> group
        with group:
            a, b = tasks("a b")
            a >> b
    assert edges(dag) == {"a": "start", "b": "a"}


def test_arrows_between_nested_groups_do_not_depend_on_the_order_of_drawing() -> None:
    for backwards in (False, True):
        with DAG("d") as dag:
            start, end = tasks("start end")
            with TaskGroup("outer", prefix_group_id=False) as outer:
                with TaskGroup("one", prefix_group_id=False) as one:
                    tasks("a b")
                with TaskGroup("two", prefix_group_id=False) as two:
                    tasks("c d")
            arrows = [(start, outer), (outer, end), (one, two)]
            for left, right in reversed(arrows) if backwards else arrows:
                left >> right
        assert edges(dag) == {"a": "start", "b": "start", "c": "a b", "d": "a b", "end": "c d"}


def test_arrows_that_make_no_sense_are_refused() -> None:
    with DAG("other"):
        foreign = task.empty("foreign")
    with DAG("d") as dag:
        a = task.empty("a")
        with TaskGroup("g") as group:
            inside = task.empty("inside")
        with pytest.raises(DagError, match="to itself"):
            a >> a
        with pytest.raises(DagError, match="not of one dag"):
            a >> foreign
        with pytest.raises(DagError, match="joins tasks, groups or lists of them, not a int"):
            a >> 3
        with pytest.raises(DagError, match=r"the function 'f': call it"):
            a >> task(_plain)
        group >> inside
    with pytest.raises(DagError, match="which is inside it"):
        dag.to_model()


def _plain() -> None: ...


_plain.__name__ = "f"


def test_tasks_keep_the_order_of_writing_where_arrows_leave_a_choice() -> None:
    with DAG("d") as dag:
        c, _, b = tasks("c a b")
        b >> c
    assert [t.task_id for t in dag.to_model().tasks] == ["a", "b", "c"]


def test_a_circle_is_shown_with_the_line_that_closed_it() -> None:
    with DAG("d") as dag:
        a, b, c, d = tasks("a b c d")
        a >> b >> c >> d
        c >> a
    with pytest.raises(DagError, match="circle: a >> b >> c >> a; remove one of these arrows") as caught:
        dag.to_model()
    assert caught.value.line == max(line for *_, line in dag.arrows if line is not None)


def test_a_long_circle_is_shown_shortened() -> None:
    with DAG("d") as dag:
        chain = tasks(" ".join(f"t{i}" for i in range(1000)))
        for left, right in pairwise(chain):
            left >> right
        chain[-1] >> chain[0]
    with pytest.raises(DagError, match=r"t0 >> t1 .* more\) \.\.\. >> t0"):
        dag.to_model()


def test_weights_are_added_as_the_rule_says_and_clamped() -> None:
    def weights(rule: Any, weight: int = 1) -> dict[str, int]:
        with DAG("d", default_args={"weight_rule": rule, "priority_weight": weight}) as dag:
            a, b, c, d = tasks("a b c d")
            a >> [b, c] >> d
        return {t.task_id: t.priority_weight for t in dag.to_model().tasks}

    assert weights("downstream") == {"a": 4, "b": 2, "c": 2, "d": 1}
    assert weights("upstream") == {"a": 1, "b": 2, "c": 2, "d": 4}
    assert weights("absolute", 7) == {"a": 7, "b": 7, "c": 7, "d": 7}
    assert weights("downstream", 2**31 - 1)["a"] == 2**31 - 1
    assert weights("downstream", -(2**31))["a"] == -(2**31)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    count = draw(st.integers(1, 10))  # a longer circle is not shown whole
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    return count, draw(st.lists(st.sampled_from(pairs), max_size=20)) if pairs else []


@given(graphs())
@settings(deadline=None, max_examples=200)
def test_any_arrows_give_a_dag_in_order_or_a_circle(graph: tuple[int, list[tuple[int, int]]]) -> None:
    count, arrows = graph
    with DAG("d") as dag:
        nodes = [task.empty(f"t{i}") for i in range(count)]
        for i, j in arrows:
            nodes[i] >> nodes[j]
    try:
        found = dag.to_model()
    except DagError as error:
        _, _, shown = str(error).partition("circle: ")
        names = shown.partition(";")[0].split(" >> ")
        assert names[0] == names[-1]
        assert all((int(a[1:]), int(b[1:])) in arrows for a, b in pairwise(names))
        return
    seen: set[str] = set()
    for each in found.tasks:
        assert seen.issuperset(each.upstream)
        assert list(each.upstream) == sorted({f"t{i}" for i, j in arrows if f"t{j}" == each.task_id})
        seen.add(each.task_id)
    assert len(seen) == count


def test_the_document_survives_json() -> None:
    with DAG("d", schedule="@daily", params={"x": [1, {"y": None}]}) as dag:
        a, b = tasks("a b")
        a >> b
    found = dag.to_model()
    assert msgspec.json.decode(msgspec.json.encode(found), type=model.Dag) == found


def test_ten_thousand_tasks_in_a_chain_take_no_recursion() -> None:
    with DAG("d") as dag:
        chain = [task.empty(f"t{i}") for i in range(10_000)]
        for left, right in pairwise(chain):
            left >> right
    assert dag.to_model().tasks[0].priority_weight == 10_000
