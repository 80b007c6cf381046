"""kill -9 under load: nothing is lost, nothing is accepted twice, nothing survives.

Two witnesses are compared, as an auditor would who trusts neither: the lines that the tasks themselves append at
their start and end, and the database. Each test kills one process at a moment that it has seen come: some tasks
have ended, some run, some wait.
"""

import json
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from attrs import frozen

from scheduler.control.protocol import ControlError
from tests.end_to_end.daemon import Daemon, running, until

RUNS, WIDTH = 6, 5

DAGS = f"""
import json, os, time
from pathlib import Path
from scheduler import dag, get_context, task

NOTES = Path(__file__).with_name("notes")
GATE = Path(__file__).with_name("gate")

def note(what):
    context = get_context()
    line = [context.run_id, context.task_id, context.try_number, os.getpid(), what, time.monotonic()]
    file = os.open(NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, json.dumps(line).encode() + b"\\n")
    os.close(file)

@dag()
def load():
    @task
    def split():
        note("start")
        note("end")
        return list(range({WIDTH}))
    @task
    def work(numbers, i):
        note("start")
        if i == 0:  # these are running whenever the blow falls
            while not GATE.exists():
                time.sleep(0.02)
        else:
            time.sleep(0.05)
        note("end")
        return numbers[i] + 1
    @task
    def add(parts):
        note("start")
        note("end")
        return sum(parts)
    numbers = split()
    add([work(numbers, i) for i in range({WIDTH})])
load()
"""

TASKS = RUNS * (WIDTH + 2)

ATTEMPTS = """
SELECT r.run_id, ti.task_id, a.try_number, a.pid, a.state, ti.state, ti.token IS NULL
FROM attempt a JOIN task_instance ti ON ti.id = a.ti_id JOIN dag_run r ON r.id = ti.run_pk
"""


@frozen
class Execution:
    """User code of one task that was seen to run, from its own notes; `ended` None: it was cut short."""

    run_id: str
    task_id: str
    try_number: int
    pid: int
    began: float
    ended: float | None


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    config = "[worker]\nkill_grace_s = 1\norphan_grace_s = 20\n"
    with running(tmp_path, {"load.py": DAGS}, config=config) as daemon:
        yield daemon


def executions(daemon: Daemon) -> list[Execution]:
    """What the tasks have noted."""
    path = daemon.dags / "notes"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    ends = {(*who,): when for *who, what, when in lines if what == "end"}
    starts = [(*who, when, ends.get((*who,))) for *who, what, when in lines if what == "start"]
    return [Execution(*fields) for fields in starts]


def load(daemon: Daemon) -> list[str]:
    """Trigger all runs, and wait until some tasks have ended while some are running user code."""
    runs = [daemon.trigger("load") for _ in range(RUNS)]

    def is_under_way() -> bool:
        seen = executions(daemon)
        held = sum(one.task_id == "work" and one.ended is None for one in seen)
        return held >= 2 and sum(one.ended is not None for one in seen) >= 4

    until("the load is under way", is_under_way)
    return runs


def all_end_in_success(daemon: Daemon, runs: list[str]) -> None:
    """Open the gate; every run ends, with the right result."""
    (daemon.dags / "gate").touch()
    for run in runs:
        assert daemon.state(run) == "success"
        assert daemon.result(run, "add") == sum(range(1, WIDTH + 1))


def nothing_was_lost_or_doubled(daemon: Daemon) -> None:
    """Compare the two witnesses."""
    seen = defaultdict(list)
    for one in executions(daemon):
        seen[one.run_id, one.task_id].append(one)
    rows = daemon.sql(ATTEMPTS)
    accepted = [(row[0], row[1], int(row[2]), int(row[3])) for row in rows if row[4] == "success"]
    assert len(accepted) == len({one[:3] for one in accepted}) == TASKS, "one accepted attempt of each task and try"
    assert {row[5] for row in rows} == {"success"}
    assert {row[6] for row in rows} == {"t"}, "no instance holds a token any more"
    assert not [row for row in rows if row[4] in ("queued", "running")], "no attempt is left open"
    assert {int(row[2]) for row in rows} == {1}, "what the machine did is not charged to the task"
    for run_id, task_id, try_number, pid in accepted:
        ours = [one for one in seen[run_id, task_id] if (one.try_number, one.pid) == (try_number, pid)]
        assert len(ours) == 1, f"{task_id} of {run_id}: the accepted attempt ran once, not {len(ours)} times"
        assert ours[0].ended is not None
    for executed in seen.values():
        whole = sorted((one for one in executed if one.ended is not None), key=lambda one: one.began)
        for one, following in pairwise(whole):
            assert one.ended is not None
            assert one.ended <= following.began, "two executions of one task overlapped"
    first = {key: min(one.began for one in ran) for key, ran in seen.items()}
    split = {
        run_id: min(e for one in ran if (e := one.ended)) for (run_id, name), ran in seen.items() if name == "split"
    }
    assert all(began >= split[run_id] for (run_id, name), began in first.items() if name != "split")


def is_away(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except ControlError:
        return True
    return False


def test_the_daemon_is_killed_under_load(daemon: Daemon) -> None:
    runs = load(daemon)
    daemon.kill()
    assert is_away(lambda: daemon.ask("status"))
    daemon.start()
    all_end_in_success(daemon, runs)
    nothing_was_lost_or_doubled(daemon)


def test_the_daemon_is_killed_and_its_tasks_end_before_the_next_one_comes(daemon: Daemon) -> None:
    runs = load(daemon)
    held = sum(one.ended is None for one in executions(daemon) if one.task_id == "work")
    daemon.kill()
    (daemon.dags / "gate").touch()
    until("the tasks have gone on and ended", lambda: all(one.ended for one in executions(daemon)))
    daemon.start()
    all_end_in_success(daemon, runs)
    nothing_was_lost_or_doubled(daemon)
    assert held > 0
    assert {row[4] for row in daemon.sql(ATTEMPTS)} <= {"success", "lost"}


def test_the_daemon_is_killed_again_and_again(daemon: Daemon) -> None:
    runs = load(daemon)
    for _ in range(3):
        daemon.kill()
        daemon.start()
    all_end_in_success(daemon, runs)
    nothing_was_lost_or_doubled(daemon)


def test_the_daemon_and_everything_below_it_are_killed(daemon: Daemon) -> None:
    """As when the machine loses its power."""
    runs = load(daemon)
    daemon.kill()

    def none_is_left() -> bool:
        left = daemon.processes()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    until("all of them are dead", none_is_left)
    daemon.start()
    all_end_in_success(daemon, runs)
    nothing_was_lost_or_doubled(daemon)


def test_a_killed_daemon_leaves_nothing_behind_for_long(tmp_path: Path) -> None:
    config = "[worker]\nkill_grace_s = 1\norphan_grace_s = 1\n"
    with running(tmp_path, {"load.py": DAGS}, config=config) as daemon:
        load(daemon)
        daemon.kill()
        until("the database, the worker and the tasks have ended", lambda: not daemon.processes())


@pytest.mark.parametrize("times", [1, 3])
def test_postgres_is_killed_under_load(daemon: Daemon, times: int) -> None:
    runs = load(daemon)
    before = daemon.worker
    for _ in range(times):
        killed = daemon.postmaster
        os.kill(killed, signal.SIGKILL)
        until("another server answers", partial(_another_answers, daemon, killed))
    all_end_in_success(daemon, runs)
    nothing_was_lost_or_doubled(daemon)
    assert daemon.process is not None
    assert daemon.process.poll() is None
    assert daemon.worker == before, "the worker does not depend on the database"
    assert {row[4] for row in daemon.sql(ATTEMPTS)} == {"success"}, "an outage costs no attempt"


def _another_answers(daemon: Daemon, killed: int) -> bool:
    return _answers(daemon) and daemon.postmaster != killed


def _answers(daemon: Daemon) -> bool:
    return daemon.ask("status")["database_away"] is None


def test_one_backend_of_postgres_is_killed(daemon: Daemon) -> None:
    """The server then restarts all of its backends from within."""
    runs = load(daemon)
    ((backend,),) = daemon.sql(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() LIMIT 1"
    )
    os.kill(int(backend), signal.SIGKILL)
    until("the database answers again", lambda: _answers(daemon))
    all_end_in_success(daemon, runs)
    nothing_was_lost_or_doubled(daemon)


def test_the_worker_is_killed_under_load(daemon: Daemon) -> None:
    runs = load(daemon)
    victim = daemon.worker
    os.kill(victim, signal.SIGKILL)
    until("another worker is there", lambda: any(one["pid"] != victim for one in daemon.ask("status")["workers"]))
    all_end_in_success(daemon, runs)
    nothing_was_lost_or_doubled(daemon)
    assert "lost" in {row[4] for row in daemon.sql(ATTEMPTS)}


def test_the_zygote_is_killed_under_load(daemon: Daemon) -> None:
    runs = load(daemon)
    (zygote,) = [
        pid for pid, command in daemon.processes().items() if _parent(pid) == daemon.worker and "zygote" in command
    ]
    os.kill(zygote, signal.SIGKILL)
    all_end_in_success(daemon, runs)
    nothing_was_lost_or_doubled(daemon)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0  # it has ended
