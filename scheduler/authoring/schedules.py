"""What an author may write as `schedule=`, as data. That a cron line makes sense is checked when it is loaded."""

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from scheduler.authoring import checks
from scheduler.authoring.errors import DagError
from scheduler.model import Schedule, ScheduleKind

MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@quarterly": "0 0 1 */3 *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_SPECIAL = {"@once": ScheduleKind.ONCE, "@continuous": ScheduleKind.CONTINUOUS}
_KNOWN = [*MACROS, *_SPECIAL]


def read_schedule(value: object, *, zone: str) -> Schedule:
    """None, a timedelta, a cron line of five fields (or six, with seconds last) or a word such as "@daily".

    `zone` is the IANA name of the time zone of cron lines. Raises DagError for anything else.
    """
    if value is None:
        return Schedule(kind=ScheduleKind.NEVER, text="never", timezone=zone)
    if isinstance(value, timedelta):
        length = checks.seconds(value, "schedule")
        return Schedule(kind=ScheduleKind.EVERY, text=f"every {value}", seconds=length, timezone=zone)
    if not isinstance(value, str):
        raise DagError(
            'schedule must be a cron line such as "*/5 * * * *", a word such as "@daily", a timedelta or None, '
            f"not {checks.describe(value)}"
        )
    line = " ".join(checks.text(value, "schedule").split())
    if line in _SPECIAL:
        return Schedule(kind=_SPECIAL[line], text=line, timezone=zone)
    if line.startswith("@"):
        if line not in MACROS:
            raise DagError(
                f"schedule {checks.describe(line)} is unknown{checks.did_you_mean(line, _KNOWN)}; "
                f"known: {', '.join(_KNOWN)}"
            )
        return _cron(line, MACROS[line], zone)
    if len(line.split()) not in (5, 6):
        raise DagError(
            f"schedule {checks.describe(line)} is not a cron line: it needs 5 fields (minute, hour, day of month, "
            "month, day of week), or 6 with seconds last"
        )
    return _cron(line, line, zone)


def _cron(text: str, line: str, zone: str) -> Schedule:
    shown = text if zone == "UTC" else f"{text} {zone}"
    return Schedule(kind=ScheduleKind.CRON, text=shown, cron=line, timezone=zone)


def zone_name(given: object, start_date: datetime | None) -> str:
    """The IANA name of a dag's time zone: the one given, else that of its start date, else UTC."""
    if given is None:
        zone: object = start_date.tzinfo if start_date is not None else None
        what = "the time zone of start_date"
    else:
        zone, what = given, "timezone"
    if zone is None or zone is UTC:
        return "UTC"
    if isinstance(zone, str):
        return _existing(zone)
    name = getattr(zone, "key", None) or getattr(zone, "name", None)  # zoneinfo, pendulum
    if isinstance(zone, tzinfo) and isinstance(name, str):
        return _existing(name)
    raise DagError(
        f'{what} must have an IANA name, such as "Europe/Berlin" (timezone="..."), not {checks.describe(zone)}'
    )


def _existing(name: str) -> str:
    try:
        return ZoneInfo(name).key
    except (ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        pass
    except KeyError:
        pass
    raise DagError(f'timezone {checks.describe(name)} is not an IANA name, such as "Europe/Berlin" or "UTC"')
