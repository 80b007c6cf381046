"""Runs of every shape, and what scripts are told of them."""

import json
import re
from collections.abc import Iterator

import pytest

from tests.end_to_end.daemon import Daemon, running, until

DAGS = """
import os, signal, sys, time
from pathlib import Path
from scheduler import DAG, FailTask, SkipTask, TaskGroup, dag, get_context, task

@dag()
def chain():
    @task
    def first():
        return {"n": 1, "name": "Zoë"}
    @task
    def second(one):
        return one["n"] + 1
    @task
    async def third(two, greeting):
        import trio
        await trio.sleep(0)
        return [greeting, two]
    one = first()
    third(second(one), one["name"])
chain()

@dag()
def fan():
    @task
    def split():
        return list(range(8))
    @task
    def square(numbers, i):
        return numbers[i] ** 2
    @task
    def add(squares):
        return sum(squares)
    numbers = split()
    add([square(numbers, i) for i in range(8)])
fan()

@dag()
def retries():
    @task(retries=2, retry_delay=0.1)
    def third_time_lucky():
        try_number = get_context().try_number
        print(f"this is try {try_number}")
        if try_number < 3:
            raise RuntimeError(f"not yet: {try_number}")
        return try_number
    third_time_lucky()
retries()

@dag()
def hopeless():
    @task(retries=1, retry_delay=0)
    def never():
        raise ValueError("no way")
    @task
    def after():
        pass
    @task(trigger_rule="all_done")
    def anyway():
        pass
    last = never()
    last >> after()
    last >> anyway()
hopeless()

@dag(params={"city": "Oslo", "country": "Norway"})
def told():
    @task
    def repeat():
        context = get_context()
        return {"params": context.params, "conf": context.conf}
    @task
    def judge():
        if get_context().params.get("fail"):
            raise FailTask("as you wish")
    repeat() >> judge()
told()

@dag()
def ways():
    @task.branch
    def choose():
        return "left"
    @task
    def left():
        return "l"
    @task
    def right():
        pass
    @task(trigger_rule="none_failed_min_one_success")
    def join():
        pass
    @task.short_circuit
    def enough():
        return False
    @task
    def more():
        pass
    @task
    def skipping():
        raise SkipTask("not today")
    choose() >> [left(), right()] >> join()
    enough() >> more()
    skipping()
    with TaskGroup("shell"):
        said = task.bash("echo working >&2; echo $ASYNCSCHED_TASK_ID", task_id="say")
    @task
    def hear(what):
        return what.upper()
    hear(said)
ways()

@dag()
def odd():
    @task
    def a_set():
        return {"deep": [1, {2}]}
    @task
    def not_a_number():
        return float("nan")
    @task
    def too_large():
        return "x" * 2_000_000
    @task
    def fine():
        return None
    a_set(); not_a_number(); too_large(); fine()
odd()

@dag()
def deaths():
    @task
    def killed():
        print("about to die", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    @task
    def crashed():
        os.kill(os.getpid(), signal.SIGSEGV)
    @task
    def left():
        os._exit(7)
    @task
    def asked():
        sys.exit("enough")
    killed(); crashed(); left(); asked()
deaths()

@dag()
def talkative():
    @task
    def talk():
        import logging
        print("on stdout")
        print("on stderr", file=sys.stderr)
        logging.getLogger("mine").info("by logging")
        os.system("echo from a child")
    talk()
talkative()
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("runs"), {"all.py": DAGS}) as daemon:
        yield daemon
        assert daemon.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = 'asyncsched'") == [["0"]]


def test_a_chain_passes_its_results_on(daemon: Daemon) -> None:
    run = daemon.trigger("chain")
    assert daemon.state(run) == "success"
    assert daemon.result(run, "second") == 2
    assert daemon.result(run, "third") == ["Zoë", 2]
    tasks = daemon.ask("runs.show", run=run)["run"]["tasks"]
    assert [one["task_id"] for one in tasks] == ["first", "second", "third"]
    ends = [(one["start_date"], one["end_date"]) for one in tasks]
    assert [moment for pair in ends for moment in pair] == sorted(moment for pair in ends for moment in pair)


def test_a_fan_comes_together_again(daemon: Daemon) -> None:
    run = daemon.trigger("fan")
    assert daemon.state(run) == "success"
    assert daemon.result(run, "add") == sum(i * i for i in range(8))
    assert len(daemon.tasks(run)) == 10
    assert len({one["attempts"][0]["pid"] for one in (daemon.task(run, name) for name in daemon.tasks(run))}) == 10


def test_a_failing_task_is_tried_again(daemon: Daemon) -> None:
    run = daemon.trigger("retries")
    assert daemon.state(run) == "success"
    seen = daemon.task(run, "third_time_lucky")
    assert seen["try_number"] == 3
    assert [one["state"] for one in seen["attempts"]] == ["failed", "failed", "success"]
    assert "not yet: 1" in seen["attempts"][0]["message"]
    assert seen["results"] == {"return_value": 3}
    assert "this is try 2" in daemon.command("logs", f"{run}/third_time_lucky#2").out


def test_tries_come_to_an_end(daemon: Daemon) -> None:
    run = daemon.trigger("hopeless")
    assert daemon.state(run) == "failed"
    tasks = daemon.tasks(run)
    assert {name: one["state"] for name, one in tasks.items()} == {
        "never": "failed",
        "after": "upstream_failed",
        "anyway": "success",
    }
    assert tasks["never"]["try_number"] == 2
    assert "no way" in tasks["never"]["message"]


def test_branches_skips_groups_and_shells(daemon: Daemon) -> None:
    run = daemon.trigger("ways")
    assert daemon.state(run) == "success"
    assert {name: one["state"] for name, one in daemon.tasks(run).items()} == {
        "choose": "success",
        "left": "success",
        "right": "skipped",
        "join": "success",
        "enough": "success",
        "more": "skipped",
        "skipping": "skipped",
        "shell.say": "success",
        "hear": "success",
    }
    assert daemon.result(run, "hear") == "SHELL.SAY"


def test_trigger_waits_and_its_exit_tells_success(daemon: Daemon) -> None:
    ended = daemon.command("trigger", "told", "--conf", '{"city": "Bergen", "n": [1, null]}', "--wait", "--json")
    assert ended.status == 0
    assert set(ended.json) == {"run_id", "state"}
    assert ended.json["state"] == "success"
    assert daemon.result(f"told/{ended.json['run_id']}", "repeat") == {
        "params": {"city": "Bergen", "country": "Norway", "n": [1, None]},
        "conf": {"city": "Bergen", "n": [1, None]},
    }


def test_trigger_waits_and_its_exit_tells_failure(daemon: Daemon) -> None:
    ended = daemon.command("trigger", "told", "--conf", '{"fail": true}', "--wait", "--json")
    assert ended.status == 1
    assert set(ended.json) == {"run_id", "state"}
    assert ended.json["state"] == "failed"


def test_a_run_shown_as_json_has_exactly_the_promised_keys(daemon: Daemon) -> None:
    run = daemon.trigger("chain", logical_date="2026-01-31T12:00:00+01:00")
    assert daemon.state(run) == "success"
    shown = daemon.command("runs", "show", run.split("/")[1], "--json").json
    assert list(shown) == ["dag_id", "run_id", "run_type", "state", "logical_date", "start_date", "end_date", "tasks"]
    assert (shown["dag_id"], shown["run_type"], shown["state"]) == ("chain", "manual", "success")
    assert shown["logical_date"] == "2026-01-31T11:00:00.000000Z"
    keys = ["task_id", "map_index", "state", "try_number", "start_date", "end_date"]
    assert all(list(one) == keys for one in shown["tasks"])
    instants = [shown[name] for name in ("start_date", "end_date")]
    instants += [one[name] for one in shown["tasks"] for name in ("start_date", "end_date")]
    rfc3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
    assert all(rfc3339.fullmatch(one) for one in instants), instants
    assert instants == [*sorted(instants[:1]), *instants[1:]]


def test_one_logical_date_has_one_run(daemon: Daemon) -> None:
    daemon.trigger("fan", logical_date="2026-02-01")
    again = daemon.command("trigger", "fan", "--logical-date", "2026-02-01T00:00:00Z")
    assert again.status == 4
    assert "2026-02-01" in again.err


def test_dags_listed_as_json_have_exactly_the_promised_keys(daemon: Daemon) -> None:
    listed = daemon.command("dags", "list", "--json").json
    assert all(list(one) == ["dag_id", "schedule", "paused", "file", "next_run"] for one in listed)
    assert {one["dag_id"] for one in listed} >= {"chain", "fan", "odd"}
    assert {one["file"] for one in listed} == {"all.py"}
    checked = daemon.command("dags", "check", "--json")
    assert (checked.status, checked.json) == (0, [])


@pytest.mark.parametrize(
    ("task_id", "words"),
    [("a_set", ["set", "deep"]), ("not_a_number", ["nan"]), ("too_large", ["1", "KiB"]), ("fine", [])],
)
def test_a_result_that_is_not_json_is_refused_with_its_place(daemon: Daemon, task_id: str, words: list[str]) -> None:
    if not any(run["dag_id"] == "odd" for run in daemon.ask("runs.list", dag_id="odd")["items"]):
        daemon.trigger("odd")
    assert daemon.state("odd") == "failed"
    seen = daemon.tasks("odd")[task_id]
    assert seen["state"] == ("failed" if words else "success")
    assert all(word.lower() in (seen["message"] or "").lower() for word in words), seen["message"]


def test_deaths_are_recorded_as_what_they_were(daemon: Daemon) -> None:
    run = daemon.trigger("deaths")
    assert daemon.state(run) == "failed"
    attempts = {name: daemon.task(run, name)["attempts"][0] for name in ("killed", "crashed", "left", "asked")}
    assert {one["state"] for one in attempts.values()} == {"failed"}
    assert (attempts["killed"]["exit_code"], attempts["killed"]["reason"]) == (-9, "signal")
    assert "SIGKILL" in attempts["killed"]["message"]
    assert attempts["crashed"]["exit_code"] == -11
    assert "SIGSEGV" in attempts["crashed"]["message"]
    assert attempts["left"]["exit_code"] == 7
    assert "7" in attempts["left"]["message"]
    assert "enough" in attempts["asked"]["message"]
    assert "about to die" in daemon.command("logs", f"{run}/killed").out


def test_logs_show_everything_a_task_wrote(daemon: Daemon) -> None:
    run = daemon.trigger("talkative")
    assert daemon.state(run) == "success"
    shown = daemon.command("logs", f"{run}/talk")
    assert shown.status == 0
    for words in ("on stdout", "on stderr", "by logging", "from a child"):
        assert words in shown.out
    followed = daemon.command("logs", "--follow", run)
    assert followed.status == 0
    assert "from a child" in followed.out


def test_what_is_not_there_is_said_so(daemon: Daemon) -> None:
    for words in (["trigger", "nobody"], ["runs", "show", "nobody"], ["logs", "nobody"], ["dags", "show", "nobody"]):
        ended = daemon.command(*words)
        assert (ended.status, ended.out) == (3, "")
        assert "nobody" in ended.err
    assert daemon.command("trigger", "chain", "--conf", "[1]").status == 2


def test_status_is_one_object(daemon: Daemon) -> None:
    seen = daemon.command("status", "--json").json
    assert seen["ready"] is True
    assert seen["pid"] == daemon.pid
    assert seen["database_away"] is None
    assert {one["failures"] for one in seen["routines"].values()} == {0}, json.dumps(seen["routines"])
    until("no task is running", lambda: daemon.ask("status")["workers"][0]["running"] == 0)
