"""Every operation against a real database: shapes that scripts rely on, selectors, refusals."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
import trio
import trio.testing

from scheduler.commands import CommandError
from scheduler.control.protocol import Code, ControlError
from scheduler.store import tables as t
from tests.control.world import T0, World, world

WHEN = "2026-01-01T00:00:00.000000Z"
SECOND = "2026-01-01T00:00:01.000000Z"
TOKEN = "9f1b6c1e-0000-4000-8000-00000000000"


async def refusal(asked: World, op: str, **args: Any) -> tuple[str, str]:
    with pytest.raises((ControlError, CommandError)) as refused:
        await asked.ask(op, **args)
    assert isinstance(refused.value, ControlError | CommandError)
    return str(refused.value.code), refused.value.message


async def test_dags_are_listed_by_name_with_their_newest_run(dsn: str) -> None:
    async with world(dsn) as w:
        later = await w.dag("report", is_paused=True)
        etl = await w.dag("etl")
        await w.dag("gone", is_present=False)
        await w.run(etl, "first", state="success", end_date=T0)
        await w.run(etl, "second")
        listed = await w.ask("dags.list")
        assert [dag["dag_id"] for dag in listed] == ["etl", "report"]
        assert listed[0] == {
            "dag_id": "etl",
            "schedule": "0 * * * *",
            "paused": False,
            "file": "etl.py",
            "next_run": WHEN,
            "present": True,
            "unfinished_runs": 1,
            "last_run_id": "second",
            "last_state": "running",
            "last_start_date": WHEN,
            "last_end_date": None,
        }
        assert (listed[1]["paused"], listed[1]["next_run"]) == (True, None)
        assert [dag["dag_id"] for dag in await w.ask("dags.list", include_absent=True)] == ["etl", "gone", "report"]
        assert later


async def test_a_dag_is_shown_with_its_document_and_its_files_error(dsn: str) -> None:
    async with world(dsn) as w:
        await w.dag("etl")
        shown = await w.ask("dags.show", dag_id="etl")
        assert (shown["version"], shown["import_error"]) == (1, None)
        assert [task["task_id"] for task in shown["document"]["tasks"]] == ["extract", "load"]
        error = {"error_line": 3, "error_message": "SyntaxError", "error_at": T0}
        await w.insert(t.dag_file, path="etl.py", loaded_at=T0, **error)
        await w.insert(t.dag_file, path="fine.py", loaded_at=T0)
        broken = {"file": "etl.py", "line": 3, "message": "SyntaxError"}
        assert (await w.ask("dags.show", dag_id="etl"))["import_error"] == broken
        assert await w.ask("dags.check") == [broken]
        assert (await refusal(w, "dags.show", dag_id="nothing"))[0] == "not_found"


async def test_the_next_runs_follow_the_schedule(dsn: str) -> None:
    async with world(dsn) as w:
        await w.dag("etl", is_paused=True)
        slots = await w.ask("dags.next", dag_id="etl", count=3)
        times = [slot["run_after"] for slot in slots]
        assert len(times) == 3
        assert times == sorted(times)
        assert all(time.endswith(":00:00.000000Z") for time in times)
        assert (await refusal(w, "dags.next", dag_id="etl", count=0))[0] == "usage"
        assert (await refusal(w, "dags.next", dag_id="nothing"))[0] == "not_found"


async def test_pausing_is_done_by_the_command(dsn: str) -> None:
    async with world(dsn) as w:
        await w.dag("etl")
        assert await w.ask("dags.pause", dag_id="etl", paused=True) == {"dag_id": "etl", "paused": True}
        assert (await w.ask("dags.list"))[0]["paused"] is True
        await w.ask("dags.pause", dag_id="etl", paused=False)
        assert (await w.ask("dags.list"))[0]["paused"] is False
        assert (await refusal(w, "dags.pause", dag_id="nothing", paused=True))[0] == "not_found"


async def test_runs_are_paged_newest_first(dsn: str) -> None:
    async with world(dsn) as w:
        etl, report = await w.dag("etl"), await w.dag("report")
        for number in range(5):
            await w.run(etl, f"run{number}", state="success", end_date=T0)
        await w.run(report, "other")

        async def names(**args: Any) -> tuple[list[str], int | None]:
            page = await w.ask("runs.list", **args)
            return [run["run_id"] for run in page["items"]], page["next"]

        assert await names() == (["other", "run4", "run3", "run2", "run1", "run0"], None)
        first, more = await names(dag_id="etl", limit=2)
        assert first == ["run4", "run3"]
        second, more = await names(dag_id="etl", limit=2, before=more)
        assert second == ["run2", "run1"]
        assert await names(dag_id="etl", limit=2, before=more) == (["run0"], None)
        assert (await names(states=["running", "queued"]))[0] == ["other"]
        assert (await refusal(w, "runs.list", dag_id="nothing"))[0] == "not_found"
        assert (await refusal(w, "runs.list", limit=0))[0] == "usage"


async def test_a_run_is_shown_exactly_as_promised(dsn: str) -> None:
    async with world(dsn) as w:
        etl = await w.dag("etl")
        key = await w.run(etl, "manual__1", conf={"a": 1}, logical_date=T0)
        await w.attempt(key, "extract", TOKEN + "1", state="failed", message="ValueError: no")
        shown = await w.ask("runs.show", run="manual__1")
        blank = {"map_index": -1, "state": "none", "try_number": 0, "start_date": None, "end_date": None}
        assert shown["run"] == {
            "dag_id": "etl",
            "run_id": "manual__1",
            "run_type": "manual",
            "state": "running",
            "logical_date": WHEN,
            "start_date": WHEN,
            "end_date": None,
            "tasks": [{"task_id": "extract"} | blank, {"task_id": "load"} | blank],
        }
        assert shown["messages"] == ["ValueError: no", None]
        assert (shown["detail"]["conf"], shown["detail"]["version"]) == ({"a": 1}, 1)


async def test_a_run_is_named_by_itself_by_its_dag_or_as_the_newest_of_a_dag(dsn: str) -> None:
    async with world(dsn) as w:
        etl, report = await w.dag("etl"), await w.dag("report")
        for dag in (etl, report):
            await w.run(dag, "scheduled__1")
        await w.run(etl, "mine")

        async def named(text: str) -> str:
            run = (await w.ask("runs.show", run=text))["run"]
            return f"{run['dag_id']}/{run['run_id']}"

        assert await named("mine") == "etl/mine"
        assert await named("report/scheduled__1") == "report/scheduled__1"
        assert await named("etl") == "etl/mine"
        code, message = await refusal(w, "runs.show", run="scheduled__1")
        assert code == "conflict"
        assert "etl/scheduled__1" in message
        assert "report/scheduled__1" in message
        for wrong in ("", "/", "etl/", "a/b/c", "etl/mine#1", "mine#1"):
            assert (await refusal(w, "runs.show", run=wrong))[0] == "usage", wrong
        for absent in ("nothing", "etl/nothing", "report/mine", "..", "' or 1=1 --", "\u202e"):
            assert (await refusal(w, "runs.show", run=absent))[0] == "not_found", absent


async def test_tasks_are_named_below_their_run(dsn: str) -> None:
    async with world(dsn) as w:
        key = await w.run(await w.dag("etl"), "mine")
        await w.attempt(key, "extract", TOKEN + "1", state="failed")
        await w.attempt(key, "extract", TOKEN + "2", try_number=2, queued_at=T0 + timedelta(minutes=1))

        async def tries(text: str) -> list[int]:
            (instance,) = await w.ask("tasks.show", task=text)
            assert instance["task_id"] == "extract"
            return [attempt["try_number"] for attempt in instance["attempts"]]

        assert await tries("mine/extract") == [1, 2]
        assert await tries("etl/extract") == [1, 2]
        assert await tries("etl/mine/extract") == [1, 2]
        assert await tries("etl/mine/extract#2") == [2]
        assert await tries("mine/extract#3") == []
        assert (await refusal(w, "tasks.show", task="mine"))[0] == "usage"
        assert (await refusal(w, "tasks.show", task="mine/nothing"))[0] == "not_found"
        assert (await refusal(w, "tasks.show", task="mine/extract#x"))[0] == "usage"


async def test_a_task_is_shown_with_attempts_and_results(dsn: str) -> None:
    async with world(dsn) as w:
        key = await w.run(await w.dag("etl"), "mine")
        ended = {"exit_code": -9, "reason": "signal", "message": "killed by SIGKILL", "pid": 42, "hostname": "here"}
        await w.attempt(key, "extract", TOKEN + "1", state="failed", **ended)
        ti = t.task_instance
        await w.execute(sa.update(ti).where(ti.c.task_id == "extract").values(state="success", try_number=1))
        ti_key = await w.execute(sa.select(ti.c.id).where(ti.c.task_id == "extract"))
        await w.insert(t.xcom, ti_id=ti_key, key="return_value", value='{"rows": [1, 2.5, null]}')
        (shown,) = await w.ask("tasks.show", task="mine/extract")
        assert shown["results"] == {"return_value": {"rows": [1, 2.5, None]}}
        assert shown["attempts"] == [
            {
                "token": TOKEN + "1",
                "try_number": 1,
                "state": "failed",
                "queued_at": WHEN,
                "start_date": WHEN,
                "end_date": SECOND,
                "log_path": f"/logs/{TOKEN}1.log",
            }
            | ended
        ]
        listed = await w.ask("tasks.list", run="mine")
        assert [(task["task_id"], task["message"]) for task in listed] == [
            ("extract", "killed by SIGKILL"),
            ("load", None),
        ]


async def test_logs_are_located_and_said_to_grow_or_not(dsn: str) -> None:
    async with world(dsn) as w:
        key = await w.run(await w.dag("etl"), "mine")
        await w.attempt(key, "extract", TOKEN + "1")
        await w.attempt(key, "load", TOKEN + "2", state="running", ended_at=None)
        ti = t.task_instance
        done = {"state": "success", "end_date": T0}
        await w.execute(sa.update(ti).where(ti.c.task_id == "extract").values(**done))

        async def located(text: str) -> tuple[list[str], bool]:
            seen = await w.ask("logs.locate", of=text)
            return [log["task_id"] for log in seen["logs"]], seen["unfinished"]

        assert await located("mine") == (["extract", "load"], True)
        assert await located("mine/extract") == (["extract"], False)
        assert await located("etl/load#1") == (["load"], True)
        await w.change(t.dag_run, key, state="success", end_date=T0)
        assert await located("etl") == (["extract", "load"], False)


async def test_a_wait_answers_when_the_run_ends_or_the_time_is_over(dsn: str) -> None:
    async with world(dsn) as w:
        key = await w.run(await w.dag("etl"), "mine")
        seen = await w.ask("runs.wait", run="etl/mine", seconds=0)
        assert (seen["state"], seen["counts"]) == ("running", {"none": 2})
        answers: list[Any] = []

        async def wait() -> None:
            answers.append(await w.ask("runs.wait", run="etl/mine", seconds=30))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await w.change(t.dag_run, key, state="failed", end_date=T0)
            w.switchboard.poke("run_finished")
        assert answers[0]["state"] == "failed"
        assert (await refusal(w, "runs.wait", run="nothing"))[0] == "not_found"
        assert (await refusal(w, "runs.wait", run="etl/mine", seconds=61))[0] == "usage"


async def test_a_wait_notices_the_end_without_a_poke(dsn: str) -> None:
    async with world(dsn) as w:
        key = await w.run(await w.dag("etl"), "mine")
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                await w.change(t.dag_run, key, state="success", end_date=T0)

            nursery.start_soon(end)
            assert (await w.ask("runs.wait", run="etl/mine", seconds=30))["state"] == "success"


async def test_a_run_is_triggered_with_its_tasks_and_cancelled(dsn: str) -> None:
    async with world(dsn) as w:
        await w.dag("etl")
        made = await w.ask("runs.trigger", dag_id="etl", conf={"a": [1, "ä"]})
        assert made["state"] in ("queued", "running")
        shown = await w.ask("runs.show", run=f"etl/{made['run_id']}")
        assert shown["run"]["run_type"] == "manual"
        assert shown["run"]["logical_date"] is None
        assert shown["detail"]["conf"] == {"a": [1, "ä"]}
        assert len(shown["run"]["tasks"]) == 2
        named = {"dag_id": "etl", "run_id": made["run_id"]}
        assert await w.ask("runs.cancel", run=made["run_id"]) == named
        assert (await w.ask("runs.show", run="etl"))["detail"]["verdict"] == "cancelled"
        await w.execute(sa.update(t.dag_run).values(state="failed", end_date=T0))
        assert (await refusal(w, "runs.cancel", run=made["run_id"]))[0] == "conflict"


async def test_a_trigger_with_a_logical_date_happens_once(dsn: str) -> None:
    async with world(dsn) as w:
        await w.dag("etl")
        made = await w.ask("runs.trigger", dag_id="etl", logical_date="2026-01-01T00:00:00Z")
        assert (await w.ask("runs.show", run=f"etl/{made['run_id']}"))["run"]["logical_date"] == WHEN
        assert (await refusal(w, "runs.trigger", dag_id="etl", logical_date="2026-01-01T01:00:00+01:00"))[
            0
        ] == "conflict"
        assert (await refusal(w, "runs.trigger", dag_id="etl", logical_date="soon"))[0] == "usage"
        assert (await refusal(w, "runs.trigger", dag_id="nothing"))[0] == "not_found"


async def test_pools_are_listed_with_their_use_and_the_whole_counts_each_task_once(dsn: str) -> None:
    async with world(dsn) as w:
        await w.ask("pools.set", name="http", slots=4, description="the API")
        await w.ask("pools.set", name="http", slots=5)
        run = await w.run(await w.dag("etl"), "mine")
        active = {"state": "running", "token": TOKEN + "1"}
        await w.task(run, "a", 2, pool="http", pool_slots=3, **active)
        await w.task(run, "b", 3, pool="http", pool_slots=2, state="scheduled")
        await w.task(run, "c", 4, **active | {"token": TOKEN + "2"})
        pools = {pool.pop("name"): pool for pool in await w.ask("pools.list")}
        assert pools["http"] == {"slots": 5, "used": 3, "waiting": 2, "description": "the API"}
        assert (pools["default_pool"]["used"], pools["default_pool"]["waiting"]) == (1, 0)
        assert (pools["*"]["used"], pools["*"]["waiting"]) == (2, 1)
        assert (await refusal(w, "pools.delete", name="http"))[0] == "conflict"
        assert (await refusal(w, "pools.delete", name="nothing"))[0] == "not_found"
        assert (await refusal(w, "pools.set", name="ähm", slots=1))[0] == "usage"
        assert (await refusal(w, "pools.set", name="x", slots=-2))[0] == "usage"
        assert (await refusal(w, "pools.set", name="x", slots=2**31))[0] == "usage"


async def test_status_counts_what_is_there(dsn: str) -> None:
    async with world(dsn, version="1", started_at=T0) as w:
        etl = await w.dag("etl")
        await w.dag("later", next_due=T0 + timedelta(hours=1))
        await w.dag("paused", is_paused=True)
        await w.run(etl, "mine")
        now = await w.execute(sa.select(sa.func.now()))
        await w.run(etl, "failed", state="failed", end_date=now)
        await w.run(etl, "long_ago", state="failed", end_date=T0)
        await w.insert(t.dag_file, path="x.py", loaded_at=T0, error_message="no", error_at=T0)
        seen = await w.ask("status")
        assert (seen["version"], seen["started_at"], seen["database_away"]) == ("1", WHEN, None)
        assert seen["dags"] == {"total": 3, "paused": 1, "import_errors": 1}
        assert seen["runs"] == {"running": 1}
        assert [dag["dag_id"] for dag in seen["next"]] == ["etl", "later"]
        assert [run["run_id"] for run in seen["failed"]] == ["failed"]
        assert await w.ask("db.check") == {"current": "1", "head": "1", "is_current": True}


async def test_an_empty_installation_answers_everything(dsn: str) -> None:
    async with world(dsn) as w:
        assert await w.ask("dags.list") == []
        assert await w.ask("dags.check") == []
        assert await w.ask("runs.list") == {"items": [], "next": None}
        assert (await w.ask("status"))["dags"] == {"total": 0, "paused": 0, "import_errors": 0}
        assert {pool["name"] for pool in await w.ask("pools.list")} >= {"default_pool"}


def test_every_refusal_of_a_command_has_a_code_of_ours() -> None:
    for code in ("not_found", "conflict", "usage"):
        assert Code(code)
