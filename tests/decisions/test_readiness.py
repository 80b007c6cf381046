"""What a change means for the rest of a run: by example, and against a slow second implementation."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from scheduler.decisions.graph import Graph
from scheduler.decisions.readiness import Picture, Plan, Seen, plan
from scheduler.decisions.rules import Ruling, Tally, rule_on
from scheduler.model import (
    CANDIDATES,
    FINISHED,
    Dag,
    RunState,
    Schedule,
    ScheduleKind,
    Task,
    TaskKind,
    TaskState,
    TriggerRule,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NEVER = Schedule(kind=ScheduleKind.NEVER, text="never")
S, F, K = TaskState.SUCCESS, TaskState.FAILED, TaskState.SKIPPED


def graph(*tasks: Task) -> Graph:
    return Graph.of(Dag(dag_id="d", schedule=NEVER, tasks=tasks))


def task(name: str, *upstream: str, rule: str = "all_success", kind: TaskKind = TaskKind.PYTHON) -> Task:
    return Task(task_id=name, upstream=tuple(sorted(upstream)), trigger_rule=TriggerRule(rule), kind=kind)


def after(g: Graph, *changes: tuple[str, TaskState], decision: dict[str, list[str]] | None = None) -> Plan:
    """The plan after everything was scheduled as it became ready and `changes` happened one by one."""
    made = plan(Picture.of(g), None, now=NOW)
    for name, state in changes:
        made = plan(made.picture, [Seen(index=g.index[name], state=state, decision=decision)], now=NOW)
    return made


def states(g: Graph, made: Plan) -> dict[str, str]:
    return {one.task_id: str(made.picture.states[i]) for i, one in enumerate(g.tasks)}


def test_the_first_judgement_schedules_the_roots() -> None:
    g = graph(task("a"), task("b"), task("c", "a", "b"))
    made = plan(Picture.of(g), None, now=NOW)
    assert dict(made.changes) == {0: TaskState.SCHEDULED, 1: TaskState.SCHEDULED}
    assert made.run_state is None


def test_a_join_waits_for_all_and_then_runs() -> None:
    g = graph(task("a"), task("b"), task("c", "a", "b"))
    assert states(g, after(g, ("a", S)))["c"] == "none"
    assert states(g, after(g, ("a", S), ("b", S)))["c"] == "scheduled"


def test_a_failure_passes_down_and_fails_the_run() -> None:
    g = graph(task("a"), task("b", "a"), task("c", "b"))
    made = after(g, ("a", F))
    assert states(g, made) == {"a": "failed", "b": "upstream_failed", "c": "upstream_failed"}
    assert made.run_state is RunState.FAILED


def test_a_failure_that_a_leaf_has_handled_leaves_a_successful_run() -> None:
    g = graph(task("a"), task("b", "a", rule="all_done"))
    made = after(g, ("a", F), ("b", S))
    assert made.run_state is RunState.SUCCESS


def test_empty_tasks_succeed_without_an_attempt() -> None:
    g = graph(task("a", kind=TaskKind.EMPTY), task("b", "a", kind=TaskKind.EMPTY))
    made = plan(Picture.of(g), None, now=NOW)
    assert states(g, made) == {"a": "success", "b": "success"}
    assert made.run_state is RunState.SUCCESS


def test_a_run_without_tasks_is_a_success() -> None:
    assert plan(Picture.of(graph()), None, now=NOW).run_state is RunState.SUCCESS


def test_a_branch_skips_what_it_did_not_choose() -> None:
    g = graph(
        task("pick", kind=TaskKind.BRANCH),
        task("a", "pick"),
        task("b", "pick"),
        task("all", "a", "b"),
        task("some", "a", "b", rule="none_failed_min_one_success"),
    )
    made = after(g, ("pick", S), decision={"followed": ["a"]})
    assert states(g, made) == {"pick": "success", "a": "scheduled", "b": "skipped", "all": "skipped", "some": "none"}
    made = plan(made.picture, [Seen(index=1, state=S)], now=NOW)
    assert states(g, made)["some"] == "scheduled"


def test_a_join_below_the_chosen_task_is_followed_even_if_it_is_a_direct_downstream() -> None:
    g = graph(task("pick", kind=TaskKind.BRANCH), task("a", "pick"), task("join", "pick", "a"))
    made = after(g, ("pick", S), decision={"followed": ["a"]})
    assert states(g, made) == {"pick": "success", "a": "scheduled", "join": "none"}


def test_a_branch_that_chose_nothing_skips_every_direct_downstream() -> None:
    g = graph(task("pick", kind=TaskKind.BRANCH), task("a", "pick"), task("b", "pick"))
    made = after(g, ("pick", S), decision={"followed": []})
    assert states(g, made) == {"pick": "success", "a": "skipped", "b": "skipped"}
    assert made.run_state is RunState.SUCCESS


def test_a_short_circuit_skips_everything_below_it() -> None:
    g = graph(task("stop", kind=TaskKind.SHORT_CIRCUIT), task("a", "stop"), task("b", "a", rule="all_done"), task("c"))
    made = after(g, ("stop", S), decision={"skipped": []})
    assert states(g, made) == {"stop": "success", "a": "skipped", "b": "skipped", "c": "scheduled"}


def test_a_short_circuit_that_respects_trigger_rules_skips_only_its_direct_downstream() -> None:
    stop = Task(task_id="stop", kind=TaskKind.SHORT_CIRCUIT, ignore_downstream_trigger_rules=False)
    g = graph(stop, task("a", "stop"), task("b", "a", rule="all_done"))
    made = after(g, ("stop", S), decision={"skipped": []})
    assert states(g, made) == {"stop": "success", "a": "skipped", "b": "scheduled"}


def test_a_retry_is_scheduled_when_its_time_has_come_and_not_before() -> None:
    g = graph(task("a"))
    waiting = Seen(index=0, state=TaskState.UP_FOR_RETRY, retry_at=NOW + timedelta(seconds=9))
    early = plan(Picture.of(g, [waiting]), [waiting], now=NOW)
    assert not early.changes
    assert early.run_state is None
    late = plan(early.picture, [waiting], now=NOW + timedelta(seconds=9))
    assert dict(late.changes) == {0: TaskState.SCHEDULED}


def test_while_paused_outcomes_are_taken_in_and_nothing_begins() -> None:
    g = graph(task("a"), task("b", "a"))
    first = plan(Picture.of(g), None, now=NOW)
    made = plan(first.picture, [Seen(index=0, state=S)], now=NOW, may_start=False)
    assert not made.changes
    assert made.run_state is None
    resumed = plan(made.picture, None, now=NOW)
    assert dict(resumed.changes) == {1: TaskState.SCHEDULED}


def test_a_verdict_skips_what_has_no_attempt_and_fails_the_run_after_the_last_one() -> None:
    g = graph(task("a"), task("b", "a"))
    picture = Picture.of(g, [Seen(index=0, state=TaskState.RUNNING)])
    made = plan(picture, None, now=NOW, verdict="timeout")
    assert dict(made.changes) == {1: TaskState.SKIPPED}
    assert made.run_state is None
    ended = plan(made.picture, [Seen(index=0, state=S)], now=NOW, verdict="timeout")
    assert (ended.run_state, ended.reason) == (RunState.FAILED, "timeout")


RULES = st.sampled_from(list(TriggerRule))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    size = draw(st.integers(1, 8))
    made = []
    for i in range(size):
        above = draw(st.sets(st.integers(0, i - 1))) if i else set()
        kind = draw(st.sampled_from([TaskKind.PYTHON, TaskKind.PYTHON, TaskKind.EMPTY]))
        made.append(task(f"t{i}", *(f"t{j}" for j in above), rule=str(draw(RULES)), kind=kind))
    return graph(*made)


def _slowly(g: Graph, seen: list[TaskState]) -> list[TaskState]:
    """Judge everything from nothing, over and over, until nothing changes."""
    states = list(seen)
    while True:
        before = list(states)
        for i, one in enumerate(g.tasks):
            if states[i] not in CANDIDATES:
                continue
            ends = [states[j] for j in g.upstream[i]]
            tally = Tally(len(ends), *(ends.count(s) for s in (S, F, TaskState.UPSTREAM_FAILED, K, TaskState.REMOVED)))
            ruling = rule_on(one.trigger_rule, tally)
            if ruling is Ruling.READY:
                states[i] = S if one.kind is TaskKind.EMPTY else TaskState.SCHEDULED
            elif ruling is not Ruling.WAIT:
                states[i] = ruling.value
        if states == before:
            return states


@given(graphs(), st.data())
def test_judging_what_changed_agrees_with_judging_everything(g: Graph, data: st.DataObject) -> None:
    """Random histories: outcomes come one or several at a time until the run has ended."""
    made = plan(Picture.of(g), None, now=NOW)
    expected = _slowly(g, [TaskState.NONE] * len(g.tasks))
    assert made.picture.states == expected
    while made.run_state is None:
        running = [i for i, state in enumerate(made.picture.states) if state is TaskState.SCHEDULED]
        assert running, "a run that goes on has something to wait for"
        batch = data.draw(st.lists(st.sampled_from(running), min_size=1, unique=True))
        changes = [Seen(index=i, state=data.draw(st.sampled_from([S, F, K]))) for i in batch]
        for one in changes:
            expected[one.index] = one.state
        made = plan(made.picture, changes, now=NOW)
        expected = _slowly(g, expected)
        assert made.picture.states == expected
        assert made.picture.unfinished == sum(1 for state in expected if state not in FINISHED)
        fresh = Picture.of(g, [Seen(index=i, state=state) for i, state in enumerate(expected)])
        assert fresh.tallies == made.picture.tallies
    bad = {F, TaskState.UPSTREAM_FAILED}
    failed = any(expected[i] in bad for i in g.leaves)
    assert made.run_state is (RunState.FAILED if failed else RunState.SUCCESS)
