"""A log is bounded, marked where it is cut, and never the reason why an attempt fails."""

from pathlib import Path

import pytest

from scheduler.executors.logfile import LogFile


def write(path: Path, *parts: bytes, limit: int = 100) -> bytes:
    log = LogFile(str(path), limit=limit)
    for part in parts:
        log.write(part)
    log.close()
    return path.read_bytes()


def test_without_output_there_is_no_file(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path / "a.log"), limit=10)
    log.write(b"")
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_missing_directories_are_made(tmp_path: Path) -> None:
    assert write(tmp_path / "deep" / "er" / "a.log", b"hello\n") == b"hello\n"


def test_the_log_is_cut_at_its_limit_with_one_marker(tmp_path: Path) -> None:
    text = write(tmp_path / "a.log", b"x" * 60, b"y" * 60, b"z" * 60, limit=100)
    assert text.startswith(b"x" * 60 + b"y" * 40 + b"\n[asyncsched: the log has reached its limit of 100 bytes")
    assert text.count(b"[asyncsched") == 1
    assert b"z" not in text.partition(b"[asyncsched")[0]


def test_a_log_of_exactly_its_limit_has_no_marker(tmp_path: Path) -> None:
    assert write(tmp_path / "a.log", b"x" * 100, limit=100) == b"x" * 100


def test_a_rerun_of_the_same_try_appends_within_the_same_limit(tmp_path: Path) -> None:
    write(tmp_path / "a.log", b"x" * 80)
    assert write(tmp_path / "a.log", b"y" * 80)[:100] == b"x" * 80 + b"y" * 20


def test_a_path_that_cannot_be_written_costs_only_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    log = LogFile(str(tmp_path / "file" / "a.log"), limit=10)
    log.write(b"one")
    log.write(b"two")
    log.close()
    assert len(caplog.records) == 1


def test_a_full_disk_costs_only_the_rest_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    log = LogFile("/dev/full", limit=10)
    log.write(b"one")
    log.write(b"two")
    log.close()
    assert "incomplete" in caplog.text
