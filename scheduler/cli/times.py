"""Times for people: local, and how long ago or from now."""

from datetime import datetime

_STEPS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def parse(text: str | None) -> datetime | None:
    """A time of the daemon's JSON."""
    return None if text is None else datetime.fromisoformat(text)


def local(value: datetime, *, now: datetime) -> str:
    """In the reader's time zone; the date only if it is not today."""
    here = value.astimezone()
    return here.strftime("%H:%M:%S" if here.date() == now.astimezone().date() else "%Y-%m-%d %H:%M")


def relative(value: datetime, *, now: datetime) -> str:
    """ "3 min ago", "in 2 h", "now"."""
    seconds = (now - value).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"{_rough(seconds)} ago" if seconds > 0 else f"in {_rough(-seconds)}"


def _rough(seconds: float) -> str:
    for size, unit in _STEPS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "1 s"


def duration(seconds: float) -> str:
    """ "12 ms", "3.4 s", "2 min 05 s", "1 h 03 min", "2 d 4 h"."""
    seconds = max(seconds, 0.0)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def between(start: str | None, end: str | None, *, now: datetime) -> float | None:
    """Seconds from start to end, or to now while there is no end; None if it has not started."""
    began, ended = parse(start), parse(end)
    return None if began is None else ((ended or now) - began).total_seconds()
