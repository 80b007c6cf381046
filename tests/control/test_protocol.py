"""Times on the wire: RFC 3339 in UTC with microseconds, always."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.control.protocol import EXIT_CODES, Code, instant, parse_instant


def test_microseconds_are_written_also_when_they_are_zero() -> None:
    assert instant(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000000Z"


def test_other_zones_are_brought_to_utc() -> None:
    assert instant(datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))) == "2026-01-01T00:00:00.000000Z"


def test_an_absent_time_stays_absent() -> None:
    assert instant(None) is None


@given(st.datetimes(timezones=st.just(UTC)))
def test_what_is_written_reads_back_the_same(value: datetime) -> None:
    text = instant(value)
    assert text is not None
    assert parse_instant(text) == value


@pytest.mark.parametrize("text", ["2026-01-31", "2026-01-31T00:00", "2026-01-31T00:00:00Z", "2026-01-31 01:00+01:00"])
def test_usual_ways_to_write_a_time_are_understood(text: str) -> None:
    assert parse_instant(text) == datetime(2026, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "31.01.2026"])
def test_what_is_not_a_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write 2026-01-31"):
        parse_instant(text)


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00"])
def test_a_time_that_no_calendar_has_in_utc_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not within the years 1 to 9999"):
        parse_instant(text)


def test_every_code_has_an_exit_status() -> None:
    assert set(EXIT_CODES) == set(Code)
