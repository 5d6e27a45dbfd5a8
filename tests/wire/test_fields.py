"""Reading fields of JSON that nobody guarantees."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.wire import fields

ANYTHING: st.SearchStrategy[object] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()), st.just({})
)


@given(ANYTHING)
def test_sound_or_default(value: object) -> None:
    """Each reader gives a value of its own kind, whatever it is given."""
    assert isinstance(fields.mapping(value), dict)
    assert isinstance(fields.items(value), list)
    assert 0 <= fields.count(value) <= fields.MAX_COUNT
    number = fields.number(value)
    assert number is None or math.isfinite(number)
    money = fields.nanodollars(value)
    assert money is None or money >= 0
    assert fields.text(value) is None or isinstance(fields.text(value), str)


@pytest.mark.parametrize(
    ("value", "count"),
    [(7, 7), (7.9, 7), ("7", 7), (-1, 0), (True, 0), (None, 0), ("x", 0), (math.nan, 0), (math.inf, 0), (10**400, 0)],
)
def test_counts(value: object, count: int) -> None:
    """A count is a whole number that is not negative, also when it was sent as text."""
    assert fields.count(value) == count


@pytest.mark.parametrize(
    ("value", "nanodollars"),
    [
        (0, 0),
        (0.5, 500_000_000),
        ("0.000001", 1000),
        (1e-10, 0),
        (-1, None),
        (2e9, None),
        (math.nan, None),
        (None, None),
    ],
)
def test_money(value: object, nanodollars: int | None) -> None:
    """Dollars become nanodollars; what is no sum of money is nothing."""
    assert fields.nanodollars(value) == nanodollars


@pytest.mark.parametrize(
    ("data", "whole", "first"),
    [
        (b'{"a":1}', {"a": 1}, {"a": 1}),
        (b'[{"a":1},{"b":2}]', {}, {"a": 1}),
        (b"[]", {}, {}),
        (b"[1]", {}, {}),
        (b"\xff", {}, {}),
        (b"[" * 100_000, {}, {}),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_objects(data: bytes, whole: dict[str, object], first: dict[str, object]) -> None:
    """Only an object is one; a list is looked into only where that is asked for."""
    assert fields.decode_object(data) == whole
    assert fields.decode_first_object(data) == first
