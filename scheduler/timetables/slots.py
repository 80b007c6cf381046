"""An instant at which a schedule wants a run, and what a look at a schedule found."""

from datetime import UTC, datetime

from attrs import frozen

from scheduler.model import Schedule


@frozen(kw_only=True)
class Slot:
    """One wanted run. All instants are aware, in UTC."""

    run_after: datetime
    logical_date: datetime
    data_interval_start: datetime
    data_interval_end: datetime

    @classmethod
    def at(cls, instant: datetime, *, since: datetime | None = None) -> "Slot":
        """The slot at `instant`; its interval begins at `since`, by default at the instant itself."""
        instant = instant.astimezone(UTC)
        start = instant if since is None else since.astimezone(UTC)
        return cls(run_after=instant, logical_date=instant, data_interval_start=start, data_interval_end=instant)


@frozen(kw_only=True)
class SlotPlan:
    """What is due, and when to look again."""

    slots: tuple[Slot, ...]
    """Oldest first, strictly increasing."""
    cursor: datetime | None
    """The last slot handled, once all of `slots` are; where the next look starts."""
    next_due: datetime | None
    """When the next slot is due; None: never again by itself."""
    dropped: int
    """Missed slots beyond the cap on those made up at once, which nobody will make up. Counted up to 10,000."""


def infer_interval(schedule: Schedule, logical_date: datetime) -> tuple[datetime, datetime]:
    """The data interval (start, end) of a manual run with this date, in UTC.

    All present schedules fire at instants, so the interval is empty: it begins and ends at the date.
    """
    del schedule  # interval timetables, when they come, look at it
    instant = logical_date.astimezone(UTC)
    return instant, instant
