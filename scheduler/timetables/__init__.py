"""When: schedules as data in, instants out. Pure; no clock, no I/O but reading the zone tables once."""

from scheduler.timetables.cron import CronError
from scheduler.timetables.plans import LATE_SECONDS, plan_slots, upcoming
from scheduler.timetables.slots import Slot, SlotPlan, infer_interval
from scheduler.timetables.validation import validate

__all__ = [
    "LATE_SECONDS",
    "CronError",
    "Slot",
    "SlotPlan",
    "infer_interval",
    "plan_slots",
    "upcoming",
    "validate",
]
