"""Starts that cannot be: each gets its exit code and one sentence that says what to do."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.database import Server
from tests.end_to_end.daemon import Daemon, opened, running

DAG = """
from datetime import timedelta
from scheduler import dag, task

@dag(schedule="@once")
def once():
    @task
    def answer():
        return 42
    answer()
once()
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that has not been started."""
    with opened(tmp_path, {"once.py": DAG}) as daemon:
        yield daemon


def refuses(daemon: Daemon, *more: str, status: int) -> str:
    """Start in vain; return the last sentence."""
    daemon.launch(*more)
    code = daemon.wait()
    assert code == status, daemon.log()
    last = daemon.records[-1]
    assert last["level"] == "error", daemon.log()
    assert "exception" not in last
    assert "Traceback" not in daemon.log()
    return str(last["message"])


@pytest.mark.parametrize(
    ("config", "settings", "key"),
    [
        ("[scheduler]\nparallelism = 'many'\n", {}, "scheduler.parallelism"),
        ("[scheduler]\nparalelism = 3\n", {}, "scheduler.paralelism"),
        ("[loading]\ntimeout_s = -1\n", {}, "loading.timeout_s"),
        ("[nonsense]\nx = 1\n", {}, "nonsense"),
        ("this is not TOML\n", {}, "config.toml"),
        ("[worker]\n", {"ASYNCSCHED_WORKER__SLOTS": "x"}, "worker.slots"),
        ("[worker]\n", {"ASYNCSCHED_NO_SUCH": "x"}, "ASYNCSCHED_NO_SUCH"),
        ('[database]\ndsn = "mysql://somewhere"\n', {}, "database.dsn"),
    ],
)
def test_a_wrong_configuration_is_refused_by_the_name_of_its_key(
    tmp_path: Path, config: str, settings: Mapping[str, str], key: str
) -> None:
    with opened(tmp_path, {}, config=config, settings=settings) as daemon:
        assert key in refuses(daemon, status=78)
        assert not daemon.home.exists(), "nothing was made before the configuration was read"


def test_a_directory_that_is_not_there_is_named(daemon: Daemon) -> None:
    (daemon.dags / "once.py").unlink()
    daemon.dags.rmdir()
    assert str(daemon.dags) in refuses(daemon, status=78)


def test_a_home_in_use_is_refused_by_the_pid_of_its_user(daemon: Daemon) -> None:
    daemon.start()
    second = Daemon(daemon.home, daemon.dags, daemon.arguments)
    said = refuses(second, status=75)
    assert str(daemon.pid) in said
    assert "--home" in said
    assert daemon.ask("status")["ready"] is True


def test_a_home_that_cannot_be_made_is_named(daemon: Daemon) -> None:
    daemon.home.write_text("in the way")
    assert str(daemon.home) in refuses(daemon, status=77)


def test_a_database_that_does_not_exist_is_refused_at_once(daemon: Daemon, server: Server) -> None:
    said = refuses(daemon, "--database", server.dsn("no_such_database"), status=78)
    assert "no_such_database" in said


def test_a_database_that_does_not_answer_is_waited_for_and_named(daemon: Daemon, tmp_path: Path) -> None:
    daemon.settings = {"ASYNCSCHED_DATABASE__DSN": f"postgresql://me:secret@/nobody?host={tmp_path}"}
    daemon.launch()
    assert f"@/nobody?host={tmp_path}" in daemon.hear("waiting for the database")["message"]
    assert "secret" not in daemon.log()
    before = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - before < 10


def test_a_password_in_a_flag_is_refused(daemon: Daemon) -> None:
    said = refuses(daemon, "--database", "postgresql://me:secret@localhost/mine", status=78)
    assert "ASYNCSCHED_DATABASE__DSN" in said
    assert "secret" not in said


@pytest.mark.parametrize("revision", ["9999", "from_the_future"])
def test_a_schema_of_another_version_is_refused_with_the_command_that_helps(
    daemon: Daemon, server: Server, revision: str
) -> None:
    with server.database() as dsn:
        name = dsn.split("?")[0].rpartition("/")[2]
        server.sql(f"UPDATE alembic_version SET version_num = '{revision}'", name)
        said = refuses(daemon, "--database", dsn, status=78)
        assert revision in said
        assert "asyncsched" in said
        checked = daemon.command("db", "check", "--database", dsn)
        assert checked.status == 8
        migrated = daemon.command("db", "migrate", "--database", dsn)
        assert migrated.status == 1
        assert "newer" in migrated.err


def test_an_empty_database_is_filled_by_hand_or_by_the_daemon(daemon: Daemon, server: Server) -> None:
    with server.database(template="template0") as dsn:
        assert daemon.command("db", "check", "--database", dsn).status == 8
        assert daemon.command("db", "migrate", "--database", dsn).status == 0
        assert daemon.command("db", "check", "--database", dsn).status == 0
    with server.database(template="template0") as dsn:
        daemon.start("--database", dsn)
        assert daemon.ask("db.check")["is_current"] is True
        assert daemon.stop() == 0


def test_check_looks_and_leaves(daemon: Daemon, server: Server) -> None:
    with server.database() as dsn:
        daemon.launch("--check", "--database", dsn)
        assert daemon.wait() == 0
    daemon.hear("in order")
    assert not any("ready" in record["message"] for record in daemon.records)


def test_once_runs_what_is_due_and_leaves(daemon: Daemon) -> None:
    daemon.launch("--once")
    assert daemon.wait() == 0
    assert daemon.fact("run finished", dag_id="once")["state"] == "success"
    assert not daemon.processes()
    daemon.launch("--once")  # it was due once in its life
    assert daemon.wait() == 0
    assert sum(record.get("fact") == "run finished" for record in daemon.records) == 1


def test_commands_without_a_daemon_say_how_to_start_one(daemon: Daemon) -> None:
    for words in (["status"], ["dags", "list"], ["trigger", "once"], ["runs", "list", "--json"]):
        ended = daemon.command(*words)
        assert (ended.status, ended.out) == (5, "")
        assert "asyncsched run" in ended.err
        assert str(daemon.home) in ended.err


def test_every_line_on_stderr_is_one_json_object(tmp_path: Path) -> None:
    with running(tmp_path, {"once.py": DAG}) as daemon:
        daemon.fact("run finished", dag_id="once")
        assert daemon.stop() == 0
        odd = [record for record in daemon.records if "time" not in record]
        assert not odd, json.dumps(odd)
