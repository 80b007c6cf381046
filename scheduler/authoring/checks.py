"""Checking what an author wrote, one value at a time; what is wrong is said in a sentence."""

import difflib
import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from scheduler.authoring.errors import DagError
from scheduler.model import InvalidId, check_id

_LONGEST_SECONDS = 100 * 366 * 86400.0


def seconds(value: object, what: str, *, zero: bool = False) -> float:
    """A timedelta, or a number of seconds; positive, or not negative if `zero`."""
    if isinstance(value, timedelta):
        number = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    else:
        raise DagError(f"{what} must be a timedelta or a number of seconds, not {describe(value)}")
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero) or number > _LONGEST_SECONDS:
        bound = "0 or more" if zero else "more than 0"
        raise DagError(f"{what} must be {bound} seconds and at most 100 years, not {describe(value)}")
    return number


def whole(value: object, what: str, *, least: int, most: int = 2**31 - 1) -> int:
    """An int within bounds; True and False are not numbers here."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise DagError(f"{what} must be a whole number, not {describe(value)}")
    if not least <= value <= most:
        raise DagError(f"{what} must be from {least} to {most}, not {value}")
    return value


def flag(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise DagError(f"{what} must be True or False, not {describe(value)}")
    return value


def text(value: object, what: str) -> str:
    """A str that can be stored: no NUL, no lone surrogate."""
    if not isinstance(value, str):
        raise DagError(f"{what} must be a str, not {describe(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DagError(f"{what} holds a lone surrogate, which is not valid text: {describe(value)}") from None
    if "\0" in value:
        raise DagError(f"{what} holds a NUL character: {describe(value)}")
    return value


def identifier(value: object, what: str) -> str:
    try:
        return check_id(value, what=what)
    except InvalidId as error:
        raise DagError(str(error)) from None


def instant(value: object, what: str) -> datetime:
    """A datetime; a naive one is refused by nobody and means UTC."""
    if not isinstance(value, datetime):
        raise DagError(f"{what} must be a datetime, not {describe(value)}")
    return value


def one_of(value: object, what: str, allowed: Iterable[str]) -> str:
    names = list(allowed)
    if not isinstance(value, str):
        raise DagError(f"{what} must be one of {', '.join(names)}, not {describe(value)}")
    if value not in names:
        raise DagError(f"{what} {describe(value)} is unknown{did_you_mean(value, names)}; known: {', '.join(names)}")
    return str(value)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Part of a sentence, or nothing."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def describe(value: Any) -> str:
    """The value in ASCII, not too long, whatever its repr does."""
    try:
        shown = ascii(value)
    except Exception:  # user code
        shown = f"a {type(value).__name__}"
    return shown if len(shown) <= 80 else shown[:77] + "..."
