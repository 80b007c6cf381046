"""The promises about child processes, N6 and N15 to N20: real processes, real signals."""

import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from nurseries.backoff import Budget
from nurseries.errors import BudgetExhausted, ChildFailed
from nurseries.processes import ChildSpec, Completed, keep_running, open_child, run_to_end

ROOT = Path(__file__).parents[2]
LIFELINES = pytest.mark.parametrize("lifeline", ["kept", "held"])

# A child with one process in its group and one that has left group and session; all three say their numbers.
FAMILY = """
sh -c 'echo $$; exec sleep 1000' &
setsid sh -c 'setsid sh -c "echo \\$\\$; exec sleep 1000" & exec true' &
echo $$
wait
"""
STUBBORN = "trap '' TERM; echo $$; while true; do sleep 1000; done"


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def is_gone(pid: int, *, within_s: float = 10.0) -> bool:
    """Whether the process ends in time. A zombie that nobody reaps is gone, too."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], within_s)[0])
    finally:
        os.close(pidfd)


class Said:
    """What a child writes, line by line."""

    def __init__(self) -> None:
        read, self.write_fd = os.pipe()
        self._read = trio.lowlevel.FdStream(read)
        self._text = ""

    def started(self) -> None:
        os.close(self.write_fd)

    async def line(self) -> str:
        """The next line. Fails when there is none any more."""
        while "\n" not in self._text:
            chunk = await self._read.receive_some(4096)
            assert chunk, f"the end came before a whole line: {self._text!r}"
            self._text += chunk.decode()
        line, _, self._text = self._text.partition("\n")
        return line

    async def numbers(self, count: int) -> list[int]:
        return [int(await self.line()) for _ in range(count)]

    async def end(self) -> str:
        """Whatever comes until nobody holds the writing end any more."""
        while chunk := await self._read.receive_some(4096):
            self._text += chunk.decode()
        return self._text


@asynccontextmanager
async def listening() -> AsyncIterator[Said]:
    said = Said()
    try:
        yield said
    finally:
        with trio.CancelScope(shield=True):
            await said._read.aclose()


@asynccontextmanager
async def parent(program: str) -> AsyncIterator[tuple["subprocess.Popen[bytes]", Said]]:
    """Another Python that runs `async def main()` under trio, in the role of the daemon that dies."""
    head = (
        "import os, signal, sys, trio\nfrom nurseries.processes import *\n"
        "def sh(script): return ['/bin/sh', '-c', script]\n"
    )
    async with listening() as said:
        process = subprocess.Popen(
            [sys.executable, "-c", f"{head}{program}\ntrio.run(main)"],
            stdout=said.write_fd,
            cwd=ROOT,
            start_new_session=True,
        )
        said.started()
        try:
            yield process, said
        finally:
            process.kill()
            process.wait()


class TestKept:
    @pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "_exit", "SIGSTOP and SIGKILL"])
    async def test_n15_the_whole_family_dies_with_the_parent(self, how: str) -> None:
        program = f"""
signal.signal(signal.SIGUSR1, lambda *_: os._exit(3))
async def main():
    async with open_child(ChildSpec(name="family", argv=sh({FAMILY!r}))):
        await trio.sleep_forever()
"""
        async with parent(program) as (process, said):
            family = await said.numbers(3)
            assert all(Path(f"/proc/{pid}").exists() for pid in family)
            for name in how.split(" and "):
                process.send_signal(signal.SIGUSR1 if name == "_exit" else getattr(signal, name))
            process.wait()
            assert [pid for pid in family if not is_gone(pid)] == []
            assert await said.end() == "", "nobody holds its output"

    async def test_n15_a_child_that_ignores_its_stop_signal_dies_too(self) -> None:
        program = f"""
async def main():
    async with open_child(ChildSpec(name="stubborn", argv=sh({STUBBORN!r}), stop_grace=0.2)):
        await trio.sleep_forever()
"""
        async with parent(program) as (process, said):
            (child,) = await said.numbers(1)
            process.kill()
            assert is_gone(child)
            await said.end()

    async def test_n15_a_child_gets_its_stop_signal_and_time_to_end_in_order(self) -> None:
        script = "trap 'echo ending; exit 0' INT; echo ready; while true; do sleep 0.01; done"
        program = f"""
async def main():
    spec = ChildSpec(name="orderly", argv=sh({script!r}), stop_signal=signal.SIGINT, stop_grace=60)
    async with open_child(spec):
        await trio.sleep_forever()
"""
        async with parent(program) as (process, said):
            assert await said.line() == "ready"
            process.kill()
            assert await said.end() == "ending\n"

    async def test_n15_a_parent_killed_while_it_starts_children_leaves_none(self) -> None:
        program = """
async def main():
    async def one():
        async with open_child(ChildSpec(name="many", argv=["sleep", "1000"])):
            await trio.sleep_forever()
    async with trio.open_nursery() as nursery:
        print("ready", flush=True)
        for _ in range(20):
            nursery.start_soon(one)
"""
        for delay in (0, 0.01, 0.03, 0.06, 0.1):
            async with parent(program) as (process, said):
                await said.line()
                await trio.sleep(delay)  # not to wait for something, but to hit somewhere
                process.kill()
                # Every keeper and child inherited the writing end: its end means that all of them are gone.
                assert await said.end() == ""

    async def test_n15_if_the_keeper_is_killed_the_parent_kills_the_group(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with listening() as said:
            spec = ChildSpec(name="orphan", argv=sh("sleep 1000 & echo $!; wait"), stdout=said.write_fd)
            async with open_child(spec) as child:
                said.started()
                (grandchild,) = await said.numbers(1)
                (keeper,) = (pid for pid in _children_of(os.getpid()) if "keeper.py" in _command(pid))
                os.kill(keeper, signal.SIGKILL)
                assert await child.wait() == -signal.SIGKILL
                assert is_gone(child.pid)
                assert is_gone(grandchild)
        assert "its keeper was killed" in caplog.text

    async def test_n15_a_keeper_that_is_asked_to_end_ends_its_child(self) -> None:
        async with open_child(ChildSpec(name="asked", argv=["sleep", "1000"])) as child:
            (keeper,) = (pid for pid in _children_of(os.getpid()) if "keeper.py" in _command(pid))
            os.kill(keeper, signal.SIGTERM)
            assert await child.wait() == -signal.SIGTERM

    async def test_n16_a_keeper_that_hangs_does_not_save_its_child(
        self, monkeypatch: pytest.MonkeyPatch, no_new_fds: None
    ) -> None:
        monkeypatch.setattr("nurseries.child._KILL_LIMIT_S", 0.1)
        spec = ChildSpec(name="hanging", argv=["sleep", "1000"], stop_grace=0.1)
        async with open_child(spec) as child:
            (keeper,) = (pid for pid in _children_of(os.getpid()) if "keeper.py" in _command(pid))
            os.kill(keeper, signal.SIGSTOP)
        assert child.returncode == -signal.SIGKILL
        assert is_gone(child.pid)

    async def test_n15_what_the_child_leaves_behind_is_dead_before_its_end_is_told(self) -> None:
        async with listening() as said:
            script = "setsid sh -c 'echo $$; exec sleep 1000' & sh -c 'echo $$; exec sleep 1000' & wait"
            async with open_child(ChildSpec(name="messy", argv=sh(script), stdout=said.write_fd)) as child:
                said.started()
                left = await said.numbers(2)
                child.send_signal(signal.SIGKILL)
                assert await child.wait() == -signal.SIGKILL
                assert [pid for pid in left if Path(f"/proc/{pid}").exists()] == []

    async def test_what_the_spec_says_is_what_the_child_gets(self, tmp_path: Path) -> None:
        read, write = os.pipe()
        output = tmp_path / "output"
        with output.open("wb") as out:
            spec = ChildSpec(
                name="precise",
                argv=sh(f"pwd; umask; nice; echo $ONLY; echo to-fd > /dev/fd/{write}; env | wc -l; cat"),
                env={"ONLY": "this one", "PATH": os.environ["PATH"]},
                cwd=tmp_path,
                umask=0o27,
                nice=3,
                pass_fds=(write,),
                stdout=out.fileno(),
            )
            async with open_child(spec) as child:
                assert await child.wait() == 0
                assert "ended with 0" in repr(child)
        os.close(write)
        assert os.read(read, 100) == b"to-fd\n"
        os.close(read)
        lines = output.read_text().split("\n")
        assert lines[:4] == [str(tmp_path), "0027", str(os.nice(0) + 3), "this one"]
        assert int(lines[4]) <= 4, "nothing but what was given, and what the shell adds"

    async def test_a_program_that_cannot_be_started_says_why(self, tmp_path: Path, no_new_fds: None) -> None:
        plain = tmp_path / "plain"
        plain.write_text("not a program")
        for argv, cwd, error in (
            ([tmp_path / "none"], None, FileNotFoundError),
            (["no-such-program-in-path"], None, FileNotFoundError),
            ([plain], None, PermissionError),
            (["true"], tmp_path / "none", FileNotFoundError),
        ):
            with pytest.raises(error):
                await _start_and_stop(ChildSpec(name="x", argv=argv, cwd=cwd))
        with pytest.raises(LookupError):
            await _start_and_stop(ChildSpec(name="x", argv=["true"], user="no-such-user"))

    async def test_a_keeper_that_cannot_start_is_not_the_programs_fault(
        self, monkeypatch: pytest.MonkeyPatch, no_new_fds: None
    ) -> None:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(ChildFailed, match="its keeper ended with 1"):
            await _start_and_stop(ChildSpec(name="x", argv=["true"]))

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    @LIFELINES
    async def test_a_child_can_be_somebody_else(self, lifeline: str) -> None:
        async with listening() as said:
            spec = ChildSpec(
                name="nobody",
                argv=sh("id -un; id -Gn; exec sleep 1000"),
                user="nobody",
                stdout=said.write_fd,
                lifeline=lifeline,  # type: ignore[arg-type]
                stop_grace=0.1,
            )
            async with open_child(spec) as child:
                said.started()
                assert (await said.line(), await said.line()) == ("nobody", "nogroup")
            assert child.returncode == -signal.SIGTERM


class TestBothKinds:
    @LIFELINES
    async def test_n16_stop_kills_what_ignores_its_stop_signal(self, lifeline: str, no_new_fds: None) -> None:
        script = f"trap '' TERM; sh -c {STUBBORN!r} & echo $$; wait; wait"
        async with listening() as said:
            spec = _spec(script, lifeline, said, stop_grace=0.1)
            async with open_child(spec) as child:
                said.started()
                family = await said.numbers(2)
                assert child.pid in family
                await child.stop()
                assert child.returncode == -signal.SIGKILL
                assert [pid for pid in family if not is_gone(pid)] == []
            await child.stop()  # once more changes nothing

    @LIFELINES
    async def test_n16_the_way_out_is_the_same_under_a_cancel(self, lifeline: str, no_new_fds: None) -> None:
        async with listening() as said:
            with trio.CancelScope() as scope:
                async with open_child(_spec(STUBBORN, lifeline, said, stop_grace=0.1)) as child:
                    said.started()
                    await said.numbers(1)
                    scope.cancel()
                    await trio.sleep_forever()
            assert scope.cancelled_caught
            assert child.returncode == -signal.SIGKILL

    @LIFELINES
    async def test_n16_a_stopped_child_is_killed_too(self, lifeline: str) -> None:
        async with listening() as said:
            async with open_child(_spec("echo $$; exec sleep 1000", lifeline, said, stop_grace=0.1)) as child:
                said.started()
                await said.numbers(1)
                child.send_signal(signal.SIGSTOP)
                while Path(f"/proc/{child.pid}/stat").read_text().split()[2] != "T":
                    await trio.sleep(0.001)
            assert child.returncode == -signal.SIGKILL

    @LIFELINES
    async def test_n16_a_shorter_or_longer_grace_may_be_given(self, lifeline: str) -> None:
        script = "trap 'sleep 0.3; exit 5' TERM; echo $$; while true; do sleep 0.01; done"
        async with listening() as said:
            async with open_child(_spec(script, lifeline, said, stop_grace=0.01)) as child:
                said.started()
                await said.numbers(1)
                await child.stop(grace=30)
            assert child.returncode == 5

    @LIFELINES
    async def test_an_exit_code_reaches_everybody_who_waits(self, lifeline: str, no_new_fds: None) -> None:
        codes: list[int] = []
        async with listening() as said:
            spec = _spec("read line; exit 7", lifeline, said, stdin=subprocess.DEVNULL)
            async with open_child(spec) as child:
                said.started()

                async def wait() -> None:
                    codes.append(await child.wait())

                async with trio.open_nursery() as nursery:
                    for _ in range(3):
                        nursery.start_soon(wait)
                child.send_signal(signal.SIGTERM)
                child.kill()
                assert await child.wait() == 7
        assert codes == [7, 7, 7]

    @LIFELINES
    async def test_a_cancelled_wait_leaves_the_child_alone(self, lifeline: str) -> None:
        async with listening() as said, open_child(_spec("exec sleep 1000", lifeline, said)) as child:
            said.started()
            with trio.move_on_after(0.02) as scope:
                await child.wait()
            assert scope.cancelled_caught
            assert child.returncode is None
            assert "running" in repr(child)
            child.send_signal(signal.SIGUSR1)
            assert await child.wait() == -signal.SIGUSR1

    @LIFELINES
    async def test_n6_nothing_is_left_whenever_the_cancel_comes(self, lifeline: str, no_new_fds: None) -> None:
        for milliseconds in range(0, 40, 2):
            with trio.move_on_after(milliseconds / 1000):
                async with open_child(ChildSpec(name="x", argv=["sleep", "1000"], lifeline=lifeline)):  # type: ignore[arg-type]
                    await trio.sleep_forever()
            assert _children_of(os.getpid()) == []

    async def test_n17_a_healthy_child_outlives_the_thread_that_forked_it(self) -> None:
        """With the control beside it: the same child with a parent-death signal is killed by an idle thread's end."""
        trap = "import ctypes, os; ctypes.CDLL(None).prctl(1, 9); os.execvp('sleep', ['sleep', '1000'])"
        trapped = await trio.lowlevel.open_process([sys.executable, "-c", trap])
        async with (
            open_child(ChildSpec(name="kept", argv=["sleep", "1000"])) as kept,
            open_child(ChildSpec(name="held", argv=["sleep", "1000"], lifeline="held")) as held,
        ):
            with trio.fail_after(30):
                assert await trapped.wait() == -signal.SIGKILL
            await trio.sleep(1)  # and a little longer, for the other threads
            for child in (kept, held):
                assert Path(f"/proc/{child.pid}/stat").read_text().split()[2] == "S"
                with trio.move_on_after(0.01) as scope:
                    await child.wait()
                assert scope.cancelled_caught


class TestHeld:
    async def test_n19_the_child_sees_the_end_of_the_lifeline_although_siblings_live(self) -> None:
        watcher = """
import os, subprocess, trio
from nurseries.lifeline import wait_for_parent_death, watch_lifeline
async def main():
    fd = watch_lifeline()
    assert fd == watch_lifeline() and not os.get_inheritable(fd) and "NURSERIES_LIFELINE" not in os.environ
    print("watching", flush=True)
    await wait_for_parent_death()
    print("parent is gone", flush=True)
trio.run(main)
"""
        program = f"""
async def main():
    held = ChildSpec(name="watcher", argv=[sys.executable, "-c", {watcher!r}], lifeline="held")
    async with open_child(held):
        sibling = ChildSpec(name="sibling", argv=["sleep", "1000"], lifeline="held", stdout=DEVNULL)
        async with open_child(sibling) as one:
            async with open_child(ChildSpec(name="kept", argv=["sleep", "1000"], stdout=DEVNULL)):
                print(one.pid, flush=True)
                await trio.sleep_forever()
"""
        async with parent(program) as (process, said):
            lines = sorted([await said.line(), await said.line()])
            assert lines[1] == "watching"
            sibling = int(lines[0])
            process.kill()
            try:
                assert await said.end() == "parent is gone\n"
                assert Path(f"/proc/{sibling}/stat").read_text().split()[2] == "S", "the sibling promised nothing"
            finally:
                os.kill(sibling, signal.SIGKILL)

    async def test_n19_without_a_lifeline_nobody_is_told_that_the_parent_is_gone(self) -> None:
        program = """
import trio
from nurseries.lifeline import wait_for_parent_death, watch_lifeline
async def main():
    assert watch_lifeline() is None
    with trio.move_on_after(0.01) as scope:
        await wait_for_parent_death()
    print(scope.cancelled_caught)
trio.run(main)
"""
        done = await run_to_end([sys.executable, "-c", program], timeout=30, cwd=ROOT)
        assert done.stdout == b"True\n"

    async def test_a_program_that_cannot_be_started_says_why(self, no_new_fds: None) -> None:
        with pytest.raises(FileNotFoundError):
            await _start_and_stop(ChildSpec(name="x", argv=["/no/such/program"], lifeline="held"))
        with pytest.raises(ValueError, match="memory"):
            ChildSpec(name="x", argv=["true"], lifeline="held", memory_limit=1)

    async def test_niceness_is_relative_to_ours(self) -> None:
        async with open_child(ChildSpec(name="x", argv=["sleep", "1000"], lifeline="held", nice=2)) as child:
            assert os.getpriority(os.PRIO_PROCESS, child.pid) == os.nice(0) + 2


class TestRunToEnd:
    async def test_input_output_and_exit_code(self, no_new_fds: None) -> None:
        program = "import sys; data = sys.stdin.buffer.read(); print(len(data)); sys.stderr.write('e'); sys.exit(3)"
        done = await run_to_end([sys.executable, "-c", program], stdin=b"x" * 1_000_000, timeout=30)
        assert done == Completed(returncode=3, stdout=b"1000000\n", stderr=b"e")

    async def test_input_that_nobody_reads_is_no_problem(self, no_new_fds: None) -> None:
        done = await run_to_end(["true"], stdin=b"x" * 1_000_000, timeout=30)
        assert done == Completed(returncode=0, stdout=b"", stderr=b"")

    async def test_no_input_is_an_empty_one(self) -> None:
        assert await run_to_end(["cat"], timeout=30) == Completed(returncode=0, stdout=b"", stderr=b"")

    async def test_much_output_within_the_limit_is_complete(self) -> None:
        done = await run_to_end(sh("head -c 3000000 /dev/zero; head -c 2000000 /dev/zero >&2"), timeout=30)
        assert (len(done.stdout), len(done.stderr), done.overflowed) == (3_000_000, 2_000_000, False)

    async def test_n18_the_time_is_bounded_and_the_whole_tree_dies(self, no_new_fds: None) -> None:
        start = trio.current_time()
        done = await run_to_end(sh(f"{FAMILY}"), timeout=0.5)
        assert done.timed_out
        assert done.returncode < 0
        family = [int(number) for number in done.stdout.split()]
        assert len(family) == 3
        assert [pid for pid in family if Path(f"/proc/{pid}").exists()] == []
        assert trio.current_time() - start < 10

    async def test_n18_the_output_is_bounded(self, no_new_fds: None) -> None:
        for redirect in ("", ">&2"):
            done = await run_to_end(sh(f"exec yes {redirect}"), timeout=30, output_limit=1000)
            assert done.overflowed
            assert not done.timed_out
            assert done.returncode == -signal.SIGKILL
            assert len(done.stdout + done.stderr) == 1000

    async def test_n18_the_memory_is_bounded(self) -> None:
        greedy = [sys.executable, "-c", "bytearray(600 * 2**20)"]
        assert (await run_to_end(greedy, timeout=30)).returncode == 0
        done = await run_to_end(greedy, timeout=30, memory_limit=300 * 2**20)
        assert done.returncode == 1
        assert b"MemoryError" in done.stderr

    async def test_n18_a_program_that_closes_its_output_is_still_waited_for(self) -> None:
        done = await run_to_end(sh("echo said; exec >&- 2>&-; sleep 0.05; exit 4"), timeout=30)
        assert done == Completed(returncode=4, stdout=b"said\n", stderr=b"")

    async def test_n18_what_the_program_leaves_behind_does_not_hold_its_output(self) -> None:
        start = trio.current_time()
        done = await run_to_end(sh("setsid sleep 1000 & sleep 1000 & echo done"), timeout=30)
        assert done == Completed(returncode=0, stdout=b"done\n", stderr=b"")
        assert trio.current_time() - start < 10

    async def test_n6_a_cancel_at_any_moment_leaves_nothing(self, no_new_fds: None) -> None:
        for milliseconds in range(0, 40, 2):
            with trio.move_on_after(milliseconds / 1000):
                await run_to_end(sh("sleep 1000 & setsid sleep 1000 & wait"), timeout=30, stdin=b"x" * 100_000)
            assert _children_of(os.getpid()) == []

    async def test_it_raises_what_the_start_raises(self, no_new_fds: None) -> None:
        with pytest.raises(FileNotFoundError, match="/no/such/program"):
            await run_to_end(["/no/such/program"], timeout=1, stdin=b"x")

    async def test_many_run_side_by_side(self, no_new_fds: None) -> None:
        results: list[bytes] = []

        async def one(number: int) -> None:
            results.append((await run_to_end(["echo", str(number)], timeout=30)).stdout)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(one, number)
        assert sorted(results) == [f"{number}\n".encode() for number in range(10)]


class TestKeepRunning:
    async def test_n20_what_ends_is_started_again_until_the_budget_is_spent(
        self, caplog: pytest.LogCaptureFixture, no_new_fds: None
    ) -> None:
        caplog.set_level(logging.WARNING)
        started: list[int] = []
        ended: list[int] = []
        with pytest.raises(BudgetExhausted, match="flaky failed 3 times within 60 s, most recently: exit code 9"):
            await keep_running(
                ChildSpec(name="flaky", argv=sh("exit 9")),
                budget=Budget(restarts=2, backoff_min_s=0.01),
                on_start=lambda child: started.append(child.pid),
                on_exit=lambda child, code: ended.append(code),
            )
        assert len(set(started)) == 3
        assert ended == [9, 9, 9]
        assert caplog.text.count("flaky ended with exit code 9; starting it again in 0.0 s") == 2

    async def test_n20_the_spec_may_be_made_anew_for_each_start(self, tmp_path: Path) -> None:
        made = 0

        def make() -> ChildSpec:
            nonlocal made
            made += 1
            return ChildSpec(name="made", argv=["kill", "-9", "0"] if made == 1 else ["/no/such/program"])

        with pytest.raises(BudgetExhausted) as caught:
            await keep_running(make, budget=Budget(restarts=1, backoff_min_s=0.0))
        assert made == 2
        assert isinstance(caught.value.__cause__, FileNotFoundError)

    async def test_n20_a_first_start_that_fails_is_told_at_once(self) -> None:
        with pytest.raises(FileNotFoundError):
            await keep_running(ChildSpec(name="x", argv=["/no/such/program"]))

    @LIFELINES
    async def test_n20_it_is_started_with_its_first_child_and_ends_it_on_cancel(
        self, lifeline: str, no_new_fds: None
    ) -> None:
        async with trio.open_nursery() as nursery:
            spec = ChildSpec(name="x", argv=["sleep", "1000"], lifeline=lifeline)  # type: ignore[arg-type]
            child = await nursery.start(keep_running, spec)
            assert child.returncode is None
            nursery.cancel_scope.cancel()
        assert child.returncode == -signal.SIGTERM
        assert _children_of(os.getpid()) == []


def _spec(script: str, lifeline: str, said: Said, **more: object) -> ChildSpec:
    make: Callable[..., ChildSpec] = ChildSpec
    return make(name="x", argv=sh(script), lifeline=lifeline, stdout=said.write_fd, **more)


async def _start_and_stop(spec: ChildSpec) -> None:
    async with open_child(spec):
        pass


def _children_of(pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(name))
    return found


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
