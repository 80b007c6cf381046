"""`db`: the user's own database by its address, the embedded one with and without a daemon."""

import os
from pathlib import Path

import pytest

from tests.cli.support import CommandLine, Daemon
from tests.database import Server


def test_an_own_database_is_checked_and_migrated_by_its_address(asyncsched: CommandLine, empty_dsn: str) -> None:
    before = asyncsched("db", "check", "--database", empty_dsn, "--json")
    assert before.status == 8
    assert before.json["current"] is None
    assert "asyncsched db migrate" in before.err
    migrated = asyncsched("db", "migrate", "--database", empty_dsn, "--json")
    assert migrated.status == 0
    assert migrated.json["applied"] == sorted(migrated.json["applied"])
    assert migrated.json["applied"][-1] == before.json["head"]
    after = asyncsched("db", "check", "--database", empty_dsn, "--json")
    assert (after.status, after.json["is_current"]) == (0, True)
    assert asyncsched("db", "migrate", "--database", empty_dsn, "--json").json == {"applied": []}


def test_the_configuration_names_the_database(asyncsched: CommandLine, dsn: str) -> None:
    assert asyncsched("db", "check", ASYNCSCHED_DATABASE__DSN=dsn).status == 0


def test_a_database_that_is_not_there_is_explained(asyncsched: CommandLine, server: Server) -> None:
    refused = asyncsched("db", "check", "--database", server.dsn("no_such_database"))
    assert refused.status == 1
    assert "createdb" in refused.err
    away = asyncsched("db", "check", "--database", "postgresql://nobody@/x?host=/nowhere")
    assert away.status == 5
    assert "database is away" in away.err


def test_a_wrong_configuration_names_its_key(asyncsched: CommandLine) -> None:
    refused = asyncsched("db", "check", "--database", "mysql://x")
    assert refused.status == 78
    assert "database.dsn" in refused.err


def test_a_running_daemon_answers_for_its_database_and_is_not_migrated_below(
    asyncsched: CommandLine, daemon: Daemon
) -> None:
    daemon.answers["db.check"] = {"current": "1", "head": "2", "is_current": False}
    assert asyncsched("db", "check").status == 8
    refused = asyncsched("db", "migrate")
    assert refused.status == 4
    assert "stop it" in refused.err
    daemon.answers["db.check"] = {"current": "2", "head": "2", "is_current": True}
    assert asyncsched("db", "migrate", "--json").json == {"applied": []}


@pytest.mark.skipif(os.environ.get("ASYNCSCHED_TEST_BINDIR") is not None, reason="about the wheel's programs")
def test_without_a_daemon_the_embedded_server_is_started_for_it(asyncsched: CommandLine, home: Path) -> None:
    home.chmod(0o711)
    assert asyncsched.process("db", "check").status == 8
    assert asyncsched.process("db", "migrate").out != ""
    assert asyncsched.process("db", "check", "--json").json["is_current"] is True
