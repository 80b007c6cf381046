"""DAG files that do not import, or do more than that, hurt nobody but their own tasks."""

import os

import psutil
import pytest

from scheduler.model import OutcomeKind, StartAnswer
from tests.executors.desk import OpenDesk, gone

GOOD = """
with DAG("d"):
    @task
    def quick(): return 1
    quick()
"""


@pytest.mark.parametrize(
    ("body", "message", "logged"),
    [
        ("1 / 0", "the DAG file does not import: ZeroDivisionError: division by zero", "1 / 0"),
        ("def broken(:", "the DAG file does not import: SyntaxError: invalid syntax", "def broken(:"),
        ("import no_such_module", "the DAG file does not import: ModuleNotFoundError", "import no_such_module"),
        ("print('hello'); sys.exit(3)", "the DAG file does not import: SystemExit: 3", "hello"),
        ("os._exit(5)", "the DAG file does not import: importing it ended the process: status 5", ""),
        (
            "import ctypes; ctypes.string_at(0)",
            "the DAG file does not import: importing it ended the process: killed by SIGSEGV",
            "",
        ),
        (
            "os.write(1, b'y' * 1_000_000); print('the end', flush=True); 1 / 0",
            "the DAG file does not import: ZeroDivisionError: division by zero",
            "the end",
        ),
    ],
)
async def test_a_file_that_does_not_import_fails_its_attempts_and_no_others(
    open_desk: OpenDesk, body: str, message: str, logged: str
) -> None:
    async with open_desk() as desk:
        good = desk.write(GOOD, name="good.py")
        bad = desk.write(body + "\n", name="bad.py")
        broken = [desk.workload("quick", source=bad) for _ in range(3)]
        outcomes = await desk.run(*broken, desk.workload("quick", source=good))
        assert outcomes[-1].kind is OutcomeKind.SUCCESS
        for workload, outcome in zip(broken, outcomes[:-1], strict=True):
            assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILED, "import")
            assert outcome.message.startswith(message)
            assert workload.token in desk.starts  # a failure, so it was started first
            assert logged in desk.log(workload)
            assert message in desk.log(workload)
            assert "executors/" not in desk.log(workload)
            assert len(desk.log(workload)) < 100_000


async def test_a_refused_start_of_a_broken_file_is_no_failure(open_desk: OpenDesk) -> None:
    async with open_desk("1 / 0") as desk:
        desk.auto_answer = False
        workload = desk.workload("quick")
        desk.executor.submit([workload])
        await desk.started(workload)
        desk.executor.answer([StartAnswer(token=workload.token, accepted=False, reason="revoked")])
        desk.executor.starts.discard(workload.token)
        await desk.until(lambda: desk.executor.free_slots() == 8)
        assert desk.outcomes == {}


async def test_a_file_that_is_repaired_is_imported_anew(open_desk: OpenDesk) -> None:
    async with open_desk() as desk:
        source = desk.write("1 / 0")
        assert (await desk.run(desk.workload("quick")))[0].reason == "import"
        desk.write(GOOD)
        assert (await desk.run(desk.workload("quick")))[0].kind is OutcomeKind.SUCCESS
        assert (await desk.run(desk.workload("quick", source=source)))[0].reason == "import"


async def test_a_pinned_copy_that_was_changed_does_not_run(open_desk: OpenDesk) -> None:
    async with open_desk(GOOD) as desk:
        with open(desk.source.path, "a") as copy:
            copy.write("# changed\n")
        (outcome,) = await desk.run(desk.workload("quick"))
        assert outcome.reason == "import"
        assert "is not the text that was scheduled" in outcome.message


async def test_threads_left_by_an_import_do_not_endanger_the_tasks(open_desk: OpenDesk) -> None:
    body = """
import threading
lock = threading.Lock()
def hold():
    while True:
        with lock:
            time.sleep(0.001)
threading.Thread(target=hold, daemon=True).start()
os.chdir("/")
os.environ["CHANGED"] = "yes"
with DAG("d"):
    @task
    def uses_the_lock():
        with lock:
            return [threading.active_count(), os.environ["CHANGED"]]
    uses_the_lock()
"""
    async with open_desk(body) as desk:
        outcomes = await desk.run(*[desk.workload("uses_the_lock") for _ in range(4)])
        # Each imported the file itself, so the thread lives in each.
        assert [outcome.result for outcome in outcomes] == ['[2,"yes"]'] * 4


async def test_a_cold_import_that_fails_says_so(open_desk: OpenDesk, tmp_path) -> None:
    body = f"""
import threading
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
if os.path.exists({str(tmp_path / "imported")!r}):
    raise RuntimeError("only once")
open({str(tmp_path / "imported")!r}, "w").close()
"""
    async with open_desk(body) as desk:
        workload = desk.workload("quick")
        (outcome,) = await desk.run(workload)
        assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILED, "import")
        assert outcome.message == "the DAG file does not import: RuntimeError: only once"
        assert "only once" in desk.log(workload)
        assert workload.token in desk.starts


async def test_hints_warm_parents_and_the_least_used_leave(open_desk: OpenDesk) -> None:
    async with open_desk(warm_parents=2) as desk:
        body = GOOD + "tell('imported', __file__[-4], os.getpid())\n"
        sources = [desk.write(body, name=f"{name}.py") for name in "abc"]
        desk.executor.warm([(one.file, one.path, one.sha256) for one in sources[:2]])
        pids = {}
        for _ in range(2):
            _, name, pid = await desk.told()
            pids[name] = int(pid)
        assert sorted(pids) == ["a", "b"]
        await desk.run(desk.workload("quick", source=sources[0]))
        assert desk._lines == b""  # it was warm
        desk.executor.warm([(sources[0].file, sources[0].path, sources[0].sha256)])
        await desk.run(desk.workload("quick", source=sources[2]))
        await gone(pids["b"])
        assert psutil.pid_exists(pids["a"])


async def test_tasks_do_not_inherit_what_is_not_theirs(open_desk: OpenDesk) -> None:
    body = """
with DAG("d"):
    @task
    def looks():
        paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return [[os.readlink(path) for path in paths if os.path.lexists(path)], "NURSERIES_LIFELINE" in os.environ]
    looks()
"""
    import json

    async with open_desk(body) as desk:
        outcomes = await desk.run(*[desk.workload("looks") for _ in range(3)])
        for outcome in outcomes:
            fds, lifeline = json.loads(outcome.result)
            kinds = sorted(name.partition(":")[0] for name in fds if not name.startswith("/proc/"))
            assert kinds == ["/dev/null", "pipe", "pipe", "socket"]
            assert not lifeline
    assert os.getpid()
