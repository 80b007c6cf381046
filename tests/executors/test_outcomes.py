"""What tasks do, and what is reported of them. One worker runs all of these side by side."""

import json
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from scheduler.model import Isolation, Outcome, OutcomeKind, Workload

BODY = """
import asyncio, contextlib, logging, math, threading
import trio

with DAG("d") as dag:
    @task
    def returns_rows(): return {"rows": [1, 2.5, "three", None]}
    returns_rows()

    @task
    def returns_nothing(): pass
    returns_nothing()

    @task
    def reads_inputs(rows, name): return [len(rows["rows"]), name]
    reads_inputs(returns_rows(), "x") if False else None

    @task
    def knows_itself():
        c = get_context()
        return [c.dag_id, c.run_id, c.task_id, c.try_number, c.logical_date.isoformat(), c.params["n"], c.conf["m"]]
    knows_itself()

    @task
    def prints():
        print("to stdout")
        print("to stderr", file=sys.stderr)
        logging.getLogger("mine").info("to logging")
        os.system("echo from a child")
    prints()

    @task
    def raises(): raise ValueError("no such city\\nsecond line")
    raises()

    @task
    def raises_from():
        try:
            {}["k"]
        except KeyError as error:
            raise RuntimeError("wrapped") from error
    raises_from()

    @task
    def skips(): raise SkipTask("nothing to do")
    skips()

    @task
    def fails_for_good(): raise FailTask("give up")
    fails_for_good()

    @task
    def exits_zero(): sys.exit()
    exits_zero()

    @task
    def exits_three(): sys.exit(3)
    exits_three()

    @task
    def leaves_at_once(): os._exit(0)
    leaves_at_once()

    @task
    def crashes():
        import ctypes
        ctypes.string_at(0)
    crashes()

    @task
    def kills_itself(): os.kill(os.getpid(), signal.SIGKILL)
    kills_itself()

    @task
    def returns_a_date():
        from datetime import datetime
        return {"rows": [0, 0, 0, datetime(2026, 1, 1)]}
    returns_a_date()

    @task
    def returns_nan(): return {"mean": math.nan}
    returns_nan()

    @task
    def returns_too_much(): return "x" * 100_000_000
    returns_too_much()

    @task
    def times_out():
        try:
            time.sleep(60)
        except Exception:
            pass
        finally:
            print("cleaned up")
    times_out()

    @task
    async def returns_async():
        await trio.sleep(0)
        return "from trio"
    returns_async()

    @task
    async def times_out_async():
        try:
            await trio.sleep_forever()
        finally:
            print("unwound")
    times_out_async()

    @task
    async def raises_in_a_nursery():
        async def skip(): raise SkipTask("inside")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(skip)
    raises_in_a_nursery()

    @task
    async def runs_asyncio():
        raise LookupError("async trouble")
    runs_asyncio()

    @task
    def runs_its_own_loop(): return asyncio.run(asyncio.sleep(0, "from asyncio"))
    runs_its_own_loop()

    @task.bash
    def bash_says(): return "echo first; echo $ASYNCSCHED_TASK_ID; echo; echo oops >&2"
    bash_says()

    @task.bash
    def bash_last(): return "echo first; printf 'last line'"
    bash_last()

    @task.bash
    def bash_fails(): return "echo before; exit 7"
    bash_fails()

    @task.bash
    def bash_skips(): return "exit 99"
    bash_skips()

    @task.bash
    def bash_silent(): return "true"
    bash_silent()

    @task.bash
    def bash_times_out(): return "sleep 60"
    bash_times_out()

    @task.bash
    def bash_leaves_a_child(): return "sleep 60 & echo done"
    bash_leaves_a_child()

    @task.branch
    def chooses_one(): return "a"
    @task.branch
    def chooses_two(): return ["a", "b"]
    @task.branch
    def chooses_none(): return None
    @task.branch
    def chooses_unknown(): return "nowhere"
    @task.branch
    def chooses_badly(): return 3
    a, b = task.empty("a"), task.empty("b")
    for branch in (chooses_one, chooses_two, chooses_none, chooses_unknown, chooses_badly):
        branch() >> [a, b]

    @task.short_circuit
    def goes_on(): return 1
    @task.short_circuit
    def stops(): return []
    goes_on() >> a
    stops() >> b

    @task
    def closes_everything(): os.closerange(0, 100)
    closes_everything()

    @task
    def forks_and_returns_twice():
        if os.fork() == 0:
            return "child"
        os.wait()
        return "parent"
    forks_and_returns_twice()

    @task
    def leaves_threads():
        threading.Thread(target=time.sleep, args=(60,)).start()
        return "did not wait"
    leaves_threads()

    @task
    def reads_stdin(): return sys.stdin.read()
    reads_stdin()

    @task
    def prints_bytes():
        os.write(1, b"\\xff\\xfe broken\\n")
        print("\\ud800 lone")
    prints_bytes()

    @task
    def redirects():
        with contextlib.redirect_stdout(None):
            sys.stdout = sys.stderr = None
        raise ValueError("after")
    redirects()

    @task
    def handles_signals():
        return [signal.getsignal(s).__class__.__name__ for s in (signal.SIGCHLD, signal.SIGINT)]
    handles_signals()

    @task
    def shows_lines(): raise ZeroDivisionError  # this very line
    shows_lines()

    @task
    def has_a_group(): return [os.getpid() == os.getpgrp() == os.getsid(0), __name__ in sys.modules, __file__]
    has_a_group()
"""

TASKS = [
    "returns_rows",
    "returns_nothing",
    "knows_itself",
    "prints",
    "raises",
    "raises_from",
    "skips",
    "fails_for_good",
    "exits_zero",
    "exits_three",
    "leaves_at_once",
    "crashes",
    "kills_itself",
    "returns_a_date",
    "returns_nan",
    "returns_too_much",
    "times_out",
    "returns_async",
    "times_out_async",
    "raises_in_a_nursery",
    "runs_asyncio",
    "runs_its_own_loop",
    "bash_says",
    "bash_last",
    "bash_fails",
    "bash_skips",
    "bash_silent",
    "bash_times_out",
    "bash_leaves_a_child",
    "chooses_one",
    "chooses_two",
    "chooses_none",
    "chooses_unknown",
    "chooses_badly",
    "goes_on",
    "stops",
    "closes_everything",
    "forks_and_returns_twice",
    "leaves_threads",
    "reads_stdin",
    "prints_bytes",
    "redirects",
    "handles_signals",
    "shows_lines",
    "has_a_group",
    "a",
    "no_such_task",
]

CHANGES: dict[str, dict[str, Any]] = {
    "knows_itself": {
        "logical_date": datetime(2026, 1, 1, tzinfo=UTC),
        "params": {"n": 1, "m": 2},
        "conf": {"m": 2},
        "try_number": 2,
        "max_tries": 3,
    },
    "times_out": {"execution_timeout": 0.2},
    "times_out_async": {"execution_timeout": 0.2},
    "bash_times_out": {"execution_timeout": 0.2},
}

Ran = dict[str, tuple[Workload, Outcome, str]]


@pytest.fixture(scope="module", params=Isolation)
def ran(request: pytest.FixtureRequest, run_cases: Callable[..., Ran]) -> Ran:
    changes = {task_id: {"isolation": request.param, **CHANGES.get(task_id, {})} for task_id in TASKS}
    return run_cases(BODY, changes, TASKS, slots=100)


@pytest.mark.parametrize(
    ("task_id", "result"),
    [
        ("returns_rows", {"rows": [1, 2.5, "three", None]}),
        ("returns_nothing", None),
        ("knows_itself", ["d", "run1", "knows_itself", 2, "2026-01-01T00:00:00+00:00", 1, 2]),
        ("exits_zero", None),
        ("returns_async", "from trio"),
        ("runs_its_own_loop", "from asyncio"),
        ("bash_says", "bash_says"),
        ("bash_last", "last line"),
        ("bash_silent", None),
        ("bash_leaves_a_child", "done"),
        ("goes_on", 1),
        ("stops", []),
        ("a", None),
        ("forks_and_returns_twice", "parent"),
        ("leaves_threads", "did not wait"),
        ("reads_stdin", ""),
        ("handles_signals", ["Handlers", "builtin_function_or_method"]),
    ],
)
def test_what_a_task_returns_is_its_result(ran: Ran, task_id: str, result: Any) -> None:
    workload, outcome, _ = ran[task_id]
    assert outcome.kind is OutcomeKind.SUCCESS, outcome
    assert (outcome.token, outcome.reason, outcome.message) == (workload.token, "", "")
    # A process that is shared goes on, and has no status.
    assert outcome.exit_code == (0 if workload.isolation is Isolation.PROCESS else None)
    assert (None if outcome.result is None else json.loads(outcome.result)) == result


@pytest.mark.parametrize(
    ("task_id", "reason", "message"),
    [
        ("raises", "exception", "ValueError: no such city"),
        ("raises_from", "exception", "RuntimeError: wrapped"),
        ("runs_asyncio", "exception", "LookupError: async trouble"),
        ("redirects", "exception", "ValueError: after"),
        ("exits_three", "exit", "sys.exit(3)"),
        ("bash_fails", "exit", "bash ended with status 7"),
        ("leaves_at_once", "exit", "the process ended with status 0 before the task returned (os._exit?)"),
        ("crashes", "signal", "killed by SIGSEGV"),
        ("kills_itself", "signal", "killed by SIGKILL (out of memory?)"),
        ("times_out", "timeout", "timed out after 0.2 s"),
        ("times_out_async", "timeout", "timed out after 0.2 s"),
        ("bash_times_out", "timeout", "timed out after 0.2 s"),
        (
            "returns_a_date",
            "result",
            'result["rows"][3]: datetime.datetime is not JSON (use .isoformat())',
        ),
        ("returns_nan", "result", 'result["mean"]: nan is not JSON (use None for a missing number)'),
        ("chooses_unknown", "result", "the branch chose 'nowhere', and dag 'd' has no such task or group"),
        ("chooses_badly", "result", "a branch returns a task id, a list of task ids or None, not int"),
    ],
)
def test_a_failure_says_why_in_one_line(ran: Ran, task_id: str, reason: str, message: str) -> None:
    _, outcome, log = ran[task_id]
    assert (outcome.kind, outcome.reason, outcome.message) == (OutcomeKind.FAILED, reason, message)
    assert outcome.result is None
    assert outcome.retryable
    assert message in log


def test_a_result_over_the_limit_fails_with_the_sizes(ran: Ran) -> None:
    outcome = ran["returns_too_much"][1]
    assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILED, "result")
    assert "97,656 KiB" in outcome.message
    assert "1,024 KiB" in outcome.message


@pytest.mark.parametrize(
    ("task_id", "message"),
    [
        ("skips", "nothing to do"),
        ("raises_in_a_nursery", "inside"),
        ("bash_skips", "bash ended with status 99, which means skip"),
    ],
)
def test_a_task_can_skip_itself(ran: Ran, task_id: str, message: str) -> None:
    outcome = ran[task_id][1]
    assert (outcome.kind, outcome.message) == (OutcomeKind.SKIPPED, message)


def test_a_task_can_fail_for_good(ran: Ran) -> None:
    outcome = ran["fails_for_good"][1]
    assert (outcome.kind, outcome.retryable, outcome.message) == (OutcomeKind.FAILED, False, "FailTask: give up")


def test_a_task_the_file_does_not_have_fails_for_good(ran: Ran) -> None:
    outcome = ran["no_such_task"][1]
    assert (outcome.kind, outcome.retryable) == (OutcomeKind.FAILED, False)
    assert "no task 'no_such_task'" in outcome.message


@pytest.mark.parametrize(
    ("task_id", "decision"),
    [
        ("chooses_one", {"followed": ["a"]}),
        ("chooses_two", {"followed": ["a", "b"]}),
        ("chooses_none", {"followed": []}),
        ("goes_on", None),
        ("stops", {"skipped": []}),
        ("returns_rows", None),
    ],
)
def test_a_branch_decides(ran: Ran, task_id: str, decision: Any) -> None:
    assert ran[task_id][1].decision == decision


def test_everything_a_task_and_its_children_print_is_in_its_log(ran: Ran) -> None:
    log = ran["prints"][2]
    for text in ("to stdout", "to stderr", "INFO mine: to logging", "from a child"):
        assert text in log
    assert "d.prints starts: run run1, try 1 of 1" in log
    assert "oops" in ran["bash_says"][2]
    assert "bash_says" in ran["bash_says"][2]


def test_clean_up_code_runs_when_the_time_is_over(ran: Ran) -> None:
    assert "cleaned up" in ran["times_out"][2]
    assert "unwound" in ran["times_out_async"][2]


def test_a_traceback_begins_with_user_code_and_shows_its_lines(ran: Ran) -> None:
    log = ran["shows_lines"][2]
    assert "raise ZeroDivisionError  # this very line" in log
    assert "executors/" not in log
    wrapped = ran["raises_from"][2]
    assert wrapped.index("KeyError: 'k'") < wrapped.index("RuntimeError: wrapped")
    assert "async trouble" in ran["runs_asyncio"][2]
    assert "async_tasks.py" not in ran["runs_asyncio"][2]


def test_output_that_is_no_text_is_kept_as_bytes(ran: Ran) -> None:
    workload, outcome, log = ran["prints_bytes"]
    assert outcome.kind is OutcomeKind.SUCCESS
    assert "\\ud800 lone" in log
    with open(workload.log_path, "rb") as file:
        assert b"\xff\xfe broken\n" in file.read()


def test_a_task_that_closes_all_descriptors_still_reports(ran: Ran) -> None:
    assert ran["closes_everything"][1].kind is OutcomeKind.SUCCESS


def test_a_task_has_a_session_of_its_own_and_its_file_by_its_own_name(ran: Ran) -> None:
    leads, registered, file = json.loads(ran["has_a_group"][1].result or "")
    assert leads
    assert registered
    assert file.endswith("/dags/dags.py")


def test_exit_codes_are_reported(ran: Ran) -> None:
    assert ran["crashes"][1].exit_code == -signal.SIGSEGV
    assert ran["leaves_at_once"][1].exit_code == 0
