"""The examples load, and each of them does what it says, task by task in this process.

The end-to-end tests run them under a daemon.
"""

import inspect
import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio

from scheduler.authoring import Context, SkipTask, collect_dags, set_context
from scheduler.loading.loader import Loaded, load_file
from scheduler.loading.scan import scan
from scheduler.model import TaskKind

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", sorted(scan(EXAMPLES)))
def test_an_example_loads(name: str) -> None:
    result = trio.run(lambda: load_file(EXAMPLES / name, timeout=20.0, memory_limit=1 << 30))
    assert isinstance(result, Loaded), result
    assert len(result.dags) == 1
    assert result.dags[0].dag_id == Path(name).stem
    assert not result.dags[0].paused_upon_creation


class Played:
    """The results of an example's tasks, called in order with the results of those before."""

    def __init__(self, name: str, **params: Any) -> None:
        path = EXAMPLES / name
        namespace: dict[str, Any] = {"__name__": "example", "__file__": str(path)}
        exec(compile(path.read_text(), str(path), "exec"), namespace)
        (dag,) = collect_dags(namespace).values()
        self.results: dict[str, Any] = {}
        self.failures: dict[str, Exception] = {}
        definition = dag.to_model()
        now = datetime.now(UTC)
        for task in definition.tasks:
            node = dag.task(task.task_id)
            if node.kind is TaskKind.BASH or any(name in self.failures for name in task.upstream):
                continue
            set_context(
                Context(
                    dag_id=definition.dag_id,
                    run_id="manual",
                    task_id=task.task_id,
                    try_number=2,
                    run_after=now,
                    params={**definition.params, **params},
                )
            )
            try:
                value = node.call(self.results)
                if inspect.iscoroutine(value):
                    value = trio.run(_await, value)
            except Exception as error:
                self.failures[task.task_id] = error
            else:
                self.results[task.task_id] = json.loads(json.dumps(value))
            finally:
                set_context(None)


async def _await(value: Any) -> Any:
    with trio.fail_after(30):
        return await value


def test_time_zones_makes_a_table_and_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLES_OUT", str(tmp_path / "out"))
    played = Played("time_zones.py")
    assert played.failures == {}
    with sqlite3.connect(tmp_path / "out" / "time_zones.sqlite") as database:
        rows = database.execute(
            "SELECT country, latitude, longitude, january_offset_minutes, clock_changes FROM time_zone"
            " WHERE name IN ('Europe/Berlin', 'Asia/Kolkata', 'Africa/Lagos') ORDER BY name"
        ).fetchall()
    database.close()
    assert [row[0] for row in rows] == ["Nigeria", "India", "Germany"]
    assert [row[3:] for row in rows] == [(60, 0), (330, 0), (60, 2)]
    assert rows[2][1:3] == (52.5, 13.3667)
    report = (tmp_path / "out" / "time_zones.md").read_text()
    assert f"**{len(played.results['transform'])}**" in report
    assert "Asia/Kathmandu" in report
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["time_zones.md", "time_zones.sqlite"]


@pytest.mark.parametrize(("below", "primes"), [(1_000_000, 78_498), (10_000, 1_229), (10, 4), (3, 1)])
def test_prime_numbers_are_counted_right(below: int, primes: int) -> None:
    played = Played("prime_numbers.py", below=below)
    assert played.failures == {}
    assert played.results["add"] == primes


def test_disk_watch_chooses_by_its_limit() -> None:
    assert Played("disk_watch.py", full_above_percent=100).results["is_it_full"] == "all_is_well"
    assert Played("disk_watch.py", full_above_percent=-1).results["is_it_full"] == "warn"


def test_echo_latency_counts_every_message() -> None:
    assert Played("echo_latency.py").results["measure"]["messages"] == 1000


def test_tidy_up_deletes_what_is_old_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLES_OUT", str(tmp_path))
    report, other = tmp_path / "time_zones.md", tmp_path / "notes.md"
    report.touch()
    other.touch()
    assert isinstance(Played("tidy_up.py", keep_days=1).failures["remove.find_old"], SkipTask)
    assert Played("tidy_up.py", keep_days=-1).results["remove.delete"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["notes.md"]
