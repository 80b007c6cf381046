"""Unreported outcomes survive their worker, whole or not at all."""

from pathlib import Path

from scheduler.executors.spool import Spool
from scheduler.model import Outcome, OutcomeKind

OUTCOME = Outcome(token="t1", kind=OutcomeKind.LOST, reason="shutdown", message="the worker is being stopped")


def test_what_is_kept_is_found_and_can_be_dropped(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "worker")
    assert spool.tokens() == []
    spool.keep(OUTCOME)
    assert Spool(tmp_path / "worker").tokens() == ["t1"]
    assert Spool(tmp_path / "worker").read("t1") == OUTCOME
    spool.drop("t1")
    spool.drop("t1")
    assert spool.tokens() == []
    assert spool.read("t1") is None


def test_a_draft_is_not_an_outcome(tmp_path: Path) -> None:
    (tmp_path / "t1.123.tmp").write_text("{")
    assert Spool(tmp_path).tokens() == []


def test_an_unreadable_file_is_put_aside_not_read_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    (tmp_path / "t1.json").write_text('{"token": "t1"')
    assert spool.read("t1") is None
    assert spool.tokens() == []
    assert (tmp_path / "t1.bad").exists()
