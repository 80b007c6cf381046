"""What travels over the control socket, and what each refusal means to a client.

A request is one line, `{"op": "runs.show", "args": {"run": "etl/manual__..."}}`; its answer is one line,
either `{"result": ...}` or `{"error": {"code": "not_found", "message": "..."}}`. A connection may carry
several requests, one after the other. Times are RFC 3339 in UTC with microseconds.

Only the standard library is imported here: clients pay for every import at each start.
"""

from datetime import UTC, datetime
from enum import StrEnum

REQUEST_LIMIT = 2 * 1024 * 1024
"""Bytes of one request line, a run's conf of 1 MiB included; a longer one is refused."""

PROTOCOL = "asyncsched/control/v1"


class Code(StrEnum):
    """Why a request was refused: stable names for programs; the message is for people."""

    USAGE = "usage"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    DENIED = "denied"
    UNREACHABLE = "unreachable"
    """The daemon does not answer, or it does and its database does not."""
    INTERNAL = "internal"


EXIT_CODES = {
    Code.USAGE: 2,
    Code.NOT_FOUND: 3,
    Code.CONFLICT: 4,
    Code.UNREACHABLE: 5,
    Code.DENIED: 6,
    Code.INTERNAL: 1,
}
"""With which status a client command ends when it got this refusal."""


class ControlError(Exception):
    """A request that was refused: `code` for programs, `message` a sentence that says what to do."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def instant(value: datetime | None) -> str | None:
    """Return an aware time as RFC 3339 in UTC, "2026-01-01T00:00:00.000000Z"; None stays None."""
    if value is None:
        return None
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_instant(text: str) -> datetime:
    """Return the aware UTC time that `text` names: RFC 3339 or ISO 8601; without an offset it means UTC.

    Raises ValueError with a sentence.
    """
    try:
        value = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is not a time: write 2026-01-31 or 2026-01-31T12:00:00Z") from None
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is, in UTC, not within the years 1 to 9999") from None
