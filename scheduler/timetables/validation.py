"""Refusing schedules that mean nothing, before anything is planned with them."""

import math

from scheduler.model import Schedule, ScheduleKind
from scheduler.timetables import zones
from scheduler.timetables.cron import cron

SHORTEST_SECONDS = 1.0


def validate(schedule: Schedule) -> None:
    """Raises ValueError with a sentence for people."""
    zones.zone(schedule.timezone)
    if schedule.kind is ScheduleKind.CRON:
        cron(schedule.cron, schedule.timezone)
    if schedule.kind is ScheduleKind.EVERY and not (
        math.isfinite(schedule.seconds) and schedule.seconds >= SHORTEST_SECONDS
    ):
        raise ValueError(f"an interval must be 1 second or longer, not {schedule.seconds:g} seconds")
