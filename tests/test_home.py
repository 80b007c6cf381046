"""The home directory: found, made, locked; sockets always at a path the kernel takes."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.home import SYSTEM_HOME, Home, HomeError, HomeInUse, default_home


def test_the_variable_names_the_home():
    assert default_home({"ASYNCSCHED_HOME": "/x/y", "STATE_DIRECTORY": "/z"}) == Path("/x/y")


def test_systemd_names_the_home():
    assert default_home({"STATE_DIRECTORY": "/var/lib/private/a:/other"}) == Path("/var/lib/private/a")


def test_root_has_the_system_home(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_home({"XDG_STATE_HOME": "/s", "HOME": "/root"}) == SYSTEM_HOME


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_STATE_HOME": "/s", "HOME": "/h"}, "/s/asyncsched"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/asyncsched"),
        ({"HOME": "/h"}, "/h/.local/state/asyncsched"),
    ],
)
def test_a_user_has_a_state_directory(monkeypatch, environ, expected):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_home(environ) == Path(expected)


def test_a_relative_home_does_not_follow_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = Home(Path("h"))
    monkeypatch.chdir("/")
    assert home.path == tmp_path / "h"


def test_the_directories_are_private_whatever_the_umask(tmp_path):
    home = Home(tmp_path / "a" / "home")
    before = os.umask(0o777)
    try:
        os.umask(0o077)
        home.ensure({})
    finally:
        os.umask(before)
    assert home.path.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)
    assert home.run.stat().st_mode & 0o777 == 0o750
    for directory in (home.postgres, home.logs, home.sources, home.worker):
        assert directory.is_dir()
        assert directory.stat().st_mode & 0o066 == 0


def test_ensure_twice_changes_nothing(tmp_path):
    home = Home(tmp_path / "home")
    home.ensure({})
    home.logs.chmod(0o750)
    home.ensure({})
    assert home.logs.stat().st_mode & 0o777 == 0o750


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "home").write_text("")
    with pytest.raises(HomeError, match="is not a directory"):
        Home(tmp_path / "home").ensure({})


def test_a_socket_path_is_never_too_long(tmp_path, monkeypatch):
    runtime = tmp_path / "r"
    runtime.mkdir(mode=0o700)
    deep = tmp_path / ("d" * 100) / "home"
    home = Home(deep)
    home.ensure({"XDG_RUNTIME_DIR": str(runtime)})
    try:
        assert home.run != deep / "run"
        assert (deep / "run").is_symlink()
        assert len(os.fsencode(home.run / "postgres" / ".s.PGSQL.5432")) <= 107
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(home.control_socket))
        # A client that has only the home's path finds it, too.
        assert Home(deep).control_socket.is_socket()
    finally:
        for entry in home.run.iterdir():
            entry.unlink()
        home.run.rmdir()


def test_a_short_home_keeps_its_sockets_inside():
    home = Home(Path("/srv/h"))
    assert home.control_socket == Path("/srv/h/run/control.sock")
    assert home.worker_socket == Path("/srv/h/run/worker.sock")


def test_systemd_provides_the_runtime_directory(tmp_path):
    runtime = tmp_path / "run-asyncsched"
    runtime.mkdir(mode=0o750)
    home = Home(tmp_path / "home")
    home.ensure({})
    assert home.run == home.path / "run"
    home.ensure({"STATE_DIRECTORY": str(home.path), "RUNTIME_DIRECTORY": str(runtime)})
    assert home.run == runtime
    # Started by hand later, without systemd: back inside.
    home.ensure({})
    assert home.run == home.path / "run"
    assert home.run.is_dir()


def test_a_run_directory_laid_by_somebody_else_is_refused(tmp_path):
    runtime = tmp_path / "planted"
    runtime.mkdir()
    runtime.chmod(0o777)
    home = Home(tmp_path / "home")
    with pytest.raises(HomeError, match="not this user's own"):
        home.ensure({"STATE_DIRECTORY": str(home.path), "RUNTIME_DIRECTORY": str(runtime)})


HOLD = """
import sys
from scheduler.home import Home
with Home(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    return holder


def test_two_daemons_never_share_a_home(tmp_path):
    with hold(tmp_path / "home") as holder:
        with (
            pytest.raises(HomeInUse, match=f"process {holder.pid}") as caught,
            Home(tmp_path / "home").lock(),
        ):
            pass
        assert caught.value.pid == holder.pid
        holder.stdin.close()
        assert holder.wait() == 0
    with Home(tmp_path / "home").lock():
        assert (tmp_path / "home" / "lock").read_text() == f"{os.getpid()}\n"


def test_a_killed_daemon_leaves_no_lock(tmp_path):
    with hold(tmp_path / "home") as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with Home(tmp_path / "home").lock():
        pass


def test_a_child_does_not_inherit_the_lock(tmp_path):
    home = Home(tmp_path / "home")
    with home.lock():
        child = subprocess.Popen(["sleep", "60"])
    try:
        with home.lock():
            pass
    finally:
        child.kill()
        child.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own a directory as somebody else")
def test_the_home_of_another_user_is_refused(tmp_path):
    (tmp_path / "home").mkdir()
    os.chown(tmp_path / "home", 65534, 65534)
    with pytest.raises(HomeError, match="belongs to uid 65534"):
        Home(tmp_path / "home").ensure({})
