"""How a cron line is read, and how a wrong one is refused."""

from datetime import UTC, datetime
from itertools import islice

import pytest

from scheduler.model import Schedule, ScheduleKind
from scheduler.timetables import CronError, validate
from scheduler.timetables.cron import Cron


def first(line: str, count: int, after: str = "2026-01-01") -> list[str]:
    start = datetime.fromisoformat(after).replace(tzinfo=UTC)
    return [f"{slot:%m-%d %H:%M:%S}" for slot in islice(Cron(line, "UTC").forwards(start), count)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("*/20 * * * *", ["01-01 00:20:00", "01-01 00:40:00"]),
        ("0 12 * * MON-FRI", ["01-01 12:00:00", "01-02 12:00:00", "01-05 12:00:00"]),
        ("0 0 * * 7", ["01-04 00:00:00", "01-11 00:00:00"]),
        ("0 0 * * 0", ["01-04 00:00:00", "01-11 00:00:00"]),
        ("0 0 1 jan,Jul *", ["07-01 00:00:00", "01-01 00:00:00"]),
        ("5/20 0 * * *", ["01-01 00:05:00", "01-01 00:25:00", "01-01 00:45:00", "01-02 00:05:00"]),
        ("* * * * * */30", ["01-01 00:00:30", "01-01 00:01:00"]),
        ("0 6 * * * 15", ["01-01 06:00:15", "01-02 06:00:15"]),
        ("0 0 L * *", ["01-31 00:00:00", "02-28 00:00:00"]),
        ("0 0 29 2 *", ["02-29 00:00:00"]),
        # both days restricted: either
        ("0 0 13 * FRI", ["01-02 00:00:00", "01-09 00:00:00", "01-13 00:00:00"]),
        ("0 0 */10 * MON", ["01-05 00:00:00", "01-11 00:00:00", "01-12 00:00:00"]),
        # only a plain star does not restrict
        ("0 0 13 * 0-6", ["01-02 00:00:00", "01-03 00:00:00"]),
        ("0 0 */1 * FRI", ["01-02 00:00:00", "01-03 00:00:00"]),
        ("0 0 13 * *", ["01-13 00:00:00", "02-13 00:00:00"]),
    ],
)
def test_a_line_means_what_airflow_says_it_means(line: str, expected: list[str]) -> None:
    assert first(line, len(expected)) == expected


def test_an_instant_that_matches_is_not_after_itself_but_is_up_to_itself() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    cron = Cron("0 12 * * *", "UTC")
    assert next(cron.forwards(noon)) == datetime(2026, 1, 2, 12, tzinfo=UTC)
    assert list(cron.forwards(noon.replace(hour=11), noon)) == [noon]
    assert list(cron.backwards(noon, noon.replace(hour=11))) == [noon]
    assert list(cron.backwards(noon, noon)) == []
    with_fraction = noon.replace(hour=11, minute=59, second=59, microsecond=999_999)
    assert next(cron.forwards(with_fraction)) == noon


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("* * * * * * *", "7 fields"),
        ("60 * * * *", "minute field '60' must be 0-59"),
        ("* 24 * * *", "hour field '24' must be 0-23"),
        ("* * 0 * *", "day field '0'"),
        ("* * * 13 *", "month field '13'"),
        ("* * * * 8", "weekday field '8'"),
        ("* * * * * 60", "second field '60'"),
        ("*/0 * * * *", "minute field"),
        ("5-1 * * * *", "minute field"),
        ("1,,2 * * * *", "minute field"),
        ("x * * * *", "minute field 'x'"),
        ("\u0661 * * * *", "not ASCII"),
        ("0 0 30 2 *", "never comes true"),
        ("0 0 31 4,6,9,11 *", "never comes true"),
        ("0 0 " + "1," * 500 + " * *", "..."),
    ],
)
def test_a_wrong_line_is_refused_with_the_field_that_is_wrong(line: str, words: str) -> None:
    with pytest.raises(CronError) as caught:
        validate(Schedule(kind=ScheduleKind.CRON, text=line, cron=line))
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("zone", ["Europe/Nowhere", "../../etc/passwd", "", "/etc/localtime", "a\0b"])
def test_a_zone_that_does_not_exist_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="there is no time zone"):
        validate(Schedule(kind=ScheduleKind.CRON, text="", cron="* * * * *", timezone=zone))


def test_rare_days_are_found_and_the_end_of_calendars_is_survived() -> None:
    assert first("0 0 29 2 *", 1, after="2096-03-01") == ["02-29 00:00:00"]  # 2104: 2100 is no leap year
    cron = Cron("* * * * *", "Asia/Tokyo")
    assert list(islice(cron.forwards(datetime(9999, 1, 1, tzinfo=UTC)), 1)) == []
    assert list(islice(cron.backwards(datetime(2, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)), 1)) == []
