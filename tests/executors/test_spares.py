"""Processes forked ahead of the attempts, and reports that do not wait for the end of a process."""

import os
import signal
from pathlib import Path

import psutil
import trio

from scheduler.model import OutcomeKind
from tests.executors.desk import LIMIT_S, Desk, OpenDesk, alive, gone

BODY = """
with DAG("d"):
    @task
    def where(): return [os.getpid(), os.getppid(), VERSION]
    where()

    @task
    def ends_on_word():
        tell("running", os.getpid(), os.getppid())
        with open(WORD) as word:
            return word.read()
    ends_on_word()

    @task
    def leaves_a_thread():
        import threading
        def go_on():
            while True:
                time.sleep(0.001)
        threading.Thread(target=go_on, daemon=True).start()
        tell("running", os.getpid(), os.getppid())
        with open(WORD) as word:
            return word.read()
    leaves_a_thread()

    @task
    def leaves_a_child():
        child = subprocess.Popen(["sleep", "600"])
        tell("running", os.getpid(), os.getppid(), child.pid)
        with open(WORD) as word:
            return word.read()
    leaves_a_child()
"""


def body(folder: Path, version: int = 1) -> str:
    return f"WORD = {str(folder / 'word')!r}\nVERSION = {version}\n" + BODY


async def where(desk: Desk) -> tuple[int, int, int]:
    """Run a task: its pid, its parent's, the version of its source."""
    (outcome,) = await desk.run(desk.workload("where"))
    assert outcome.kind is OutcomeKind.SUCCESS, outcome
    pid, parent, version = (int(part) for part in (outcome.result or "").strip("[]").split(","))
    return pid, parent, version


async def spare_of(parent: int) -> psutil.Process:
    """The process that waits there, when nothing else is left there."""
    with trio.fail_after(LIMIT_S):
        while True:
            children = psutil.Process(parent).children()
            if len(children) == 1 and children[0].status() == psutil.STATUS_SLEEPING:
                return children[0]
            await trio.sleep(0.01)


async def stop_when_it_rests(parent: int) -> None:
    """SIGSTOP, when it has forked a spare process, has said so, and waits for something to do."""
    process = psutil.Process(parent)
    with trio.fail_after(LIMIT_S):
        while True:
            states = [child.status() for child in process.children()]
            if states == [psutil.STATUS_SLEEPING] * 2 and process.status() == psutil.STATUS_SLEEPING:
                break
            await trio.sleep(0.01)
    os.kill(parent, signal.SIGSTOP)


async def test_an_attempt_takes_the_spare_process_and_another_is_forked(open_desk: OpenDesk, tmp_path: Path) -> None:
    async with open_desk(body(tmp_path)) as desk:
        _, parent, _ = await where(desk)
        for _ in range(3):
            waiting = {child.pid for child in psutil.Process(parent).children()} | {(await spare_of(parent)).pid}
            pid, same, _ = await where(desk)
            assert pid in waiting
            assert same == parent


async def test_a_spare_leaves_with_its_parent(open_desk: OpenDesk, tmp_path: Path) -> None:
    async with open_desk(body(tmp_path)) as desk:
        _, parent, _ = await where(desk)
        spare = await spare_of(parent)
        os.kill(parent, signal.SIGKILL)
        await gone(spare.pid)
        with trio.fail_after(LIMIT_S):
            while True:
                (outcome,) = await desk.run(desk.workload("where"))
                if outcome.kind is OutcomeKind.SUCCESS:
                    break
                # Given to the dying one: it has not run, and the scheduler would try again.
                assert (outcome.kind, outcome.reason) == (OutcomeKind.LOST, "worker")
        assert str(parent) not in (outcome.result or "")


async def test_a_dead_spare_is_given_to_nobody_but_replaced(open_desk: OpenDesk, tmp_path: Path) -> None:
    async with open_desk(body(tmp_path)) as desk:
        _, parent, _ = await where(desk)
        spare = await spare_of(parent)
        spare.kill()
        await gone(spare.pid)
        with trio.fail_after(LIMIT_S):
            while psutil.pid_exists(spare.pid):  # until its parent has buried it, and then has said so
                await trio.sleep(0.01)
        outcomes = [(await desk.run(desk.workload("where")))[0] for _ in range(2)]
        assert outcomes[-1].kind is OutcomeKind.SUCCESS
        assert str(spare.pid) not in (outcomes[-1].result or "")


async def test_a_spare_of_an_old_source_never_runs_a_new_one(open_desk: OpenDesk, tmp_path: Path) -> None:
    async with open_desk(body(tmp_path)) as desk:
        _, parent, version = await where(desk)
        old_spare = await spare_of(parent)
        old = desk.source
        desk.write(body(tmp_path, version=2))
        pid, new_parent, new_version = await where(desk)
        assert (version, new_version) == (1, 2)
        assert new_parent != parent
        assert pid != old_spare.pid
        desk.source = old
        pid, same, version = await where(desk)
        assert (pid, same, version) == (old_spare.pid, parent, 1)


async def test_an_end_is_reported_though_nobody_has_reaped_the_process(open_desk: OpenDesk, tmp_path: Path) -> None:
    async with open_desk(body(tmp_path)) as desk:
        os.mkfifo(tmp_path / "word")
        for task_id in ("ends_on_word", "leaves_a_thread"):
            workload = desk.workload(task_id)
            desk.executor.submit([workload])
            pid, parent = map(int, (await desk.told())[1:])
            await stop_when_it_rests(parent)  # it alone can reap
            try:
                await trio.to_thread.run_sync((tmp_path / "word").write_text, "now")
                outcome = await desk.outcome(workload)
                assert (outcome.kind, outcome.result, outcome.exit_code) == (OutcomeKind.SUCCESS, '"now"', 0)
                assert "success after" in desk.log(workload)
                await gone(pid)
                assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
            finally:
                os.kill(parent, signal.SIGCONT)
        assert desk.executor.free_slots() == 8


async def test_what_a_task_has_left_is_dead_before_the_report(open_desk: OpenDesk, tmp_path: Path) -> None:
    async with open_desk(body(tmp_path)) as desk:
        os.mkfifo(tmp_path / "word")
        workload = desk.workload("leaves_a_child")
        desk.executor.submit([workload])
        pid, parent, child = map(int, (await desk.told())[1:])
        await stop_when_it_rests(parent)
        try:
            await trio.to_thread.run_sync((tmp_path / "word").write_text, "now")
            await gone(pid)  # it has said its last word
            (other,) = await desk.run(desk.workload("where", source=desk.write("1 / 0\n", name="other.py")))
            assert other.reason == "import"  # so the worker has heard everything that was said before
            assert workload.token not in desk.outcomes
            assert alive(child)
        finally:
            os.kill(parent, signal.SIGCONT)
        outcome = await desk.outcome(workload)
        assert (outcome.kind, outcome.exit_code) == (OutcomeKind.SUCCESS, 0)
        assert not alive(child)
