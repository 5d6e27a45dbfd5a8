"""When a provider says to come back."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.routing.reset_times import retry_after_s

NOW_MS = 1_800_000_000_000


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "30"}, 30),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, 0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "30"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "30"}, 30),
        ({"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30),
        ({"retry-after": "Fri, 15 Jan 2027 08:00:30 -0000"}, 30),
        ({"retry-after": "Fri, 15 Jan 2027 09:00:30 +0100"}, 30),
        ({"retry-after": "Friday, 15-Jan-27 08:00:30 GMT"}, 30),
        ({"retry-after": "Wed, 01 Jan 2020 00:00:00 GMT"}, 0),
        # an instant where a duration belongs
        ({"retry-after": "1800000030"}, 30),
        ({"retry-after": "1800000030000"}, 30),
        ({"retry-after-ms": "1800000030000"}, 30),
        ({"retry-after": "1700000000"}, 0),
        # nothing
        ({"retry-after": ""}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "in a while"}, None),
        ({"retry-after": "Fri, 99 Jan 2027 08:00:30 GMT"}, None),
        ({"retry-after": "Fri, 15 Jan 2027 08:00:30 +9999"}, None),
        ({"x-ratelimit-reset": "30"}, None),
    ],
)
def test_each_unit(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds, dates and instants all mean the same; garbage means nothing."""
    assert retry_after_s(headers, NOW_MS) == seconds


def test_the_machines_own_zone_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A date without a zone is in UTC, wherever the program runs."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert retry_after_s({"retry-after": "Fri, 15 Jan 2027 08:00:30 -0000"}, NOW_MS) == 30
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d{1,2} [A-Z][a-z]{2} \d{1,6} \d\d:\d\d:\d\d.{0,6}"))
def test_no_header_raises(value: str) -> None:
    """Whatever stands there: a time that is not negative, or nothing."""
    for name in ("retry-after", "retry-after-ms"):
        seconds = retry_after_s({name: value}, NOW_MS)
        assert seconds is None or 0 <= seconds < float("inf")


@given(st.integers(0, 4_000_000_000))
def test_any_date(instant_s: int) -> None:
    """An HTTP date is the time that is left until then."""
    date = format_datetime(datetime.fromtimestamp(instant_s, UTC), usegmt=True)
    assert retry_after_s({"retry-after": date}, NOW_MS) == max(0, instant_s - NOW_MS // 1000)
