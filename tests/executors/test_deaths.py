"""kill -9, at every process in turn: what is lost is said to be lost, what can live on does, nothing is left behind."""

import os
import signal
from pathlib import Path

import psutil
import trio

from nurseries.processes import open_child
from scheduler.executors.local import worker_spec
from scheduler.model import Outcome, OutcomeKind
from tests.executors.desk import LIMIT_S, Desk, OpenDesk, WorkerProcess, alive, gone

BODY = """
with DAG("d"):
    @task
    def waits():
        tell("running", os.getpid(), os.getppid())
        time.sleep(600)
    waits()

    @task
    def waits_for_word():
        tell("running", os.getpid(), os.getppid())
        with open(os.environ["WORD"]) as word:
            return word.read()
    waits_for_word()

    @task
    def quick(): return 1
    quick()

    @task
    def floods():
        line = b"x" * 65536
        for _ in range(800):
            os.write(1, line)
        return "done"
    floods()

    @task
    def floods_lines():
        for n in range(200_000):
            print(n)
    floods_lines()
"""


def zygote_of(worker: WorkerProcess) -> int:
    (child,) = psutil.Process(worker.pid).children()
    return child.pid


async def start(desk: Desk, task_id: str) -> tuple[object, int, int]:
    """Run until the task says so: its workload, its pid, its parent's pid."""
    workload = desk.workload(task_id)
    desk.executor.submit([workload])
    _, pid, parent = await desk.told()
    return workload, int(pid), int(parent)


async def test_kill_of_a_task_is_its_failure(open_desk: OpenDesk) -> None:
    async with open_desk(BODY) as desk:
        workload, pid, _ = await start(desk, "waits")
        os.kill(pid, signal.SIGKILL)
        outcome = await desk.outcome(workload)
        assert (outcome.kind, outcome.reason, outcome.exit_code) == (OutcomeKind.FAILED, "signal", -9)


async def test_kill_of_a_task_that_has_not_started_is_a_loss(open_desk: OpenDesk) -> None:
    async with open_desk(BODY) as desk:
        desk.auto_answer = False
        workload = desk.workload("quick")
        desk.executor.submit([workload])
        os.kill((await desk.started(workload)).pid, signal.SIGKILL)
        outcome = await desk.outcome(workload)
        assert (outcome.kind, outcome.reason) == (OutcomeKind.LOST, "worker")


async def test_kill_of_a_warm_parent_loses_its_attempts_and_no_others(open_desk: OpenDesk, tmp_path: Path) -> None:
    async with open_desk(BODY) as desk:
        other_source, source = desk.write(BODY, name="other.py"), desk.write(BODY)
        lost, pid, parent = await start(desk, "waits")
        desk.source = other_source
        kept, kept_pid, kept_parent = await start(desk, "waits")
        assert parent != kept_parent
        os.kill(parent, signal.SIGKILL)
        outcome = await desk.outcome(lost)
        assert (outcome.kind, outcome.reason) == (OutcomeKind.LOST, "worker")
        assert "killed by SIGKILL" in outcome.message
        assert not alive(pid)
        assert alive(kept_pid)
        desk.source = source
        (outcome,) = await desk.run(desk.workload("quick"))  # a new parent takes its place
        assert outcome.kind is OutcomeKind.SUCCESS
        desk.executor.cancel(kept.token, "")
        await desk.outcome(kept)


async def test_kill_of_the_zygote_hurts_nobody(open_desk: OpenDesk) -> None:
    async with open_desk(BODY) as desk:
        running, pid, _ = await start(desk, "waits")
        zygote = zygote_of(desk.processes[0])
        os.kill(zygote, signal.SIGKILL)
        await gone(zygote)
        (outcome,) = await desk.run(desk.workload("quick"))  # from the living parent
        assert outcome.kind is OutcomeKind.SUCCESS
        desk.write(BODY, name="new.py")
        outcome = (await desk.run(desk.workload("quick")))[0]
        if outcome.kind is OutcomeKind.LOST:  # handed to the dying one; the scheduler would try again
            outcome = (await desk.run(desk.workload("quick")))[0]
        assert outcome.kind is OutcomeKind.SUCCESS
        assert alive(pid)
        desk.executor.cancel(running.token, "")
        assert (await desk.outcome(running)).reason == "cancelled"


async def test_kill_of_the_worker_ends_all_it_forked(open_desk: OpenDesk) -> None:
    async with open_desk(BODY, kill_grace_s=0.5) as desk:
        _, pid, parent = await start(desk, "waits")
        worker = desk.processes[0]
        zygote = zygote_of(worker)
        os.kill(worker.pid, signal.SIGKILL)
        for one in (pid, parent, zygote):
            await gone(one)
        await desk.until(lambda: not desk.executor.workers())
        assert desk.executor.free_slots() == 0
        assert desk.outcomes == {}
        await desk.connected(desk.start_worker())
        assert (await desk.run(desk.workload("quick")))[0].kind is OutcomeKind.SUCCESS


async def test_tasks_survive_the_daemon_and_are_reported_to_the_next(
    open_desk: OpenDesk, tmp_path: Path, monkeypatch
) -> None:
    word = tmp_path / "word"
    os.mkfifo(word)
    monkeypatch.setenv("WORD", str(word))
    async with open_desk(BODY) as desk:
        before, pid, _ = await start(desk, "waits_for_word")
        desk.auto_answer = False
        unanswered = desk.workload("quick")
        desk.executor.submit([unanswered])
        await desk.started(unanswered)
        desk.auto_ack = False
        unacknowledged = desk.workload("quick")
        desk.auto_answer = True
        desk.executor.starts.discard(unanswered.token)  # seen by the old daemon, never answered
        await desk.run(unacknowledged)

        old = desk.processes[0]
        old.cut_lifeline()
        await desk.kill_daemon()
        desk.auto_ack = True
        desk.outcomes.clear()
        desk.starts.clear()
        async with trio.open_nursery() as nursery:
            await nursery.start(desk.daemon)
            new = desk.start_worker()
            await desk.connected(old)
            await desk.connected(new)
            infos = {one.pid: one for one in desk.executor.workers()}
            assert infos[old.pid].draining
            assert before.token in infos[old.pid].running
            assert not infos[new.pid].draining
            assert (await desk.outcome(unanswered)).kind is OutcomeKind.SUCCESS
            assert (await desk.outcome(unacknowledged)).kind is OutcomeKind.SUCCESS
            assert before.token not in desk.starts  # it had its answer
            assert alive(pid)
            word.write_text("go on")
            assert (await desk.outcome(before)).result == '"go on"'
            assert await old.ended() == 0
            (outcome,) = await desk.run(desk.workload("quick"))
            assert outcome.kind is OutcomeKind.SUCCESS
            nursery.cancel_scope.cancel()


async def test_without_a_daemon_for_too_long_tasks_are_killed_and_spooled(open_desk: OpenDesk, tmp_path: Path) -> None:
    async with open_desk(BODY, orphan_grace_s=0.3, kill_grace_s=0.3) as desk:
        workload, pid, _ = await start(desk, "waits")
        worker = desk.processes[0]
        worker.cut_lifeline()
        await desk.kill_daemon()
        assert await worker.ended() == 0
        assert not alive(pid)
        async with trio.open_nursery() as nursery:
            await nursery.start(desk.daemon)
            await desk.connected(desk.start_worker())
            outcome = await desk.outcome(workload)
            assert (outcome.kind, outcome.reason) == (OutcomeKind.LOST, "shutdown")
            assert outcome.message == "no daemon came back within 0.3 s"
            nursery.cancel_scope.cancel()


async def test_an_idle_worker_leaves_with_its_daemon(open_desk: OpenDesk) -> None:
    async with open_desk(BODY) as desk:
        worker = desk.processes[0]
        worker.cut_lifeline()
        await desk.kill_daemon()
        assert await worker.ended() == 0


async def test_a_worker_of_its_own_standing_waits_for_its_daemon(open_desk: OpenDesk) -> None:
    async with open_desk(BODY, worker=False) as desk:
        await desk.kill_daemon()
        worker = desk.start_worker(lifeline=False, orphan_grace_s=0)
        async with trio.open_nursery() as nursery:
            await nursery.start(desk.daemon)
            await desk.connected(worker)
            (outcome,) = await desk.run(desk.workload("quick"))
            assert outcome.kind is OutcomeKind.SUCCESS
            nursery.cancel_scope.cancel()


async def test_a_worker_of_its_own_standing_keeps_its_tasks_over_a_restart_of_the_daemon(open_desk: OpenDesk) -> None:
    async with open_desk(BODY, worker=False) as desk:
        worker = desk.start_worker(lifeline=False)
        await desk.connected(worker)
        workload, pid, _ = await start(desk, "waits")
        desk.executor.drain(0)
        assert desk.executor.free_slots() == 0
        await desk.kill_daemon()
        async with trio.open_nursery() as nursery:
            await nursery.start(desk.daemon)
            await desk.connected(worker)
            (info,) = desk.executor.workers()
            assert info.running == (workload.token,)
            assert not info.draining
            assert alive(pid)
            desk.executor.cancel(workload.token, "")
            assert (await desk.outcome(workload)).reason == "cancelled"
            os.kill(worker.pid, signal.SIGTERM)
            assert await worker.ended() == 0
            nursery.cancel_scope.cancel()


async def test_a_thousand_short_tasks_leave_no_zombie(open_desk: OpenDesk) -> None:
    async with open_desk(BODY, slots=50) as desk:
        outcomes: list[Outcome] = []
        for _ in range(10):
            outcomes += await desk.run(*[desk.workload("quick") for _ in range(100)])
        assert {outcome.kind for outcome in outcomes} == {OutcomeKind.SUCCESS}
        assert len({outcome.token for outcome in outcomes}) == 1000
        worker = psutil.Process(desk.processes[0].pid)
        with trio.fail_after(LIMIT_S):  # the last ones are buried after their report, spares leave within seconds
            # zygote, warm parent, its spare process; what the worker had open to the others it closes after their end
            while len(worker.children(recursive=True)) > 3 or worker.num_fds() >= 40:
                await trio.sleep(0.05)
        zombies = [one for one in worker.children(recursive=True) if one.status() == psutil.STATUS_ZOMBIE]
        assert zombies == []


async def test_a_flood_of_output_is_cut_and_costs_no_memory(open_desk: OpenDesk) -> None:
    async with open_desk(BODY, log_limit_mb=1) as desk:
        workload, lines = desk.workload("floods"), desk.workload("floods_lines")
        worker = psutil.Process(desk.processes[0].pid)
        before = worker.memory_info().rss
        outcomes = await desk.run(workload, lines)
        assert [outcome.kind for outcome in outcomes] == [OutcomeKind.SUCCESS] * 2
        for one in (workload, lines):
            log = desk.log(one)
            assert len(log) < 1024 * 1024 + 200
            assert log.rstrip().endswith(
                "[asyncsched: the log has reached its limit of 1048576 bytes; the rest is dropped]"
            )
        assert worker.memory_info().rss - before < 20 * 1024 * 1024


async def test_the_outcome_does_not_depend_on_the_log(open_desk: OpenDesk, tmp_path: Path) -> None:
    async with open_desk(BODY) as desk:
        blocked = tmp_path / "not_a_directory"
        blocked.touch()
        (outcome,) = await desk.run(desk.workload("floods", log_path=str(blocked / "x" / "a.log")))
        assert outcome.kind is OutcomeKind.SUCCESS


async def test_a_worker_as_a_supervised_child_ends_cleanly(open_desk: OpenDesk, tmp_path: Path) -> None:
    async with open_desk(BODY, worker=False) as desk:
        spec = worker_spec(socket_path=tmp_path / "worker.sock", spool_dir=tmp_path / "spool", slots=3)
        async with open_child(spec) as child:
            await desk.until(lambda: desk.executor.free_slots() == 3)
            (outcome,) = await desk.run(desk.workload("quick"))
            assert outcome.kind is OutcomeKind.SUCCESS
            (zygote,) = psutil.Process(child.pid).children()
        assert child.returncode == 0
        await gone(zygote.pid)
