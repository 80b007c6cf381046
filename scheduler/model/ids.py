"""Identifiers of dags, tasks and pools: what may stand in a path, a URL and a log line without quoting."""

import re

_ALLOWED = re.compile(r"[A-Za-z0-9_.-]{1,200}", re.ASCII)


class InvalidId(ValueError):
    """An identifier that is empty, too long or holds a character that is not allowed."""


def check_id(value: object, *, what: str) -> str:
    """Return `value` if it is a valid identifier: 1 to 200 of A-Z a-z 0-9 _ . - and neither "." nor "..".

    `what` names the thing in the message ("dag_id", "task_id", "pool").
    Raises InvalidId.
    """
    if not isinstance(value, str):
        raise InvalidId(f"{what} must be a string, not {type(value).__name__}")
    if not _ALLOWED.fullmatch(value) or value in (".", ".."):
        shown = ascii(value if len(value) <= 60 else value[:57] + "...")
        raise InvalidId(f"{what} {shown} is not valid: use 1 to 200 letters, digits, '_', '.' or '-' (ASCII only)")
    return value
