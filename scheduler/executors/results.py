"""What a task returned, as JSON text, or a sentence that says which part of it is not JSON."""

import json
import math
from typing import Any

_DEEPEST = 100
_WIDEST_INT_BITS = 4096

_HINTS = {
    "DataFrame": '.to_dict("records")',
    "Decimal": "str(...) or float(...)",
    "Path": "str(...)",
    "PosixPath": "str(...)",
    "Series": ".to_list()",
    "UUID": "str(...)",
    "bytes": ".decode() or a file",
    "date": ".isoformat()",
    "datetime": ".isoformat()",
    "frozenset": "sorted(...) or list(...)",
    "generator": "list(...)",
    "ndarray": ".tolist()",
    "set": "sorted(...) or list(...)",
    "timedelta": ".total_seconds()",
}


class ResultError(Exception):
    """A result that cannot be stored; the message names the place inside the value and what to do."""


def encode_result(value: Any, *, limit: int) -> str | None:
    """`value` as JSON text of at most `limit` bytes; None for None. Raises ResultError."""
    if value is None:
        return None
    _check(value, "result", 0)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    size = len(text) if text.isascii() else len(text.encode())
    if size > limit:
        raise ResultError(
            f"the result is {_kib(size)} of JSON and the limit is {_kib(limit)}: "
            "write it to a file or a table and return where it is"
        )
    return text


def _check(value: Any, path: str, depth: int) -> None:
    if value is None or value is True or value is False:
        return
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, int):
        if value.bit_length() > _WIDEST_INT_BITS:
            raise ResultError(f"{path}: an int of {value.bit_length()} bits is too large")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ResultError(f"{path}: {float(value)!r} is not JSON (use None for a missing number)")
    elif depth >= _DEEPEST:
        raise ResultError(f"{path}: nested deeper than {_DEEPEST} levels, or containing itself")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if type(item) not in _PLAIN:
                _check(item, f"{path}[{index}]", depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ResultError(
                    f"{path}: the key {_short(key)} is of type {type(key).__name__}; JSON keys are strings"
                )
            _check_text(key, f"{path}, a key")
            if type(item) not in _PLAIN:
                _check(item, f"{path}[{_short(key)}]", depth + 1)
    else:
        kind = type(value)
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        hint = _HINTS.get(kind.__name__)
        raise ResultError(f"{path}: {name} is not JSON{f' (use {hint})' if hint else ''}")


_PLAIN = frozenset({bool, type(None)})


def _check_text(text: str, path: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ResultError(f"{path}: a str with the lone surrogate {text[error.start]!a} is not valid text") from None


def _short(key: object) -> str:
    shown = json.dumps(key) if isinstance(key, str) else repr(key)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _kib(size: int) -> str:
    return f"{size} bytes" if size < 10_240 else f"{size / 1024:,.0f} KiB"
