"""The calendar of quota periods."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.routing.periods import DAY_MS, EARLIEST_MS, LATEST_MS, Every, anchor_of, anchored


def at(text: str) -> int:
    """Milliseconds of an instant in UTC."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("every", "day", "second", "now", "start", "end"),
    [
        ("day", 0, 0, "2027-01-15 08:00:30", "2027-01-15 00:00:00", "2027-01-16 00:00:00"),
        ("day", 0, 32400, "2027-01-15 08:59:59", "2027-01-14 09:00:00", "2027-01-15 09:00:00"),
        ("day", 0, 32400, "2027-01-15 09:00:00", "2027-01-15 09:00:00", "2027-01-16 09:00:00"),
        ("week", 0, 0, "2027-01-15 08:00:30", "2027-01-11 00:00:00", "2027-01-18 00:00:00"),
        ("week", 0, 0, "2027-01-11 00:00:00", "2027-01-11 00:00:00", "2027-01-18 00:00:00"),
        ("week", 4, 36000, "2027-01-15 08:00:30", "2027-01-08 10:00:00", "2027-01-15 10:00:00"),
        ("week", 6, 0, "2026-12-31 12:00:00", "2026-12-27 00:00:00", "2027-01-03 00:00:00"),
        ("month", 1, 0, "2027-01-15 08:00:30", "2027-01-01 00:00:00", "2027-02-01 00:00:00"),
        ("month", 20, 3600, "2027-01-15 08:00:30", "2026-12-20 01:00:00", "2027-01-20 01:00:00"),
        ("month", 31, 0, "2027-02-10 00:00:00", "2027-01-31 00:00:00", "2027-02-28 00:00:00"),
        ("month", 31, 0, "2027-02-28 00:00:00", "2027-02-28 00:00:00", "2027-03-31 00:00:00"),
        ("month", 31, 0, "2028-02-28 23:59:59", "2028-01-31 00:00:00", "2028-02-29 00:00:00"),
        ("month", 30, 0, "2027-03-01 00:00:00", "2027-02-28 00:00:00", "2027-03-30 00:00:00"),
        ("month", 31, 86399, "2027-04-30 23:59:59", "2027-04-30 23:59:59", "2027-05-31 23:59:59"),
        ("month", 15, 0, "2026-12-31 23:59:59", "2026-12-15 00:00:00", "2027-01-15 00:00:00"),
        ("month", 0, 0, "2027-01-15 08:00:30", "2027-01-01 00:00:00", "2027-02-01 00:00:00"),
    ],
)
def test_borders(every: Every, day: int, second: int, now: str, start: str, end: str) -> None:
    """A period begins on its day at its second, or on the last day of a month that is shorter."""
    assert anchored(every, day, second, 0, at(now)) == (at(start), at(end))


EVERY = st.sampled_from(["day", "week", "month", None])


@given(
    EVERY, st.integers(-5, 40), st.integers(-10, 100_000), st.integers(1, 10**12), st.integers(EARLIEST_MS, LATEST_MS)
)
def test_periods_follow_one_another(every: Every | None, day: int, second: int, length_ms: int, now_ms: int) -> None:
    """Each instant lies in one period, and the next period begins where it ends."""
    start, end = anchored(every, day, second, length_ms, now_ms)
    assert start <= now_ms < end
    if end < LATEST_MS:
        assert anchored(every, day, second, length_ms, end)[0] == end


@given(EVERY, st.integers(-(10**30), 10**30))
def test_a_wrong_clock_breaks_nothing(every: Every | None, now_ms: int) -> None:
    """An instant beyond the calendar counts as its nearest end."""
    assert anchored(every, 31, 0, DAY_MS, now_ms) == anchored(
        every, 31, 0, DAY_MS, min(max(now_ms, EARLIEST_MS), LATEST_MS)
    )


@given(st.sampled_from(["day", "week", "month"]), st.integers(EARLIEST_MS, LATEST_MS))
def test_an_anchor_is_where_a_period_begins(every: Every, instant_ms: int) -> None:
    """What begins at an instant is found again from that instant."""
    begins = instant_ms // 1000 * 1000
    day, second = anchor_of(every, begins)
    assert anchored(every, day, second, 0, begins)[0] == begins
