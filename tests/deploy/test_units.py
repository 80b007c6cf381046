"""The shipped units as systemd's own tools judge them."""

import shutil
import subprocess
import tomllib

import pytest

from scheduler.config import load_config
from tests.deploy.unit import DEPLOY, PROGRAM, SCHEDULER, WORKER, settings

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def units(tmp_path):
    """The units with a program that exists here."""
    for path in (SCHEDULER, WORKER):
        (tmp_path / path.name).write_text(path.read_text().replace(PROGRAM, shutil.which("true")))
    return tmp_path


def analyze(*arguments, units):
    return subprocess.run(
        ["systemd-analyze", *arguments],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{units}:"},
        timeout=60,
    )


def verify(name, units):
    """Verify a unit, and all it pulls in. Exit code 0 means little: unknown keys are only written to stderr."""
    done = analyze("verify", "--man=no", name, units=units)
    return done.returncode, done.stderr


@needs_analyze
@pytest.mark.parametrize("name", ["asyncsched.service", "asyncsched-worker@1.service"])
def test_systemd_has_nothing_to_say_about_a_unit(units, name):
    assert verify(name, units) == (0, "")


@needs_analyze
@pytest.mark.parametrize("line", ["WatchdogSecs=30s", "Type=notifi", "ProtectSystem=very"])
def test_a_mistake_in_a_unit_would_be_seen(units, line):
    path = units / SCHEDULER.name
    path.write_text(path.read_text().replace("[Service]\n", f"[Service]\n{line}\n"))
    assert verify(SCHEDULER.name, units)[1] != ""


@needs_analyze
@pytest.mark.parametrize(("path", "threshold"), [(SCHEDULER, 15), (WORKER, 30)])
def test_a_unit_is_hardened(units, path, threshold):
    done = analyze("security", "--offline=true", f"--threshold={threshold}", str(units / path.name), units=units)
    assert done.returncode == 0, done.stdout


@needs_analyze
def test_a_missing_line_of_hardening_would_be_seen(units):
    path = units / SCHEDULER.name
    lines = [line for line in path.read_text().splitlines() if not line.startswith("SystemCallFilter")]
    path.write_text("\n".join(lines))
    assert analyze("security", "--offline=true", "--threshold=15", str(path), units=units).returncode != 0


def test_the_worker_is_not_bound_to_the_scheduler():
    worker = settings(WORKER)
    for bond in ("Requires", "BindsTo", "PartOf", "Requisite"):
        assert bond not in worker
    assert "asyncsched.service" in worker["After"]


def test_tasks_do_not_inherit_what_breaks_programs():
    worker = settings(WORKER)
    assert "MemoryDenyWriteExecute" not in worker
    assert not any("@resources" in each for each in worker["SystemCallFilter"])
    assert worker["Delegate"] == ["yes"]


def test_both_units_share_user_and_state():
    for key in ("User", "Group", "StateDirectory", "ConfigurationDirectory"):
        assert settings(SCHEDULER)[key] == settings(WORKER)[key]


def test_wrong_configuration_is_not_tried_again():
    assert settings(SCHEDULER)["RestartPreventExitStatus"] == ["64 78"]


def test_the_shipped_configuration_is_valid():
    path = DEPLOY / "asyncsched.toml"
    commented = path.read_text()
    # What is commented out must be valid, too: people remove the mark.
    whole = "\n".join(line.removeprefix("# ") if " = " in line else line for line in commented.splitlines())
    tomllib.loads(whole)
    assert str(load_config({}, {}, path).scheduler.dags_dir) == "/srv/asyncsched/dags"


def test_every_key_shown_in_the_configuration_exists(tmp_path):
    text = (DEPLOY / "asyncsched.toml").read_text()
    path = tmp_path / "all.toml"
    path.write_text("\n".join(line.removeprefix("# ") if " = " in line else line for line in text.splitlines()))
    load_config({}, {}, path)


def test_the_user_and_the_directories_are_made(tmp_path):
    if shutil.which("systemd-sysusers") is None or shutil.which("systemd-tmpfiles") is None:
        pytest.skip("systemd is not installed")
    for kind in ("sysusers.d", "tmpfiles.d"):
        (tmp_path / "usr/lib" / kind).mkdir(parents=True)
        shutil.copy(DEPLOY / kind / "asyncsched.conf", tmp_path / "usr/lib" / kind)
    (tmp_path / "etc").mkdir()
    made = subprocess.run(["systemd-sysusers", f"--root={tmp_path}"], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"systemd-sysusers does not work here: {made.stderr}")
    assert "asyncsched:" in (tmp_path / "etc/passwd").read_text()
    subprocess.run(["systemd-tmpfiles", f"--root={tmp_path}", "--create"], check=True, capture_output=True)
    assert (tmp_path / "srv/asyncsched/dags").is_dir()
    assert (tmp_path / "etc/asyncsched/credentials").stat().st_mode & 0o777 == 0o700
