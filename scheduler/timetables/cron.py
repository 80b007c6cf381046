"""Cron lines with time zones, as instants.

cronsim reads the line and knows which days match. From the days on we go our own way, since it differs from our
rules where clocks change: it moves a time in a gap by one hour (two such times can then be one slot twice, or land
on another), and whether it takes both passes of a fold depends on whether a field is *written* with a star.

* The hours cover the whole day: every instant whose wall time matches. Both passes of a fold, nothing in a gap.
* Otherwise a wall time in a gap means the first instant after it, once; one in a fold means its first pass.

Another difference: day of month and day of week are alternatives unless one of them is a plain `*`, as in Airflow;
cronsim, like Debian's cron, wants both to match also when one of them is `*/2`.
"""

from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from cronsim import CronSim, CronSimError

from scheduler.timetables import zones

EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
LATEST = datetime(9990, 1, 1, tzinfo=UTC)
"""Instants outside are not searched."""

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_MIDNIGHT = time(tzinfo=UTC)
_LONGEST_PAUSE_YEARS = 50  # the rarest day is 29 February on a given weekday: 40 years round 2100


class CronError(ValueError):
    """A cron line that cannot be read, or that never comes true."""


class _Fields(NamedTuple):
    minute: str
    hour: str
    day: str
    month: str
    weekday: str
    second: str


class Cron:
    """One cron line in one time zone. Raises CronError; ValueError for a zone that does not exist."""

    def __init__(self, line: str, zone: str) -> None:
        self.line = line
        self.zone = zones.zone(zone)
        parts = line.split()
        if len(parts) not in (5, 6):
            raise CronError(f"{_quoted(line)} has {len(parts)} fields, not 5 (or 6, with seconds last)")
        fields = _Fields(*parts, *(["0"] if len(parts) == 5 else []))
        self._days = days = _read(line, fields)
        self._covers_all_hours = len(days.hours) == 24
        self._times = tuple(
            sorted(h * 3600 + m * 60 + s for h in days.hours for m in days.minutes for s in days.seconds)
        )
        if self._next_date(date(2000, 1, 1)) is None:
            raise CronError(f"{_quoted(line)} never comes true: there is no such day")

    def forwards(self, after: datetime, until: datetime = LATEST) -> Iterator[datetime]:
        """The slots later than `after`, up to and including `until`, in order."""
        start = _whole_second_after(max(after, EARLIEST))
        end = _whole_second_after(min(until, LATEST))
        while start < end:
            day = self._next_date(start.date() - _DAY)
            if day is None:
                return
            # A wall time lies within a day of the same numbers in UTC.
            start = max(start, datetime.combine(day - _DAY, _MIDNIGHT))
            stop = min(end, start + _DAY)
            if start < stop:
                yield from self._within(start, stop)
            start = stop

    def backwards(self, until: datetime, after: datetime) -> Iterator[datetime]:
        """The slots up to and including `until`, later than `after`, the latest first."""
        end = _whole_second_after(min(until, LATEST))
        start = _whole_second_after(max(after, EARLIEST))
        width = timedelta(minutes=15)
        while start < end:
            day = self._previous_date(end.date() + _DAY, (start - _DAY).date())
            if day is None:
                return
            end = min(end, datetime.combine(day + 2 * _DAY, _MIDNIGHT))
            begin = max(start, end - width)
            if begin < end:
                yield from reversed(list(self._within(begin, end)))
            end = begin
            width = min(2 * width, _DAY)

    def _within(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """The slots from `start` up to, not including, `end`; at most some days."""
        last = None
        for stretch in zones.stretches(self.zone, start, end):
            first_wall = zones.local(stretch.start, stretch.offset)
            if not self._covers_all_hours:
                skipped = self._walls(zones.local(stretch.start, stretch.before), first_wall)
                if next(skipped, None) is not None:
                    last = stretch.start
                    yield last
            for wall in self._walls(first_wall, zones.local(stretch.end, stretch.offset)):
                if not self._covers_all_hours:
                    first_pass = wall.replace(tzinfo=self.zone, fold=0).utcoffset()
                    if first_pass != stretch.offset:
                        continue
                instant = zones.instant_of(wall, stretch.offset)
                if instant != last:
                    last = instant
                    yield instant

    def _walls(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """The wall times that match, from `start` up to, not including, `end`, as if clocks were never changed."""
        day = start.date()
        while day <= end.date():
            if self._matches(day):
                midnight = datetime.combine(day, time())
                from_second = max(0, -((midnight - start) // _SECOND))
                for second in self._times[bisect_left(self._times, from_second) :]:
                    wall = midnight + timedelta(seconds=second)
                    if wall >= end:
                        return
                    yield wall
            day += _DAY

    def _matches(self, day: date) -> bool:
        return day.month in self._days.months and bool(self._days.match_day(day))

    def _next_date(self, day: date) -> date | None:
        """The first matching day that is not before `day`."""
        last_year = min(day.year + _LONGEST_PAUSE_YEARS, LATEST.year)
        while day.year <= last_year:
            if day.month not in self._days.months:
                day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
            elif self._days.match_day(day):
                return day
            else:
                day += _DAY
        return None

    def _previous_date(self, day: date, earliest: date) -> date | None:
        """The last matching day that is not after `day` and not before `earliest`."""
        while day >= earliest:
            if day.month not in self._days.months:
                day = day.replace(day=1) - _DAY
            elif self._days.match_day(day):
                return day
            else:
                day -= _DAY
        return None


@lru_cache(maxsize=4096)
def cron(line: str, zone: str) -> Cron:
    """The same as `Cron`, remembered."""
    return Cron(line, zone)


def _read(line: str, fields: _Fields) -> Any:
    arranged = " ".join([fields.second, fields.minute, fields.hour, fields.day, fields.month, fields.weekday])
    if not line.isascii():
        raise CronError(f"{_quoted(line)} is not a cron line: it holds characters that are not ASCII")
    try:
        days = CronSim(arranged, datetime(2000, 1, 1))
    except CronSimError as error:
        if _is_readable(fields):
            raise CronError(f"{_quoted(line)} never comes true: there is no such day") from None
        raise CronError(_explain(line, str(error), fields)) from None
    except (ValueError, RecursionError):
        raise CronError(f"{_quoted(line)} is not a cron line") from None
    days.day_and = "*" in (fields.day, fields.weekday)
    return days


def _is_readable(fields: _Fields) -> bool:
    """Whether each field alone makes sense."""
    try:
        CronSim(f"{fields.second} {fields.minute} {fields.hour} {fields.day} * *", datetime(2000, 1, 1))
        CronSim(f"* * * * {fields.month} {fields.weekday}", datetime(2000, 1, 1))
    except (CronSimError, ValueError, RecursionError):
        return False
    return True


_NAMES = {
    "Bad second": ("second", "0-59"),
    "Bad minute": ("minute", "0-59"),
    "Bad hour": ("hour", "0-23"),
    "Bad day-of-month": ("day", "1-31 or L"),
    "Bad month": ("month", "1-12 or JAN-DEC"),
    "Bad day-of-week": ("weekday", "0-7 or SUN-SAT"),
}


def _explain(line: str, error: str, fields: _Fields) -> str:
    if error not in _NAMES:
        return f"{_quoted(line)} is not a cron line: {error}"
    name, allowed = _NAMES[error]
    return (
        f"{_quoted(line)} is not a cron line: its {name} field {_quoted(getattr(fields, name))} must be {allowed}, "
        "with *, ranges (1-5), steps (*/10) and lists (1,2)"
    )


def _quoted(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def _whole_second_after(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(microsecond=0) + _SECOND
