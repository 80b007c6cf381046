"""A result is JSON, or the message says which part of it is not."""

import json
from collections import namedtuple
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.executors.results import ResultError, encode_result

LIMIT = 1024 * 1024


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    BIG = 3


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 2.5, True, None, "x"]}, '{"a":[1,2.5,true,null,"x"]}'),
        ((1, (2,)), "[1,[2]]"),
        (Point(1, 2), "[1,2]"),
        ([Colour.RED, Size.BIG], '["red",3]'),
        (10**30, "1" + "0" * 30),
        ("čaj \x00 \U0001f375", '"čaj \\u0000 \U0001f375"'),
        ("", '""'),
        (False, "false"),
        (0, "0"),
    ],
)
def test_json_values_are_kept(value: Any, text: str) -> None:
    assert encode_result(value, limit=LIMIT) == text


def test_none_is_no_result() -> None:
    assert encode_result(None, limit=LIMIT) is None


def loop() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"rows": [1, 2, 3, datetime(2026, 1, 1, tzinfo=UTC)]}, 'result["rows"][3]: datetime.datetime'),
        ([date(2026, 1, 1)], "result[0]: datetime.date is not JSON (use .isoformat())"),
        ({1, 2}, "result: set is not JSON (use sorted(...) or list(...))"),
        ({"p": Path("/x")}, "use str(...)"),
        ({"price": Decimal("1.5")}, 'result["price"]: decimal.Decimal'),
        (b"x", "result: bytes is not JSON"),
        (object(), "result: object is not JSON"),
        ((n for n in "ab"), "result: generator is not JSON (use list(...))"),
        ({"a": {2024: 1}}, 'result["a"]: the key 2024 is of type int; JSON keys are strings'),
        ({None: 1}, "the key None is of type NoneType"),
        ({"a": [float("nan")]}, 'result["a"][0]: nan is not JSON (use None'),
        (float("-inf"), "result: -inf is not JSON"),
        ("\ud800", "result: a str with the lone surrogate '\\ud800'"),
        ({"\udfff": 1}, "result, a key: a str with the lone surrogate"),
        (loop(), "nested deeper than 100 levels"),
        (1 << 5000, "an int of 5001 bits is too large"),
    ],
)
def test_the_message_names_the_place(value: Any, message: str) -> None:
    with pytest.raises(ResultError) as refusal:
        encode_result(value, limit=LIMIT)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_result_over_the_limit_is_refused_with_both_sizes() -> None:
    assert encode_result("x" * 98, limit=100) == '"' + "x" * 98 + '"'
    with pytest.raises(ResultError, match="101 bytes of JSON and the limit is 100 bytes: write it to a file"):
        encode_result("x" * 99, limit=100)
    with pytest.raises(ResultError, match="limit"):
        encode_result("é" * 50, limit=100)  # counted in bytes, not in characters


scalars = st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(scalars | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20)


@given(values)
def test_what_is_accepted_reads_back_equal(value: Any) -> None:
    text = encode_result(value, limit=LIMIT)
    assert (json.loads(text) if text is not None else None) == value
