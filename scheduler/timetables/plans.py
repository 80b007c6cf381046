"""Which slots of a schedule are due, and which of the missed ones are made up."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import NamedTuple

from attrs import frozen

from scheduler.model import Catchup, Schedule, ScheduleKind
from scheduler.timetables.cron import LATEST, cron
from scheduler.timetables.slots import Slot, SlotPlan

LATE_SECONDS = 60.0
"""A slot that is looked at within this time, and before the next one, was not missed: the daemon was only busy."""

_COUNTED = 10_000
_TICK = timedelta(microseconds=1)


@frozen(kw_only=True)
class _Question:
    """The arguments of `plan_slots`; all instants in UTC."""

    schedule: Schedule
    cursor: datetime | None
    start_date: datetime | None
    end_date: datetime | None
    catchup: Catchup
    now: datetime
    first_seen: datetime
    at_most: int
    last_end: datetime | None

    def nothing(self, next_due: datetime | None = None) -> SlotPlan:
        return SlotPlan(slots=(), cursor=self.cursor, next_due=self.bounded(next_due), dropped=0)

    def bounded(self, instant: datetime | None) -> datetime | None:
        """None if the dag has ended by then."""
        if instant is None or instant > min(self.end_date or LATEST, LATEST):
            return None
        return instant

    @property
    def until(self) -> datetime:
        """No slot after it is due."""
        return self.now if self.end_date is None else min(self.now, self.end_date)

    def plan(self, due: list[datetime], *, latest: datetime, next_due: datetime | None, dropped: int = 0) -> SlotPlan:
        return SlotPlan(slots=tuple(map(Slot.at, due)), cursor=latest, next_due=self.bounded(next_due), dropped=dropped)


def plan_slots(
    schedule: Schedule,
    *,
    cursor: datetime | None,
    start_date: datetime | None,
    end_date: datetime | None,
    catchup: Catchup,
    now: datetime,
    first_seen: datetime,
    at_most: int = 100,
    last_end: datetime | None = None,
) -> SlotPlan:
    """The slots of `schedule` that are due at `now` and later than `cursor`, the last slot handled.

    `start_date` and `end_date` bound the slots, both included. `first_seen` is when the dag was first loaded: without
    a start date nothing before it was missed. `at_most` caps what `Catchup.ALL` makes up; the oldest are dropped.
    `last_end` is when the previous run ended, for `@continuous`, which may only be asked about while no run is under
    way. All instants are aware. Raises ValueError for a schedule that `validate` refuses.
    """
    assert at_most >= 1, at_most
    question = _Question(
        schedule=schedule,
        cursor=_utc(cursor),
        start_date=_utc(start_date),
        end_date=_utc(end_date),
        catchup=catchup,
        now=now.astimezone(UTC),
        first_seen=first_seen.astimezone(UTC),
        at_most=at_most,
        last_end=_utc(last_end),
    )
    match schedule.kind:
        case ScheduleKind.CRON:
            return _plan_cron(question)
        case ScheduleKind.EVERY:
            return _plan_every(question)
        case ScheduleKind.ONCE:
            return _plan_once(question)
        case ScheduleKind.CONTINUOUS:
            return _plan_continuous(question)
        case ScheduleKind.NEVER:
            return question.nothing()


def _utc(instant: datetime | None) -> datetime | None:
    return None if instant is None else instant.astimezone(UTC)


# --- cron ---------------------------------------------------------------------------------------------------


def _plan_cron(q: _Question) -> SlotPlan:
    line = cron(q.schedule.cron, q.schedule.timezone)
    after = _cron_floor(q)
    following = next(line.forwards(max(after, q.now), q.end_date or LATEST), None)
    missed = line.backwards(q.until, after)
    latest = next(missed, None)
    if latest is None:
        return q.nothing(following)
    if q.catchup is Catchup.ALL:
        older = list(islice(missed, q.at_most - 1))
        dropped = sum(1 for _ in islice(missed, _COUNTED))
        return q.plan([*reversed(older), latest], latest=latest, next_due=following, dropped=dropped)
    is_missed = q.catchup is Catchup.NONE and _seconds(latest, q.now) > LATE_SECONDS
    return q.plan([] if is_missed else [latest], latest=latest, next_due=following)


def _cron_floor(q: _Question) -> datetime:
    """Slots at or before it are not wanted."""
    if q.cursor is not None:
        floor = q.cursor
    elif q.start_date is None or q.catchup is Catchup.NONE:
        floor = q.first_seen
    else:
        return q.start_date - _TICK
    return floor if q.start_date is None else max(floor, q.start_date - _TICK)


# --- every --------------------------------------------------------------------------------------------------


class _Chain(NamedTuple):
    """Slots at equal distances."""

    first: datetime
    length: timedelta

    def count(self, until: datetime) -> int:
        return 0 if until < self.first else (until - self.first) // self.length + 1

    def at(self, index: int) -> datetime | None:
        try:
            return self.first + index * self.length
        except OverflowError:
            return None


def _plan_every(q: _Question) -> SlotPlan:
    chain = _chain(q)
    if chain is None:
        return q.nothing()
    count = chain.count(q.until)
    if count == 0:
        return q.nothing(chain.first)
    if q.catchup is Catchup.ALL:
        indexes = range(max(0, count - q.at_most), count)
        due = [t for t in map(chain.at, indexes) if t is not None]
        dropped = min(count - len(due), _COUNTED)
        return q.plan(due, latest=due[-1], next_due=chain.at(count), dropped=dropped)
    latest = chain.at(count - 1)
    assert latest is not None
    in_time = min(LATE_SECONDS, q.schedule.seconds)
    if _seconds(chain.first, q.now) <= in_time and not _starts_in_the_past(q):
        return q.plan([chain.first], latest=chain.first, next_due=chain.at(1))
    if q.catchup is Catchup.NONE:
        on_time = [latest] if _seconds(latest, q.now) <= in_time else []
        return q.plan(on_time, latest=latest, next_due=chain.at(count))
    # Missed: one run now, and on from there; there is no grid to go back to.
    made_up = q.now if q.until == q.now else latest
    return q.plan([made_up], latest=made_up, next_due=_Chain(made_up, chain.length).at(1))


def _chain(q: _Question) -> _Chain | None:
    """The slots that follow the cursor; None if the first lies beyond all calendars."""
    length = timedelta(seconds=q.schedule.seconds)
    if length <= timedelta(0):
        raise ValueError(f"an interval of {q.schedule.seconds:g} seconds never ends")
    if q.cursor is None:
        if q.catchup is Catchup.NONE and q.start_date is not None and q.start_date < q.first_seen:
            return _Chain(q.start_date + length * -((q.start_date - q.first_seen) // length), length)
        return _Chain(q.first_seen if q.start_date is None else q.start_date, length)
    first = _Chain(q.cursor, length).at(1)
    if first is None:
        return None
    return _Chain(first if q.start_date is None else max(first, q.start_date), length)


def _starts_in_the_past(q: _Question) -> bool:
    return q.cursor is None and q.start_date is not None and q.start_date < q.first_seen


# --- the others ---------------------------------------------------------------------------------------------


def _plan_once(q: _Question) -> SlotPlan:
    if q.cursor is not None:
        return q.nothing()
    instant = q.first_seen if q.start_date is None else q.start_date
    if instant > q.now:
        return q.nothing(instant)
    if q.bounded(instant) is None:
        return q.nothing()
    return q.plan([instant], latest=instant, next_due=None)


def _plan_continuous(q: _Question) -> SlotPlan:
    if q.start_date is not None and q.now < q.start_date:
        return q.nothing(q.start_date)
    if q.bounded(q.now) is None or (q.cursor is not None and q.now <= q.cursor):
        return q.nothing()
    since = q.last_end if q.last_end is not None else q.start_date
    slot = Slot.at(q.now, since=None if since is None else min(since, q.now))
    return SlotPlan(slots=(slot,), cursor=q.now, next_due=None, dropped=0)


def _seconds(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()


# --- for people ---------------------------------------------------------------------------------------------


def upcoming(
    schedule: Schedule,
    *,
    after: datetime,
    start_date: datetime | None,
    end_date: datetime | None,
    count: int,
    cursor: datetime | None = None,
) -> list[Slot]:
    """The next `count` slots later than `after`, as far as they can be known.

    `cursor` is the last slot handled; an interval goes on from there, or else from its start date, or else from
    `after`. Raises ValueError for a schedule that `validate` refuses.
    """
    instants = _instants(
        schedule,
        after=after.astimezone(UTC),
        start=_utc(start_date),
        cursor=_utc(cursor),
    )
    end = _utc(end_date) or LATEST
    found = []
    for instant in islice(instants, count):
        if instant > end:
            break
        found.append(Slot.at(instant))
    return found


def _instants(
    schedule: Schedule, *, after: datetime, start: datetime | None, cursor: datetime | None
) -> Iterator[datetime]:
    match schedule.kind:
        case ScheduleKind.CRON:
            floor = after if start is None else max(after, start - _TICK)
            yield from cron(schedule.cron, schedule.timezone).forwards(floor)
        case ScheduleKind.EVERY:
            base = cursor or start or after
            chain = _Chain(base, timedelta(seconds=schedule.seconds))
            index = chain.count(after)
            while (instant := chain.at(index)) is not None and instant <= LATEST:
                if start is None or instant >= start:
                    yield instant
                index += 1
        case ScheduleKind.ONCE:
            if cursor is None and start is not None and start > after:
                yield start
        case ScheduleKind.CONTINUOUS:
            yield after if start is None else max(after, start)
        case ScheduleKind.NEVER:
            pass
