"""Cron where clocks are changed: in a gap the first valid instant once, in a fold the first pass once."""

from datetime import UTC, datetime, timedelta

import pytest

from scheduler.timetables.cron import Cron


def slots(line: str, zone: str, first: str, last: str) -> list[str]:
    """The slots from `first` to `last`, both UTC, as "day hour:minute"."""
    after = datetime.fromisoformat(first).replace(tzinfo=UTC) - timedelta(seconds=1)
    until = datetime.fromisoformat(last).replace(tzinfo=UTC)
    cron = Cron(line, zone)
    forwards = list(cron.forwards(after, until))
    assert forwards == list(cron.backwards(until, after))[::-1]
    return [slot.strftime("%d %H:%M") for slot in forwards]


def test_a_daily_time_in_the_gap_of_berlin_comes_once_at_the_first_valid_instant() -> None:
    found = slots("30 2 * * *", "Europe/Berlin", "2026-03-28", "2026-03-31")
    assert found == ["28 01:30", "29 01:00", "30 00:30"]


def test_a_daily_time_in_the_fold_of_berlin_comes_once_at_its_first_pass() -> None:
    found = slots("30 2 * * *", "Europe/Berlin", "2026-10-24", "2026-10-27")
    assert found == ["24 00:30", "25 00:30", "26 01:30"]


def test_several_times_in_one_gap_are_one_slot() -> None:
    assert slots("*/15 2 * * *", "Europe/Berlin", "2026-03-29", "2026-03-30T00:00") == ["29 01:00", "30 00:00"]


def test_a_time_in_the_gap_and_the_first_one_after_it_are_one_slot() -> None:
    assert slots("0,30 1-3 * * *", "Europe/Berlin", "2026-03-29T00:00", "2026-03-29T12:00") == [
        "29 00:00",
        "29 00:30",
        "29 01:00",
        "29 01:30",
    ]


@pytest.mark.parametrize("hours", ["*", "0-23", "*/1", "0-11,12-23"])
def test_a_line_of_all_hours_has_both_passes_of_a_fold_and_nothing_in_a_gap(hours: str) -> None:
    fold = slots(f"0,30 {hours} * * *", "Europe/Berlin", "2026-10-24T23:00", "2026-10-25T02:00")
    assert fold == ["24 23:00", "24 23:30", "25 00:00", "25 00:30", "25 01:00", "25 01:30", "25 02:00"]
    gap = slots(f"0,30 {hours} * * *", "Europe/Berlin", "2026-03-29T00:00", "2026-03-29T02:00")
    assert gap == ["29 00:00", "29 00:30", "29 01:00", "29 01:30", "29 02:00"]


def test_every_second_hour_is_not_all_hours() -> None:
    fold = slots("0 */2 * * *", "Europe/Berlin", "2026-10-24T22:00", "2026-10-25T04:00")
    assert fold == ["24 22:00", "25 00:00", "25 03:00"]
    gap = slots("0 */2 * * *", "Europe/Berlin", "2026-03-28T23:00", "2026-03-29T04:00")
    assert gap == ["28 23:00", "29 01:00", "29 02:00", "29 04:00"]


def test_paris_in_spring_and_autumn() -> None:
    assert slots("30 2 * * *", "Europe/Paris", "2026-03-29", "2026-03-29T12:00") == ["29 01:00"]
    assert slots("30 2 * * *", "Europe/Paris", "2026-10-25", "2026-10-25T12:00") == ["25 00:30"]


def test_lord_howe_changes_by_half_an_hour() -> None:
    # 2026-10-04 02:00 becomes 02:30; 2026-04-05 02:00 becomes 01:30.
    assert slots("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", "2026-10-04T12:00") == ["03 15:30"]
    assert slots("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00", "2026-04-05T12:00") == ["04 14:45"]
    both = slots("45 * * * *", "Australia/Lord_Howe", "2026-04-04T14:00", "2026-04-04T16:00")
    assert both == ["04 14:45", "04 15:15"]


def test_the_day_that_apia_left_out_is_one_slot_with_the_day_after() -> None:
    # 30 December 2011 did not exist: at midnight, 10:00 UTC, the 31st began.
    found = slots("0 0 * * *", "Pacific/Apia", "2011-12-28T12:00", "2012-01-01T00:00")
    assert found == ["29 10:00", "30 10:00", "31 10:00"]
    assert slots("0 12 30 12 *", "Pacific/Apia", "2011-12-01", "2012-01-31") == ["30 10:00"]
    assert slots("0 * 30 12 *", "Pacific/Apia", "2011-12-01", "2012-01-31") == []


def test_casablanca_goes_back_for_ramadan() -> None:
    # 2026-02-15 03:00 becomes 02:00; 2026-03-22 02:00 becomes 03:00.
    assert slots("30 2 * * *", "Africa/Casablanca", "2026-02-15", "2026-02-15T12:00") == ["15 01:30"]
    assert slots("30 2 * * *", "Africa/Casablanca", "2026-03-22", "2026-03-22T12:00") == ["22 02:00"]


def test_a_fold_over_midnight_gives_each_day_one_slot() -> None:
    # St. John's, 2010-11-07: 00:01 on Sunday became 23:01 on Saturday.
    saturday = slots("30 23 * * *", "America/St_Johns", "2010-11-06T12:00", "2010-11-07T12:00")
    assert saturday == ["07 02:00"]
    midnight = slots("0 0 * * *", "America/St_Johns", "2010-11-06T12:00", "2010-11-08T12:00")
    assert midnight == ["07 02:30", "08 03:30"]
    every = slots("0,30 * * * *", "America/St_Johns", "2010-11-07T02:00", "2010-11-07T04:00")
    assert every == ["07 02:00", "07 02:30", "07 03:00", "07 03:30", "07 04:00"]


def test_after_2037_the_rules_go_on() -> None:
    assert slots("30 2 * * *", "Europe/Berlin", "2038-03-28", "2038-03-28T12:00") == ["28 01:00"]


def test_utc_has_neither() -> None:
    assert slots("30 2 * * *", "UTC", "2026-03-29", "2026-03-31") == ["29 02:30", "30 02:30"]
