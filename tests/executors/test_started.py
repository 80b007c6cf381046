"""Attempts whose start was committed with their admission: nobody asks, and they run at one worker or nowhere."""

import os
import signal
from typing import Any

import pytest
import trio
from attrs import evolve

from scheduler.model import OutcomeKind, Workload
from tests.executors.desk import Desk, OpenDesk, WorkerProcess, alive
from tests.executors.test_local import Office, office, workload

__all__ = ["office"]

BODY = """
with DAG("d"):
    @task
    def first(): return 20
    @task
    def second(number): return number + 1
    second(first())

    @task
    def waits():
        tell("running", os.getpid(), os.getppid())
        time.sleep(600)
    waits()

    @task
    def kills_itself():
        os.kill(os.getpid(), 9)
    kills_itself()
"""


def worker_id(desk: Desk, process: WorkerProcess) -> str:
    return next(one.worker_id for one in desk.executor.workers() if one.pid == process.pid)


def started(desk: Desk, task_id: str, *, inputs: dict[str, Any] | None = None, **changes: Any) -> Workload:
    where = changes.pop("worker", None) or worker_id(desk, desk.processes[0])
    return desk.workload(task_id, inputs={} if inputs is None else inputs, worker=where, **changes)


async def test_it_runs_with_its_inputs_and_nothing_is_asked(open_desk: OpenDesk) -> None:
    async with open_desk(BODY) as desk:
        for _ in range(3):  # forked for it, and taken from the spares
            one = started(desk, "second", inputs={"first": 41})
            (outcome,) = await desk.run(one)
            assert (outcome.kind, outcome.result, outcome.exit_code) == (OutcomeKind.SUCCESS, "42", 0)
            assert "success after" in desk.log(one)
        assert desk.starts == {}
        assert len(desk.executor.starts) == 0
        assert desk.executor.free_slots() == 8


async def test_it_fails_like_any_other(open_desk: OpenDesk) -> None:
    async with open_desk(BODY) as desk:
        (outcome,) = await desk.run(started(desk, "kills_itself"))
        assert (outcome.kind, outcome.reason, outcome.exit_code) == (OutcomeKind.FAILED, "signal", -9)
        desk.write("1 / 0\n", name="broken.py")
        (outcome,) = await desk.run(started(desk, "first"))
        assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILED, "import")
        assert desk.starts == {}


async def test_it_is_cancelled_and_timed_out_like_any_other(open_desk: OpenDesk) -> None:
    async with open_desk(BODY) as desk:
        one = started(desk, "waits")
        desk.executor.submit([one])
        await desk.told()
        desk.executor.cancel(one.token, "")
        assert (await desk.outcome(one)).reason == "cancelled"
        (outcome,) = await desk.run(started(desk, "waits", execution_timeout=0.2))
        assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILED, "timeout")


async def test_its_parent_dies_and_it_is_lost(open_desk: OpenDesk) -> None:
    async with open_desk(BODY) as desk:
        one = started(desk, "waits")
        desk.executor.submit([one])
        _, pid, parent = await desk.told()
        os.kill(int(parent), signal.SIGKILL)
        outcome = await desk.outcome(one)
        assert (outcome.kind, outcome.reason) == (OutcomeKind.LOST, "worker")
        assert not alive(int(pid))


async def test_it_goes_to_its_own_worker_and_no_other(open_desk: OpenDesk) -> None:
    async with open_desk(BODY, slots=1) as desk:
        await desk.connected(desk.start_worker(slots=4))
        first, second = (worker_id(desk, process) for process in desk.processes)
        assert [(one.worker_id, one.free) for one in desk.executor.berths()] == [(second, 4), (first, 1)]
        many = [started(desk, "waits", worker=first) for _ in range(3)]  # more than it has slots for
        desk.executor.submit(many)
        for _ in many:
            await desk.told()
        assert [(one.worker_id, one.free) for one in desk.executor.berths()] == [(second, 4)]
        assert {token for one in desk.executor.workers() if one.worker_id == first for token in one.running} == {
            one.token for one in many
        }
        assert all(desk.executor.holds(one.token) for one in many)
        for one in many:
            desk.executor.cancel(one.token, "")
        for one in many:
            await desk.outcome(one)


async def test_a_worker_that_has_left_is_known_to_have_got_nothing(open_desk: OpenDesk) -> None:
    async with open_desk(BODY) as desk:
        one = started(desk, "first")
        desk.processes[0].popen.send_signal(signal.SIGKILL)
        await desk.until(lambda: not desk.executor.workers())
        (outcome,) = await desk.run(one)
        assert (outcome.kind, outcome.reason) == (OutcomeKind.LOST, "worker")
        assert not desk.executor.holds(one.token)
        assert desk.executor.berths() == []


async def test_a_worker_that_leaves_takes_no_started_attempt(open_desk: OpenDesk) -> None:
    async with open_desk(BODY) as desk:
        keeps_it_up, late = started(desk, "waits"), started(desk, "first")
        desk.executor.submit([keeps_it_up])
        await desk.told()
        desk.executor.drain(600)
        assert desk.executor.berths() == []
        (outcome,) = await desk.run(late)
        assert (outcome.kind, outcome.reason) == (OutcomeKind.LOST, "shutdown")
        desk.executor.cancel(keeps_it_up.token, "")
        await desk.outcome(keeps_it_up)


async def test_after_a_restart_of_the_daemon_it_is_not_asked_for_and_reported(open_desk: OpenDesk) -> None:
    async with open_desk(BODY, worker=False) as desk:
        worker = desk.start_worker(lifeline=False)
        await desk.connected(worker)
        runs, ends = started(desk, "waits"), started(desk, "first")
        desk.auto_ack = False
        desk.executor.submit([runs])
        await desk.told()
        await desk.run(ends)
        await desk.kill_daemon()
        desk.outcomes.clear()
        async with trio.open_nursery() as nursery:
            await nursery.start(desk.daemon)
            await desk.connected(worker)
            assert desk.executor.holds(runs.token)
            assert desk.executor.holds(ends.token)
            assert (await desk.outcome(ends)).kind is OutcomeKind.SUCCESS
            desk.executor.acknowledge([ends.token])
            desk.executor.cancel(runs.token, "")
            assert (await desk.outcome(runs)).reason == "cancelled"
            assert desk.starts == {}
            nursery.cancel_scope.cancel()


# ---- the daemon's side alone


def given_to(office: Office, tmp_path: Any, worker: str, **changes: Any) -> Workload:
    return evolve(workload(tmp_path), worker=worker, **{"inputs": {}, **changes})


@pytest.mark.parametrize("has", ["running", "ended"])
async def test_what_a_worker_has_never_got_is_lost_when_it_calls_again(office: Office, tmp_path: Any, has: str) -> None:
    executor = office.executor
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.serve)
        peer = await office.call()
        await office.until("worker_changed")
        kept, lost = given_to(office, tmp_path, "w1"), given_to(office, tmp_path, "w1")
        executor.submit([kept, lost])
        await peer.stream.aclose()
        await office.until("worker_changed")
        assert len(executor.outcomes) == 0  # nobody knows yet what it got
        again = await office.call(**{has: [kept.token]})
        await office.until("outcome_reported")
        (outcome,) = executor.outcomes.peek(9)
        assert (outcome.token, outcome.kind, outcome.reason) == (lost.token, OutcomeKind.LOST, "worker")
        executor.outcomes.remove([outcome])
        await again.say(type="report", outcomes=[{"token": kept.token, "kind": "success"}])
        await office.until("outcome_reported")
        assert [one.token for one in executor.outcomes.peek(9)] == [kept.token]
        executor.outcomes.remove(executor.outcomes.peek(9))
        await again.stream.aclose()
        await office.until("worker_changed")
        await office.call()  # a third time: everything is settled
        await office.until("worker_changed")
        assert len(executor.outcomes) == 0
        nursery.cancel_scope.cancel()


async def test_it_is_sent_over_the_newest_connection_of_its_worker(office: Office, tmp_path: Any) -> None:
    executor = office.executor
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.serve)
        await office.call()
        await office.until("worker_changed")
        new = await office.call()
        await office.until("worker_changed")
        assert [one.worker_id for one in executor.berths()] == ["w1"]
        one = given_to(office, tmp_path, "w1")
        executor.submit([one])
        assert (await new.hear())["workloads"][0]["token"] == one.token
        nursery.cancel_scope.cancel()


async def test_inputs_that_fit_into_no_frame_fail_it(office: Office, tmp_path: Any) -> None:
    executor = office.executor
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.serve)
        await office.call()
        await office.until("worker_changed")
        executor.submit([given_to(office, tmp_path, "w1", inputs={"up": "x" * (17 * 1024 * 1024)})])
        (outcome,) = executor.outcomes.peek(9)
        assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILED, "cancelled")
        assert executor.free_slots() == 2
        nursery.cancel_scope.cancel()
