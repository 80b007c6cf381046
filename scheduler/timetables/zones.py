"""A time zone as stretches of constant offset from UTC: what makes clock changes simple."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from attrs import frozen

_STEP = timedelta(hours=6)
_SECOND = timedelta(seconds=1)


@frozen(kw_only=True)
class Stretch:
    """The instants from `start` up to, not including, `end` (aware, UTC), all with the same offset."""

    start: datetime
    end: datetime
    offset: timedelta
    before: timedelta
    """The offset just before `start`."""


@lru_cache(maxsize=256)
def zone(name: str) -> ZoneInfo:
    """Raises ValueError if there is no such zone."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"there is no time zone {name!a}") from None


def offset_at(where: ZoneInfo, instant: datetime) -> timedelta:
    offset = instant.astimezone(where).utcoffset()
    assert offset is not None
    return offset


def stretches(where: ZoneInfo, start: datetime, end: datetime) -> Iterator[Stretch]:
    """The instants from `start` to `end`, whole seconds, split where the offset changes."""
    before = offset_at(where, start - _SECOND)
    offset = offset_at(where, start)
    begun = at = start
    while at < end:
        ahead = min(at + _STEP, end)
        # Two changes within a step would be missed; since 1900 no zone has had two within a day.
        changed = offset_at(where, ahead)
        if changed != offset:
            turn = _turn(where, at, ahead, offset)
            if turn < end:
                yield Stretch(start=begun, end=turn, offset=offset, before=before)
                before, offset, begun = offset, changed, turn
        at = ahead
    yield Stretch(start=begun, end=end, offset=offset, before=before)


def _turn(where: ZoneInfo, low: datetime, high: datetime, offset: timedelta) -> datetime:
    """The first second in (low, high] whose offset is not `offset`."""
    while high - low > _SECOND:
        middle = low + timedelta(seconds=(high - low) // _SECOND // 2)
        if offset_at(where, middle) == offset:
            low = middle
        else:
            high = middle
    return high


def local(instant: datetime, offset: timedelta) -> datetime:
    """What clocks show, naive."""
    return instant.replace(tzinfo=None) + offset


def instant_of(wall: datetime, offset: timedelta) -> datetime:
    return (wall - offset).replace(tzinfo=UTC)
