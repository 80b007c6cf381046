"""The embedded server as the daemon sees it: made once, durable, closed to others, gone when it should be."""

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import trio

from nurseries.processes import Budget
from scheduler.home import Home
from scheduler.postgres import PostgresError, PostgresInUse, embedded
from tests.postgres.seen import postmaster, psql, servers

is_root = os.geteuid() == 0


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def data(home, major=18):
    return home.postgres / str(major)


async def asked(dsn, statement, **how):
    return await trio.to_thread.run_sync(lambda: psql(dsn, statement, **how))


async def test_what_was_written_is_there_after_a_stop(home):
    heard = []
    async with embedded(home, on_status=heard.append) as dsn:
        await asked(dsn, "CREATE TABLE t AS SELECT 42 AS answer")
        assert data(home).stat().st_mode & 0o077 == 0
    assert heard == ["starting PostgreSQL", "making the PostgreSQL data directory"]
    assert not servers(data(home))
    assert not (data(home) / "postmaster.pid").exists()
    heard.clear()
    async with embedded(home, on_status=heard.append) as dsn:
        assert await asked(dsn, "SELECT answer FROM t") == "42"
    assert heard == ["starting PostgreSQL"]


async def test_the_address_is_one_that_the_driver_of_the_store_takes(home):
    from sqlalchemy import make_url
    from sqlalchemy.dialects import registry

    async with embedded(home) as dsn:
        url = make_url(dsn)
        _, arguments = registry.load("postgresql.asyncpg")().create_connect_args(url)
        assert arguments["host"] == str(home.run / "postgres")
        assert (arguments["user"], arguments["database"]) == ("asyncsched", "asyncsched")


async def test_nobody_can_reach_it_over_the_network(home):
    async with embedded(home) as dsn:
        assert await asked(dsn, "SHOW listen_addresses") == ""
        for pid in servers(data(home)):
            assert [each for each in psutil.Process(pid).net_connections("inet") if each.status == "LISTEN"] == []


async def test_the_daemon_is_no_superuser(home):
    async with embedded(home) as dsn:
        assert await asked(dsn, "SELECT usesuper FROM pg_user WHERE usename = current_user") == "f"
        await asked(dsn, "CREATE TABLE mine (); SET deadlock_timeout = '100ms'")
        # For administration the same user of the machine may be more.
        assert await asked(dsn, "SELECT usesuper FROM pg_user WHERE usename = current_user", role="postgres") == "t"


@pytest.mark.skipif(not is_root, reason="needs root to be somebody else")
async def test_another_user_of_the_machine_is_not_let_in(home):
    async with embedded(home) as dsn:
        # Even with all directories open: it is the kernel's word on the client's uid that counts.
        for directory in [home.postgres / "socket", home.run, *home.run.parents]:
            if directory.is_relative_to("/tmp") and directory != Path("/tmp"):
                directory.chmod(0o755)
        for role in ("asyncsched", "postgres", "nobody"):
            with pytest.raises(subprocess.CalledProcessError) as refused:
                await asked(dsn, "SELECT 1", role=role, as_user="nobody")
            assert "Peer authentication failed" in refused.value.stderr


@pytest.mark.skipif(not is_root, reason="needs root")
async def test_as_root_the_server_is_somebody_else_and_no_directory_is_opened_for_him(home):
    home.path.parent.chmod(0o700)
    async with embedded(home) as dsn:
        uids = {uid for pid in servers(data(home)) for uid in psutil.Process(pid).uids()}
        assert uids
        assert 0 not in uids
        assert data(home).stat().st_uid in uids
        assert await asked(dsn, "SELECT 1") == "1"
    assert home.path.parent.stat().st_mode & 0o777 == 0o700
    # What root writes at each start does not lie where the server's user could put a link.
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf", "server.log"):
        assert (home.postgres / name).stat().st_uid == 0


async def test_settings_of_the_user_hold_except_where_commits_would_be_lost(home):
    home.ensure({})
    local = home.postgres / "local.conf"
    local.write_text("work_mem = '7MB'\nfsync = off\nlisten_addresses = '*'\n")
    local.chmod(0o644)
    async with embedded(home) as dsn:
        shown = {}
        for name in ("work_mem", "fsync", "full_page_writes", "synchronous_commit", "listen_addresses"):
            shown[name] = await asked(dsn, f"SHOW {name}")
    assert shown == {
        "work_mem": "7MB",
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "listen_addresses": "",
    }


async def test_the_environment_does_not_configure_the_server(home, monkeypatch, tmp_path):
    monkeypatch.setenv("PGDATA", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("PGPORT", "5999")
    monkeypatch.setenv("PGOPTIONS", "-c fsync=off")
    async with embedded(home) as dsn:
        monkeypatch.delenv("PGPORT")
        monkeypatch.delenv("PGOPTIONS")
        assert await asked(dsn, "SELECT 1") == "1"
    assert not (tmp_path / "elsewhere").exists()


def remove_short_run(home):
    """A home with a long path has its sockets outside of the test's own directory."""
    if home.run != home.path / "run":
        (home.run / "postgres").unlink()
        home.run.rmdir()


async def test_a_home_with_a_very_long_path_works(tmp_path):
    home = Home(tmp_path / ("deep" * 20) / ("deeper" * 20))
    async with embedded(home) as dsn:
        assert await asked(dsn, "SELECT 1") == "1"
    remove_short_run(home)


async def test_a_home_with_hostile_characters_works(tmp_path):
    home = Home(tmp_path / "a b'c\"d%e?f&g#h=ü\\")
    async with embedded(home) as dsn:
        from sqlalchemy import make_url

        assert make_url(dsn).query["host"] == str(home.run / "postgres")
        assert await asked(dsn, "SELECT 1") == "1"
    remove_short_run(home)


async def test_a_killed_server_comes_back_with_every_commit(home):
    heard = []
    async with embedded(home, on_status=heard.append) as dsn:
        await asked(dsn, "CREATE TABLE t (n int)")
        for n in range(3):
            await asked(dsn, f"INSERT INTO t VALUES ({n})")
            heard.clear()
            os.kill(postmaster(data(home)), signal.SIGKILL)
            with trio.fail_after(20):
                while "PostgreSQL is back" not in heard:
                    await trio.sleep(0.01)
            assert await asked(dsn, "SELECT count(*) FROM t") == str(n + 1)
        assert heard == ["PostgreSQL died, starting it again", "PostgreSQL is back"]


async def test_a_killed_keeper_costs_no_more_than_a_restart(home):
    heard = []
    async with embedded(home, on_status=heard.append) as dsn:
        psutil.Process(postmaster(data(home))).parent().kill()
        with trio.fail_after(20):
            while "PostgreSQL is back" not in heard:
                await trio.sleep(0.01)
        assert await asked(dsn, "SELECT 1") == "1"


async def test_a_server_that_does_not_stay_up_ends_the_block_with_its_own_words(home):
    home.ensure({})
    local = home.postgres / "local.conf"
    local.write_text("shared_buffers = lots\n")
    local.chmod(0o644)
    with pytest.raises(PostgresError, match=r'does not stay up: .*"shared_buffers"'):
        async with embedded(home, budget=Budget(restarts=1, backoff_max_s=0.01)):
            pytest.fail("there is no server")


async def test_an_error_of_the_block_comes_out_as_it_is(home):
    class Mine(Exception):
        pass

    with pytest.raises(Mine) as caught:
        async with embedded(home):
            raise Mine from ValueError("why")
    assert isinstance(caught.value.__cause__, ValueError)
    assert not servers(data(home))


async def test_a_cancelled_block_leaves_nothing_behind(home):
    with trio.CancelScope() as scope:
        async with embedded(home):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not servers(data(home))
    assert not (data(home) / "postmaster.pid").exists()


@pytest.mark.parametrize("moment_s", [0.0, 0.02, 0.1, 0.3, 0.5, 0.7])
async def test_a_cancel_during_the_start_leaves_nothing_that_disturbs_the_next(home, moment_s):
    with trio.move_on_after(moment_s):
        async with embedded(home):
            pass
    assert not list(home.postgres.glob(".init-*"))
    async with embedded(home) as dsn:
        assert await asked(dsn, "SELECT 1") == "1"


async def test_two_daemons_never_share_a_server(home):
    async with embedded(home) as dsn:
        with pytest.raises(PostgresInUse, match=f"in use by process {os.getpid()}"):
            async with embedded(home):
                pytest.fail("there were two")
        assert await asked(dsn, "SELECT 1") == "1"


async def test_the_log_is_bounded(home, monkeypatch):
    from scheduler.postgres import server as module

    monkeypatch.setattr(module, "_LOG_LIMIT_BYTES", 10)
    monkeypatch.setattr(module, "_LOG_CHECK_S", 0.01)
    log = home.postgres / "server.log"
    async with embedded(home) as dsn:
        with trio.fail_after(10):
            while not log.with_suffix(".log.1").exists() or log.stat().st_size:
                await trio.sleep(0.01)
        with pytest.raises(subprocess.CalledProcessError):
            await asked(dsn, "SELECT nonsense")
        with trio.fail_after(10):
            while b"nonsense" not in log.with_suffix(".log.1").read_bytes():
                await trio.sleep(0.01)


async def test_an_idle_server_is_small(home):
    async with embedded(home) as dsn:
        await asked(dsn, "SELECT 1")
        pss = 0
        for pid in servers(data(home)):
            pss += psutil.Process(pid).memory_full_info().pss
        assert pss < 40 * 1024 * 1024


SYSTEM = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)


@pytest.mark.skipif(not SYSTEM, reason="no PostgreSQL of the distribution here")
async def test_programs_of_the_distribution_work_too(home):
    async with embedded(home, bindir=SYSTEM[0]) as dsn:
        assert (await asked(dsn, "SHOW server_version")).split(".")[0] == SYSTEM[0].parent.name
        assert await asked(dsn, "SHOW server_encoding") == "UTF8"
        assert await asked(dsn, "SHOW data_checksums") == "on"
    if SYSTEM[0].parent.name != "18":
        with pytest.raises(PostgresError, match=f"were made by PostgreSQL {SYSTEM[0].parent.name}"):
            async with embedded(home):
                pytest.fail("the files cannot be read")
