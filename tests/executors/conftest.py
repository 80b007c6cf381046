"""Async tests here run under trio; a desk plays the daemon; and no process may be left behind."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from scheduler.model import Outcome, Workload
from tests.executors.desk import LIMIT_S, OpenDesk, gone, open_a_desk, survivors


@pytest.fixture
def open_desk(tmp_path: Path) -> OpenDesk:
    """`async with open_desk(dag_text, **worker_options) as desk`"""

    def open_one(body: str = "", **options: Any) -> Any:
        return open_a_desk(tmp_path, body, **options)

    return open_one


@pytest.fixture(scope="module")
def run_cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Run many tasks in one worker, once for a module: task id -> (workload, outcome, log)."""

    def run(body: str, changes: dict[str, dict[str, Any]], tasks: Sequence[str], **options: Any) -> Any:
        async def main() -> dict[str, tuple[Workload, Outcome, str]]:
            with trio.fail_after(LIMIT_S):
                async with open_a_desk(tmp_path_factory.mktemp("cases"), body, **options) as desk:
                    desk.inputs = changes.pop("inputs", {})
                    workloads = [desk.workload(name, **changes.get(name, {})) for name in tasks]
                    outcomes = await desk.run(*workloads)
                    return {
                        one.task_id: (one, outcome, desk.log(one))
                        for one, outcome in zip(workloads, outcomes, strict=True)
                    }

        return trio.run(main)

    return run


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """Whatever a test does, 15 s after it no process of its workers is left."""
    yield

    async def all_gone() -> None:
        with trio.fail_after(15):
            for pid in survivors():
                await gone(pid)

    trio.run(all_gone)
