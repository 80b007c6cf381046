"""The configuration as text."""

import pytest

from scheduler.postgres import settings


def test_nobody_is_ever_trusted():
    assert [line.split() for line in settings.access_rules().splitlines() if not line.startswith("#")] == [
        ["local", "all", "all", "peer", "map=asyncsched"]
    ]
    assert "--auth=peer" in settings.initdb_options(18)


@pytest.mark.parametrize("name", ["me", 'we"ird', "with space", "#hash"])
def test_a_user_name_cannot_break_out_of_its_line(name):
    lines = [line for line in settings.access_names(name).splitlines() if not line.startswith("# ")]
    quoted = '"' + name.replace('"', '""') + '"'
    assert lines == [f"asyncsched {quoted} asyncsched", f"asyncsched {quoted} postgres"]


@pytest.mark.parametrize("major", [14, 15, 17, 18])
def test_an_old_server_is_not_told_what_it_does_not_know(major):
    text = settings.server_configuration(major, [])
    assert ("io_method" in text) == (major >= 18)
    assert "shared_preload_libraries" not in text
    assert ("--builtin-locale=C.UTF-8" in settings.initdb_options(major)) == (major >= 17)
    assert ("ON PARAMETER" in settings.first_statements(major)) == (major >= 15)


def test_what_is_preloaded_is_named():
    text = settings.server_configuration(18, ["pg_stat_statements", "auto_explain"])
    assert "shared_preload_libraries = 'pg_stat_statements,auto_explain'" in text
