"""Times for people."""

from datetime import UTC, datetime, timedelta

import pytest

from scheduler.cli import times

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "now"),
        (0.5, "now"),
        (1, "1 s ago"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (3600 * 5, "5 h ago"),
        (86400 * 30, "30 d ago"),
        (-90, "in 2 min"),
        (-86400, "in 1 d"),
    ],
)
def test_relative(seconds: float, text: str) -> None:
    assert times.relative(NOW - timedelta(seconds=seconds), now=NOW) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 ms"),
        (0.0123, "12 ms"),
        (0.9999, "1.0 s"),
        (59.94, "59.9 s"),
        (59.99, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (3780, "1 h 03 min"),
        (100_000, "1 d 3 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert times.duration(seconds) == text


def test_the_date_is_left_out_today_only() -> None:
    local = NOW.astimezone()
    assert times.local(NOW, now=NOW) == local.strftime("%H:%M:%S")
    assert times.local(NOW - timedelta(days=3), now=NOW) == (local - timedelta(days=3)).strftime("%Y-%m-%d %H:%M")


def test_between_counts_to_now_while_there_is_no_end() -> None:
    start = "2026-06-01T11:59:00.000000Z"
    assert times.between(start, None, now=NOW) == 60
    assert times.between(start, "2026-06-01T11:59:01.500000Z", now=NOW) == 1.5
    assert times.between(None, None, now=NOW) is None
