"""Clear and mark as the control socket serves them: how tasks are named, what is answered, what is refused."""

import sqlalchemy as sa

from scheduler.store import tables as t
from tests.control.test_handlers import refusal
from tests.control.world import T0, World, world

END = {"end_date": T0, "start_date": T0}


async def a_failed_run(w: World, run_id: str = "mine", dag: int | None = None, **changed: object) -> int:
    key = dag or await w.dag("etl")
    run = await w.run(key, run_id, state="failed", end_date=T0, **changed)
    of = t.task_instance.c.run_pk == run
    await w.execute(sa.update(t.task_instance).where(of).values(state="failed", try_number=1, **END))
    return key


async def test_a_run_is_cleared_and_shown_as_queued_again(dsn: str) -> None:
    async with world(dsn) as w:
        await a_failed_run(w)
        seen = await w.ask("runs.clear", run="etl", dry_run=True)
        assert (seen["dry_run"], seen["counts"]) == (True, {"runs": 1, "tasks": 2})
        done = await w.ask("runs.clear", run="mine")
        assert done == seen | {"dry_run": False}
        (run,) = done["runs"]
        assert (run["dag_id"], run["run_id"], run["before"], run["after"]) == ("etl", "mine", "failed", "queued")
        assert run["tasks"][0] == {
            "task_id": "extract", "map_index": -1, "before": "failed", "after": "none", "is_stopped_first": False,
        }  # fmt: skip
        shown = await w.ask("runs.show", run="mine")
        assert (shown["run"]["state"], shown["detail"]["clear_count"]) == ("queued", 1)
        assert await w.ask("runs.clear", run="mine") == {
            "dry_run": False, "counts": {"runs": 0, "tasks": 0}, "runs": [],
        }  # fmt: skip


async def test_tasks_of_one_run_are_cleared_with_those_around_them(dsn: str) -> None:
    async with world(dsn) as w:
        await a_failed_run(w)

        async def reached(*tasks: str, **options: object) -> list[str]:
            seen = await w.ask("tasks.clear", tasks=tasks, dry_run=True, **options)
            return [task["task_id"] for run in seen["runs"] for task in run["tasks"]]

        assert await reached("etl/extract") == ["extract"]
        assert await reached("etl/mine/extract", downstream=True) == ["extract", "load"]
        assert await reached("mine/load", upstream=True) == ["extract", "load"]
        assert await reached("mine/load", "mine/extract") == ["extract", "load"]
        assert await reached("mine/load", only=["running", "success"]) == []


async def test_tasks_are_marked_and_the_failures_below_them_cleared(dsn: str) -> None:
    async with world(dsn) as w:
        await a_failed_run(w)
        done = await w.ask("tasks.mark", tasks=["mine/extract"], state="success")
        (run,) = done["runs"]
        assert [(task["task_id"], task["after"]) for task in run["tasks"]] == [("extract", "success"), ("load", "none")]
        assert run["after"] == "queued"


async def test_a_run_is_marked(dsn: str) -> None:
    async with world(dsn) as w:
        await a_failed_run(w)
        done = await w.ask("runs.mark", run="etl", state="success")
        assert done == {"dag_id": "etl", "run_id": "mine", "before": "failed", "state": "success"}
        assert (await w.ask("runs.show", run="mine"))["detail"]["verdict"] == "marked success"


async def test_what_cannot_be_meant_is_refused(dsn: str) -> None:
    async with world(dsn) as w:
        key = await a_failed_run(w)
        await a_failed_run(w, "other", key)
        assert (await refusal(w, "tasks.clear", tasks=[]))[0] == "usage"
        assert (await refusal(w, "tasks.clear", tasks=["mine"]))[0] == "usage"
        assert (await refusal(w, "tasks.clear", tasks=["mine/load#1"]))[0] == "usage"
        assert (await refusal(w, "tasks.clear", tasks=["mine/load", "other/load"]))[0] == "usage"
        assert (await refusal(w, "tasks.clear", tasks=["mine/nothing"]))[0] == "not_found"
        assert (await refusal(w, "tasks.mark", tasks=["mine/load"], state="running"))[0] == "usage"
        assert (await refusal(w, "runs.mark", run="mine", state="queued"))[0] == "usage"
        assert (await refusal(w, "runs.clear", run="mine", past=True))[0] == "usage"
        assert (await refusal(w, "runs.clear", run="nothing"))[0] == "not_found"
