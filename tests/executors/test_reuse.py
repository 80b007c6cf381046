"""Attempts that share processes: what they share, what they do not, and that one never suffers for another."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio

from scheduler.model import Isolation, Outcome, OutcomeKind, StartAnswer, Workload
from tests.executors.desk import Desk, OpenDesk, alive, gone

BODY = """
import contextvars, ctypes, logging, threading

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")
count = 0
hoard = []

def note():
    with open(NOTES, "a") as notes:
        notes.write(get_context().run_id + "\\n")

def look():
    umask = os.umask(0)
    os.umask(umask)
    return [
        os.getcwd(), os.environ.get("LEFT"), os.environ.get("HOME"), umask, VARIABLE.get(),
        [str(signal.getsignal(s)) for s in (signal.SIGUSR1, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM)],
        signal.getitimer(signal.ITIMER_REAL)[0] > 0, sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
        [stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)], os.readlink("/proc/self/fd/0"),
    ]

with DAG("d", isolation="reuse"):
    @task
    def counts():
        global count
        count += 1
        return [os.getpid(), count]
    counts()

    @task
    def looks(): return look()
    looks()

    @task
    def makes_a_mess():
        before = look()
        os.chdir("/")
        os.environ["LEFT"] = "behind"
        del os.environ["HOME"]
        os.umask(0o777)
        VARIABLE.set("set")
        for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM):
            signal.signal(number, lambda *_: os._exit(9))
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        subprocess.Popen(["sleep", "600"])  # its end is a signal, when nobody of the attempt listens any more
        signal.setitimer(signal.ITIMER_REAL, 60)
        sys.stdin = None
        sys.stdout.close()
        sys.stderr = open(os.devnull, "w")
        return before
    makes_a_mess()

    @task
    def prints():
        run_id = get_context().run_id
        print("python", run_id)
        logging.getLogger("mine").warning("logging %s", run_id)
        os.system(f"echo shell {run_id}")
        libc = ctypes.CDLL(None)
        libc.printf(b"libc %s\\n", run_id.encode())
        libc.fflush(None)
        return os.getpid()
    prints()

    @task
    def leaves_processes():
        deaf = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 600; done"])
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.write(writer, b"%d " % os.getpid())
                for fd in range(3000):
                    try: os.close(fd)
                    except OSError: pass
                time.sleep(600)
            os._exit(0)
        return [os.getpid(), deaf.pid, int(os.read(reader, 100))]
    leaves_processes()

    @task
    def quick(): note()
    quick()

    @task
    def waits():
        note()
        try:
            tell("running", os.getpid(), get_context().run_id)
            time.sleep(600)
        finally:
            tell("cleaned")
    waits()

    @task
    async def waits_async():
        import trio
        tell("running", os.getpid(), get_context().run_id)
        await trio.sleep_forever()
    waits_async()

    @task
    async def loops():
        import trio
        await trio.sleep(0)
        return [os.getpid(), id(trio.lowlevel.current_trio_token())]
    loops()

    @task
    def meets():
        tell("here", os.getpid())
        while not os.path.exists(NOTES + ".go"):
            time.sleep(0.01)
    meets()

    @task
    def swallows_everything():
        tell("running", os.getpid(), get_context().run_id)
        while True:
            try:
                time.sleep(600)
            except BaseException:
                pass
    swallows_everything()

    @task
    def kills_itself():
        note()
        os.kill(os.getpid(), signal.SIGKILL)
    kills_itself()

    @task
    def naps():
        note()
        time.sleep(random_seconds())
    naps()

    @task
    def eats():
        hoard.append(b"x" * 80_000_000)
        return os.getpid()
    eats()

    @task
    def measures(text): return len(text)
    measures(quick())

    @task
    def floods():
        for _ in range(4000):
            os.write(1, b"x" * 999 + b"\\n")
        tell("flooded")
        while not os.path.exists(NOTES + ".go"):
            time.sleep(0.01)
    floods()

    @task
    def writes_to_our_sockets():
        for name in os.listdir("/proc/self/fd"):
            try:
                if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                    os.write(int(name), b"\\0\\0\\0\\2{}")
            except OSError:
                pass
        time.sleep(600)
    writes_to_our_sockets()

def random_seconds():
    import random
    # Around the time after which what is behind an attempt is taken back, to hit that from both sides.
    return random.choice((0, random.random() * 0.02, 0.009 + random.random() * 0.003))
"""


class Place:
    """A desk whose workloads share processes and have run ids that can be told apart."""

    def __init__(self, desk: Desk, folder: Path) -> None:
        self.desk = desk
        self.notes = folder / "notes"

    def make(self, task_id: str, count: int = 1, **changes: Any) -> list[Workload]:
        known = {"isolation": Isolation.REUSE, "inputs": {}, **changes}
        made = [self.desk.workload(task_id, **known) for _ in range(count)]
        for one in made:
            object.__setattr__(one, "run_id", f"run-{one.token}")
        return made

    async def run(self, task_id: str, **changes: Any) -> Outcome:
        (outcome,) = await self.desk.run(*self.make(task_id, **changes))
        return outcome

    async def value(self, task_id: str, **changes: Any) -> Any:
        import json

        outcome = await self.run(task_id, **changes)
        assert outcome.kind is OutcomeKind.SUCCESS, outcome
        return None if outcome.result is None else json.loads(outcome.result)

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def go(self) -> None:
        Path(f"{self.notes}.go").touch()

    def runners(self) -> list[int]:
        """Children of the warm parents, which are those of the zygote."""
        (zygote,) = psutil.Process(self.desk.processes[0].pid).children()
        return [runner.pid for parent in zygote.children() for runner in parent.children() if alive(runner.pid)]


@pytest.fixture
def open_place(open_desk: OpenDesk, tmp_path: Path) -> Any:
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def open_one(**options: Any) -> Any:
        body = f"NOTES = {str(tmp_path / 'notes')!r}\n" + BODY
        with trio.fail_after(60):
            async with open_desk(body, **options) as desk:
                yield Place(desk, tmp_path)

    return open_one


# ---- what is shared


async def test_one_process_runs_many_attempts_and_keeps_what_is_in_memory(open_place) -> None:
    async with open_place() as place:
        values = [await place.value("counts") for _ in range(5)]
        assert len({pid for pid, _ in values}) == 1
        assert [count for _, count in values] == [1, 2, 3, 4, 5]


async def test_another_version_of_the_file_has_processes_of_its_own(open_place) -> None:
    async with open_place() as place:
        pid, _ = await place.value("counts")
        place.desk.write(f"NOTES = {str(place.notes)!r}\n" + BODY + "\n# changed\n")
        other, count = await place.value("counts")
        assert other != pid
        assert count == 1


async def test_what_an_attempt_changes_about_its_process_is_put_back(open_place) -> None:
    async with open_place() as place:
        pid, _ = await place.value("counts")
        first = await place.value("makes_a_mess")
        assert await place.value("looks") == first
        assert await place.value("counts") == [pid, 2]
        (workload,) = place.make("prints")
        await place.desk.run(workload)
        assert f"python {workload.run_id}" in place.desk.log(workload)


async def test_each_async_attempt_has_an_event_loop_of_its_own(open_place) -> None:
    async with open_place() as place:
        (first, loop), (second, other) = [await place.value("loops") for _ in range(2)]
        assert first == second
        assert loop != other


async def test_everything_an_attempt_writes_is_in_its_own_log(open_place) -> None:
    async with open_place() as place:
        workloads = place.make("prints", 30)
        outcomes = await place.desk.run(*workloads)
        assert len({outcome.result for outcome in outcomes}) < 30
        for one in workloads:
            log = place.desk.log(one)
            for words in ("python", "logging", "shell", "libc"):
                if words != "logging":
                    assert f"{words} {one.run_id}\n" in log
            assert log.count("run-") == 5
            assert log.count(one.run_id) == 5, log  # the line about its start, and those four
            assert "asyncsched: success after" in log


async def test_processes_an_attempt_leaves_are_dead_before_it_is_reported(open_place) -> None:
    async with open_place() as place:
        runner, *left = await place.value("leaves_processes")
        assert [pid for pid in left if alive(pid)] == []
        assert alive(runner)
        assert (await place.value("counts"))[0] == runner


# ---- starts


async def test_an_attempt_that_is_not_started_runs_after_the_answer_only(open_place) -> None:
    async with open_place() as place:
        desk = place.desk
        desk.auto_answer = False
        refused, cancelled, accepted = place.make("quick", 3, inputs=None)
        desk.executor.submit([refused, cancelled, accepted])
        for one in (refused, cancelled, accepted):
            await desk.started(one)
        desk.executor.starts.remove(desk.executor.starts.peek(10))
        desk.executor.answer([StartAnswer(token=refused.token, accepted=False, reason="revoked")])
        desk.executor.cancel(cancelled.token, "by ann")
        assert (await desk.outcome(cancelled)).reason == "cancelled"
        desk.executor.answer([StartAnswer(token=cancelled.token, accepted=True)])
        desk.executor.answer([StartAnswer(token=accepted.token, accepted=True)])
        assert (await desk.outcome(accepted)).kind is OutcomeKind.SUCCESS
        await desk.until(lambda: desk.executor.free_slots() == 8)
        assert place.noted() == [accepted.run_id]
        assert refused.token not in desk.outcomes


async def test_inputs_of_a_megabyte_arrive(open_place) -> None:
    async with open_place() as place:
        assert await place.value("measures", inputs={"quick__1": "x" * 1_000_000}) == 1_000_000
        place.desk.inputs = {"quick__1": "y" * 2_000_000}
        assert await place.value("measures", inputs=None) == 2_000_000


# ---- one attempt never suffers for another


async def test_a_crash_fails_the_attempt_that_crashed_and_no_other(open_place) -> None:
    async with open_place(slots=40) as place:
        workloads = []
        for _ in range(4):
            workloads += [*place.make("quick", 4), *place.make("kills_itself"), *place.make("quick", 3)]
        outcomes = await place.desk.run(*workloads)
        for one, outcome in zip(workloads, outcomes, strict=True):
            if one.task_id == "quick":
                assert outcome.kind is OutcomeKind.SUCCESS, outcome
            else:
                assert (outcome.kind, outcome.reason, outcome.exit_code) == (OutcomeKind.FAILED, "signal", -9)
        assert sorted(place.noted()) == sorted(one.run_id for one in workloads)


@pytest.mark.parametrize("task_id", ["waits", "waits_async"])
async def test_cancelling_ends_the_runner_and_what_was_behind_runs_elsewhere(open_place, task_id: str) -> None:
    async with open_place() as place:
        desk = place.desk
        # As many as there may be runners at first, so that the others can only be behind them.
        held = place.make(task_id, len(os.sched_getaffinity(0)))
        desk.executor.submit(held)
        pids = {}
        for _ in held:
            _, pid, run_id = await desk.told()
            pids[run_id] = int(pid)
        behind = place.make("quick", 6)
        desk.executor.submit(behind)
        desk.executor.cancel(held[0].token, "by ann")
        outcome = await desk.outcome(held[0])
        assert (outcome.kind, outcome.reason, outcome.message) == (OutcomeKind.FAILED, "cancelled", "cancelled: by ann")
        assert [(await desk.outcome(one)).kind for one in behind] == [OutcomeKind.SUCCESS] * 6
        await gone(pids[held[0].run_id])
        assert all(alive(pids[one.run_id]) for one in held[1:])
        for one in held[1:]:
            desk.executor.cancel(one.token, "")
            await desk.outcome(one)
        assert (await place.value("counts"))[1] >= 1


async def test_an_attempt_cancelled_behind_another_never_runs_and_ends_nobody(open_place) -> None:
    async with open_place(kill_grace_s=0.2) as place:
        desk = place.desk
        processors = len(os.sched_getaffinity(0))
        held = place.make("meets", processors)
        behind = place.make("quick", 2 * processors)
        desk.executor.submit([*held, *behind])  # in one frame, as the cancels that follow
        for one in behind:
            desk.executor.cancel(one.token, "not needed")
        outcomes = [await desk.outcome(one) for one in behind]
        place.go()
        assert {(await desk.outcome(one)).kind for one in held} == {OutcomeKind.SUCCESS}
        assert {outcome.reason for outcome in outcomes} == {"cancelled"}
        assert place.noted() == []


async def test_a_runner_that_does_not_come_back_from_a_time_out_is_killed(open_place) -> None:
    async with open_place(kill_grace_s=0.1) as place:
        (workload,) = place.make("swallows_everything", execution_timeout=0.1)
        place.desk.executor.submit([workload])
        _, pid, _ = await place.desk.told()
        outcome = await place.desk.outcome(workload)
        assert (outcome.kind, outcome.reason, outcome.message) == (
            OutcomeKind.FAILED,
            "timeout",
            "timed out after 0.1 s",
        )
        assert outcome.exit_code == -signal.SIGKILL
        assert not alive(int(pid))
        assert (await place.value("counts"))[1] == 1


async def test_a_process_in_which_code_was_interrupted_is_not_used_again(open_place) -> None:
    async with open_place() as place:
        (workload,) = place.make("waits", execution_timeout=0.1)
        place.desk.executor.submit([workload])
        _, pid, _ = await place.desk.told()
        assert (await place.desk.outcome(workload)).reason == "timeout"
        await gone(int(pid))
        assert (await place.value("counts"))[0] != int(pid)


async def test_user_code_that_writes_to_our_sockets_harms_only_itself(open_place) -> None:
    async with open_place(kill_grace_s=0.2) as place:
        workloads = [*place.make("writes_to_our_sockets"), *place.make("quick", 6)]
        outcome, *others = await place.desk.run(*workloads)
        assert outcome.kind is OutcomeKind.FAILED
        assert {one.kind for one in others} == {OutcomeKind.SUCCESS}
        assert len(place.noted()) == 6


async def test_long_attempts_run_side_by_side_as_many_as_there_are(open_place) -> None:
    async with open_place(slots=12) as place:
        workloads = place.make("meets", 12)
        place.desk.executor.submit(workloads)
        pids = {(await place.desk.told())[1] for _ in workloads}  # none of them ends before all have come
        assert len(pids) == 12
        place.go()
        assert {(await place.desk.outcome(one)).kind for one in workloads} == {OutcomeKind.SUCCESS}


async def test_drawn_cancels_and_crashes_hit_what_they_are_meant_for(open_place) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    async with open_place(slots=64, kill_grace_s=5) as place:
        desk = place.desk
        everything: list[Workload] = []
        cancelled = set()
        for _ in range(12):
            batch = [*place.make("naps", chance.randint(1, 12)), *place.make("kills_itself", chance.randint(0, 1))]
            chance.shuffle(batch)
            desk.executor.submit(batch)
            everything += batch
            await trio.sleep(chance.random() * 0.03)
            for one in chance.sample(everything, min(3, len(everything))):
                if one.task_id == "naps":
                    cancelled.add(one.token)
                    desk.executor.cancel(one.token, "drawn")
        for one in everything:
            await desk.outcome(one)
        noted = place.noted()
        assert len(noted) == len(set(noted)), "an attempt ran twice"
        for one in everything:
            (outcome,) = desk.outcomes[one.token]
            if one.task_id == "kills_itself":
                assert (outcome.reason, outcome.exit_code) == ("signal", -9)
            elif outcome.kind is OutcomeKind.SUCCESS:
                assert one.run_id in noted
            else:
                assert (outcome.reason, one.token in cancelled) == ("cancelled", True), outcome


# ---- when something else dies


async def test_death_of_the_parent_loses_what_runs_and_nothing_that_waits(open_place) -> None:
    async with open_place(kill_grace_s=0.5) as place:
        desk = place.desk
        held = place.make("waits", len(os.sched_getaffinity(0)))
        desk.executor.submit(held)
        pids = [int((await desk.told())[1]) for _ in held]
        parent = psutil.Process(pids[0]).ppid()
        os.kill(parent, signal.SIGSTOP)  # so that nobody can be forked for what comes behind
        behind = place.make("quick", 3)
        desk.executor.submit(behind)
        os.kill(parent, signal.SIGKILL)
        assert {((await desk.outcome(one)).kind, (await desk.outcome(one)).reason) for one in held} == {
            (OutcomeKind.LOST, "worker")
        }
        for one in behind:
            outcome = await desk.outcome(one)
            # One for which a runner was being forked has no runner to speak of, and is lost as well.
            assert outcome.kind in (OutcomeKind.SUCCESS, OutcomeKind.LOST)
            assert (one.run_id in place.noted()) == (outcome.kind is OutcomeKind.SUCCESS)
        for pid in pids:
            await gone(pid)


async def test_a_worker_that_is_stopped_ends_what_runs_and_reports_what_does_not(open_place) -> None:
    async with open_place() as place:
        desk = place.desk
        held = place.make("waits", len(os.sched_getaffinity(0)))
        desk.executor.submit(held)
        for _ in held:
            await desk.told()
        worker = desk.processes[0]
        desk.executor.drain(0)
        for one in held:
            outcome = await desk.outcome(one)
            assert (outcome.kind, outcome.reason) == (OutcomeKind.LOST, "shutdown")
        assert await worker.ended() == 0


async def test_a_killed_worker_leaves_no_runner(open_place) -> None:
    async with open_place() as place:
        desk = place.desk
        (workload,) = place.make("waits")
        desk.executor.submit([workload])
        pid = int((await desk.told())[1])
        await place.run("quick")
        runners = place.runners()
        assert pid in runners
        os.kill(desk.processes[0].pid, signal.SIGKILL)
        for one in runners:
            await gone(one)


# ---- imports


async def test_a_file_that_does_not_import_fails_all_attempts(open_desk: OpenDesk) -> None:
    async with open_desk("raise RuntimeError('no such thing')") as desk:
        workloads = [desk.workload("quick", isolation=Isolation.REUSE, inputs={}) for _ in range(6)]
        for outcome in await desk.run(*workloads):
            assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILED, "import")
            assert "RuntimeError: no such thing" in outcome.message
        assert "RuntimeError: no such thing" in desk.log(workloads[-1])


async def test_a_file_that_leaves_threads_is_imported_once_by_each_runner(open_desk: OpenDesk, tmp_path: Path) -> None:
    body = """
import threading
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
imported = 0
with open(IMPORTS, "a") as imports:
    imports.write(f"{os.getpid()}\\n")
with DAG("d", isolation="reuse"):
    @task
    def tells(): return os.getpid()
    tells()
"""
    async with open_desk(f"IMPORTS = {str(tmp_path / 'imports')!r}\n" + body) as desk:
        for _ in range(4):
            (outcome,) = await desk.run(desk.workload("tells", isolation=Isolation.REUSE, inputs={}))
            assert outcome.kind is OutcomeKind.SUCCESS, outcome
        imports = (tmp_path / "imports").read_text().split()
        assert imports.count(outcome.result) == 1
        assert len(imports) == 2  # the parent, before it saw the thread, and the runner


# ---- renewal


async def test_a_runner_is_renewed_after_so_many_attempts(open_place) -> None:
    async with open_place(reuse_attempts=3) as place:
        values = [await place.value("counts") for _ in range(7)]
        assert [count for _, count in values] == [1, 2, 3, 1, 2, 3, 1]
        assert len({pid for pid, _ in values}) == 3


async def test_a_runner_whose_memory_has_grown_is_renewed(open_place) -> None:
    async with open_place(reuse_growth_mb=200) as place:
        pids = [await place.value("eats") for _ in range(4)]
        assert pids[0] == pids[1] == pids[2] != pids[3]


async def test_runners_without_work_leave(open_place) -> None:
    async with open_place(reuse_idle_s=0.2) as place:
        pid, _ = await place.value("counts")
        await gone(pid)
        assert (await place.value("counts"))[1] == 1


async def test_the_log_is_bounded_while_an_attempt_runs(open_place) -> None:
    async with open_place(log_limit_mb=1) as place:
        (workload,) = place.make("floods")
        place.desk.executor.submit([workload])
        assert await place.desk.told() == ["flooded"]
        with trio.fail_after(20):
            while Path(workload.log_path).stat().st_size > 1_100_000:
                await trio.sleep(0.05)
        place.go()
        await place.desk.outcome(workload)
        assert place.desk.log(workload).endswith("the rest is dropped]\n")
        assert Path(workload.log_path).stat().st_size < 1_100_000
