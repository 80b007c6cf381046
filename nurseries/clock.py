"""Wall time as a dependency: whoever needs "now" takes a Clock."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time. Decisions take `now` as an argument; those who call them take a Clock."""

    def now(self) -> datetime:
        """The wall time, aware and in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed point, never going back; only differences mean anything."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        """The wall time, aware and in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds of `CLOCK_MONOTONIC`."""
        return time.monotonic()

    def __repr__(self) -> str:
        return "SystemClock()"
