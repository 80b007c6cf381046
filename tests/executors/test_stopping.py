"""Attempts that are told to end, do end, with everything they have started."""

import os
import signal

import trio

from scheduler.model import OutcomeKind, StartAnswer
from tests.executors.desk import OpenDesk, alive, gone

BODY = """
with DAG("d"):
    @task
    def waits():
        try:
            tell("running", os.getpid())
            time.sleep(600)
        finally:
            tell("cleaned")
    waits()

    @task
    async def waits_async():
        import trio
        try:
            tell("running", os.getpid())
            await trio.sleep_forever()
        finally:
            tell("cleaned")
    waits_async()

    @task
    def ignores_sigterm():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        tell("running", os.getpid())
        time.sleep(600)
    ignores_sigterm()

    @task
    def swallows_everything():
        told = False
        while True:
            try:
                if not told:
                    tell("swallows", os.getpid())
                    told = True
                time.sleep(600)
            except BaseException:
                pass
    swallows_everything()

    @task.bash
    def bash_ignores_sigterm():
        return "trap '' TERM; echo running $$ > " + FIFO + "; sleep 600; sleep 600"
    bash_ignores_sigterm()

    @task
    def leaves_children():
        child = subprocess.Popen(["sleep", "600"])
        deaf = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 600; done"])
        tell("running", child.pid, deaf.pid)
        return "done"
    leaves_children()

    @task
    def leaves_escapees():
        # a double fork with setsid, without and with an exec in between, and one that closes what it inherited
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.write(writer, b"%d " % os.getpid())
                time.sleep(600)
            os._exit(0)
        os.wait()
        quiet = subprocess.run(
            ["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $!"], stdout=subprocess.PIPE)
        tell("running", int(os.read(reader, 100)), int(quiet.stdout))
        return "done"
    leaves_escapees()

    @task
    def quick():
        tell("user code ran")
        return 1
    quick()
"""


def body(desk_folder: object) -> str:
    return f"FIFO = {str(desk_folder)!r}\n" + BODY


async def test_a_cancelled_task_unwinds_and_is_reported_as_cancelled(open_desk: OpenDesk, tmp_path) -> None:
    async with open_desk(body(tmp_path / "fifo")) as desk:
        for task_id in ("waits", "waits_async"):
            workload = desk.workload(task_id)
            desk.executor.submit([workload])
            assert (await desk.told())[0] == "running"
            desk.executor.cancel(workload.token, "by ann")
            outcome = await desk.outcome(workload)
            assert (outcome.kind, outcome.reason, outcome.message) == (
                OutcomeKind.FAILED,
                "cancelled",
                "cancelled: by ann",
            )
            assert await desk.told() == ["cleaned"]
            assert "cancelled: by ann" in desk.log(workload)


async def test_a_task_that_ignores_sigterm_is_killed_after_the_grace(open_desk: OpenDesk, tmp_path) -> None:
    async with open_desk(body(tmp_path / "fifo"), kill_grace_s=0.3) as desk:
        for task_id in ("ignores_sigterm", "swallows_everything", "bash_ignores_sigterm"):
            workload = desk.workload(task_id)
            desk.executor.submit([workload])
            while (said := await desk.told())[0] == "swallows" != task_id[:8]:
                pass  # it may say so twice
            pid = int(said[1])
            desk.executor.cancel(workload.token, "")
            outcome = await desk.outcome(workload)
            assert (outcome.reason, outcome.message) == ("cancelled", "cancelled")
            assert outcome.exit_code == -signal.SIGKILL
            assert not alive(pid)


async def test_a_timeout_that_user_code_swallows_is_enforced_from_outside(open_desk: OpenDesk, tmp_path) -> None:
    async with open_desk(body(tmp_path / "fifo"), kill_grace_s=0.1) as desk:
        workload = desk.workload("swallows_everything", execution_timeout=0.1)
        (outcome,) = await desk.run(workload)
        assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILED, "timeout")
        assert outcome.message == "timed out after 0.1 s"
        assert outcome.exit_code == -signal.SIGKILL


async def test_children_left_in_the_group_are_dead_before_the_report(open_desk: OpenDesk, tmp_path) -> None:
    async with open_desk(body(tmp_path / "fifo")) as desk:
        (outcome,) = await desk.run(desk.workload("leaves_children"))
        assert outcome.kind is OutcomeKind.SUCCESS
        _, *pids = await desk.told()
        for pid in map(int, pids):
            await gone(pid)


async def test_processes_that_left_the_group_are_found_and_killed(open_desk: OpenDesk, tmp_path) -> None:
    async with open_desk(body(tmp_path / "fifo")) as desk:
        other = desk.workload("waits")  # so that they must be told from those of a running attempt
        desk.executor.submit([other])
        running = int((await desk.told())[1])
        (outcome,) = await desk.run(desk.workload("leaves_escapees"))
        assert outcome.kind is OutcomeKind.SUCCESS
        _, *pids = await desk.told()
        assert [pid for pid in map(int, pids) if alive(pid)] == []
        assert alive(running)
        desk.executor.cancel(other.token, "")
        await desk.outcome(other)


async def test_a_refused_start_never_runs_user_code(open_desk: OpenDesk, tmp_path) -> None:
    async with open_desk(body(tmp_path / "fifo")) as desk:
        desk.auto_answer = False
        refused, accepted = desk.workload("quick"), desk.workload("quick")
        desk.executor.submit([refused])
        request = await desk.started(refused)
        assert alive(request.pid)
        desk.executor.starts.remove([request])
        desk.executor.answer([StartAnswer(token=refused.token, accepted=False, reason="revoked")])
        await gone(request.pid)
        await desk.until(lambda: desk.executor.free_slots() == 8)
        desk.auto_answer = True
        await desk.run(accepted)
        assert await desk.told() == ["user", "code", "ran"]  # once
        assert refused.token not in desk.outcomes
        assert desk._lines == b""


async def test_an_attempt_cancelled_before_its_start_never_runs(open_desk: OpenDesk, tmp_path) -> None:
    async with open_desk(body(tmp_path / "fifo")) as desk:
        desk.auto_answer = False
        workload = desk.workload("quick")
        desk.executor.submit([workload])
        await desk.started(workload)
        desk.executor.cancel(workload.token, "run cancelled")
        assert (await desk.outcome(workload)).reason == "cancelled"
        # An answer that comes too late changes nothing.
        desk.executor.answer([StartAnswer(token=workload.token, accepted=True)])
        desk.executor.starts.discard(workload.token)
        desk.auto_answer = True
        await desk.run(desk.workload("quick"))
        assert await desk.told() == ["user", "code", "ran"]
        assert desk._lines == b""


async def test_sigterm_lets_tasks_finish_and_a_second_one_stops_them(open_desk: OpenDesk, tmp_path) -> None:
    async with open_desk(body(tmp_path / "fifo")) as desk:
        workload = desk.workload("waits")
        desk.executor.submit([workload])
        await desk.told()
        worker = desk.processes[0]
        os.kill(worker.pid, signal.SIGTERM)
        await desk.until(lambda: desk.executor.workers()[0].draining)
        assert desk.executor.free_slots() == 0
        assert worker.popen.poll() is None
        os.kill(worker.pid, signal.SIGTERM)
        outcome = await desk.outcome(workload)
        assert (outcome.kind, outcome.reason) == (OutcomeKind.LOST, "shutdown")
        assert await desk.told() == ["cleaned"]
        assert await worker.ended() == 0
        assert not (tmp_path / "spool").exists()


async def test_a_draining_worker_leaves_when_its_last_task_is_acknowledged(open_desk: OpenDesk, tmp_path) -> None:
    async with open_desk(body(tmp_path / "fifo")) as desk:
        desk.auto_ack = False
        workload = desk.workload("quick")
        await desk.run(workload)
        desk.executor.drain(30)
        worker = desk.processes[0]
        await desk.until(lambda: desk.executor.workers()[0].draining)
        assert worker.popen.poll() is None
        desk.executor.acknowledge([workload.token])
        assert await worker.ended() == 0


async def test_an_unacknowledged_outcome_is_spooled_and_reported_by_the_next_worker(
    open_desk: OpenDesk, tmp_path
) -> None:
    async with open_desk(body(tmp_path / "fifo")) as desk:
        desk.auto_ack = False
        workload = desk.workload("quick")
        await desk.run(workload)
        worker = desk.processes[0]
        worker.cut_lifeline()
        await desk.kill_daemon()
        assert await worker.ended() == 0
        assert [path.stem for path in (tmp_path / "spool").iterdir()] == [workload.token]
        async with trio.open_nursery() as nursery:
            await nursery.start(desk.daemon)
            desk.outcomes.clear()
            desk.auto_ack = True
            await desk.connected(desk.start_worker())
            assert (await desk.outcome(workload)).result == "1"
            spool = tmp_path / "spool"
            desk.executor.drain(30)
            assert await desk.processes[-1].ended() == 0
            assert list(spool.iterdir()) == []
            nursery.cancel_scope.cancel()
