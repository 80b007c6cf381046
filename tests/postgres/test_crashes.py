"""What a daemon that was killed leaves behind, and what the next start makes of it. Real processes, real kills."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import trio

from scheduler.home import Home
from scheduler.postgres import PostgresInUse, embedded, strays
from scheduler.postgres.strays import read_pid_file
from tests.postgres.seen import await_fact, postmaster, psql, servers, wheel_bindir

HOLDER = Path(__file__).with_name("holder.py")
ROOT = HOLDER.parents[2]


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def data(home):
    return home.postgres / "18"


@contextmanager
def daemon(home):
    """A process that runs the embedded server; its lines say how far it is."""
    process = subprocess.Popen(
        [sys.executable, str(HOLDER), str(home.path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def address(process):
    for line in process.stdout:
        if line.startswith("postgresql"):
            return line.strip()
    raise AssertionError("it ended")


def test_a_killed_daemon_leaves_no_server_and_loses_no_commit(home, data):
    with daemon(home) as process:
        dsn = address(process)
        psql(dsn, "CREATE TABLE t AS SELECT 42 AS answer")
        assert servers(data)
    await_fact(lambda: not servers(data))
    with daemon(home) as process:
        assert psql(address(process), "SELECT answer FROM t") == "42"


def test_a_start_right_after_the_kill_waits_for_the_old_server(home, data):
    with daemon(home) as process:
        dsn = address(process)
        psql(dsn, "CREATE TABLE t AS SELECT 42 AS answer")
    with daemon(home) as process:
        assert psql(address(process), "SELECT answer FROM t") == "42"


def keeper_of(data):
    return psutil.Process(postmaster(data)).parent()


def test_a_server_whose_keeper_was_killed_too_is_stopped_by_the_next_start(home, data):
    with daemon(home) as process:
        psql(address(process), "CREATE TABLE t AS SELECT 42 AS answer")
        stray = postmaster(data)
        os.kill(process.pid, signal.SIGSTOP)  # so that it cannot start another one meanwhile
        keeper_of(data).kill()
        process.kill()
        process.wait()
    assert stray in servers(data)
    with daemon(home) as process:
        assert psql(address(process), "SELECT answer FROM t") == "42"
        assert stray not in servers(data)


def test_a_frozen_stray_server_does_not_hold_up_the_start_for_ever(home, data, monkeypatch):
    with daemon(home) as process:
        address(process)
        stray = postmaster(data)
        os.kill(process.pid, signal.SIGSTOP)
        keeper_of(data).kill()
        os.kill(stray, signal.SIGSTOP)
        process.kill()
        process.wait()
    monkeypatch.setattr(strays, "_ESCALATION", ((signal.SIGINT, 0.05), (signal.SIGQUIT, 0.05), (signal.SIGKILL, 5.0)))

    async def main():
        async with embedded(home) as dsn:
            assert await trio.to_thread.run_sync(psql, dsn, "SELECT 1") == "1"
            assert stray not in servers(data)

    trio.run(main)


async def test_somebody_elses_server_on_the_files_is_left_alone(home, data):
    async with embedded(home):
        pass
    owner = data.stat().st_uid
    handle = os.open(home.postgres, os.O_RDONLY)
    foreign = subprocess.Popen(
        [
            wheel_bindir() / "postgres",
            "-D",
            f"/proc/self/fd/{handle}/18",
            "-c",
            "listen_addresses=",
            "-k",
            f"/proc/self/fd/{handle}/socket",
        ],
        user=owner if os.geteuid() == 0 else None,
        group=data.stat().st_gid if os.geteuid() == 0 else None,
        extra_groups=[] if os.geteuid() == 0 else None,
        pass_fds=(handle,),
        cwd="/",
        stderr=subprocess.DEVNULL,
    )
    try:
        await_fact(lambda: (data / "postmaster.pid").exists() and servers(data))
        with pytest.raises(PostgresInUse, match=f"in use by process {foreign.pid}: stop that server") as caught:
            async with embedded(home):
                pytest.fail("two servers on one directory")
        assert caught.value.pid == foreign.pid
        assert foreign.poll() is None
    finally:
        os.close(handle)
        foreign.send_signal(signal.SIGINT)
        foreign.wait()
    async with embedded(home):
        pass


async def test_a_pid_file_that_names_an_innocent_process_is_no_obstacle(home, data):
    async with embedded(home):
        pass
    owner = data.stat()
    innocent = subprocess.Popen(["sleep", "600"], user=owner.st_uid if os.geteuid() == 0 else None)
    try:
        pid_file = data / "postmaster.pid"
        pid_file.write_text(f"{innocent.pid}\n{data}\n1700000000\n5432\n\n\n  1234567         0\nready   \n")
        os.chown(pid_file, owner.st_uid, owner.st_gid)
        pid_file.chmod(0o600)
        async with embedded(home) as dsn:
            assert psql(dsn, "SELECT 1") == "1"
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


@pytest.mark.parametrize("planted", ["fifo", "link", "garbage", "empty", "none"])
def test_a_hostile_pid_file_hangs_and_fools_nobody(tmp_path, planted):
    pid_file = tmp_path / "postmaster.pid"
    if planted == "fifo":
        os.mkfifo(pid_file)
    elif planted == "link":
        (tmp_path / "target").write_text("1\n")
        pid_file.symlink_to(tmp_path / "target")
    elif planted != "none":
        pid_file.write_bytes(b"\xff-1\n" if planted == "garbage" else b"")
    assert read_pid_file(tmp_path) is None


@pytest.mark.parametrize("moment", range(4))
def test_a_daemon_killed_while_it_makes_the_directory_leaves_none_or_a_whole_one(home, data, moment):
    def reached():
        [scratch] = list(home.postgres.glob(".init-*")) or [None]
        if scratch is None:
            return False
        return (
            moment == 0
            or (moment == 1 and (scratch / "base" / "1").is_dir())
            or (moment == 2 and (scratch / "base" / "5").is_dir())
            or (moment == 3 and (scratch / "base" / "16384").exists())
            or (data.exists())
        )

    with daemon(home) as process:
        await_fact(lambda: reached() or data.exists())
        process.kill()
        process.wait()
    with daemon(home) as process:
        assert psql(address(process), "SELECT 1") == "1"
    assert not list(home.postgres.glob(".init-*"))
