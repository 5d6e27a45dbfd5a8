"""When a quota period begins and ends: arithmetic on the UTC calendar, and nothing else.

All instants are wall-clock milliseconds since 1970. UTC has no summer time, so each day has the same length and only
months differ. An instant beyond the calendar counts as its nearest end: a clock that is wrong must not break anything.
"""

from __future__ import annotations

import calendar
from datetime import UTC, datetime
from typing import Literal

Every = Literal["day", "week", "month"]

DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS
EARLIEST_MS = 31 * DAY_MS  # a month before it can still be written
LATEST_MS = 250_000_000_000_000  # in the year 9892
_FIRST_MONDAY_MS = -3 * DAY_MS  # 1 January 1970 was a Thursday


def clamped(instant_ms: int) -> int:
    """The instant, or the end of the calendar that it lies beyond."""
    return min(max(instant_ms, EARLIEST_MS), LATEST_MS)


def anchored(every: Every | None, day: int, second: int, length_ms: int, now_ms: int) -> tuple[int, int]:
    """The borders of the period that `now_ms` lies in: `start <= now_ms < end`.

    `day` is a weekday (Monday is 0) or a day of the month (1 to 31, the last one where a month is shorter), `second`
    counts from midnight UTC. Without `every`, periods of `length_ms` follow one another from 1970.
    """
    now_ms = clamped(now_ms)
    shift = min(max(second, 0), 86_399) * 1000
    if every == "month":
        return _month(day, shift, now_ms)
    if every == "week":
        return _repeating(_FIRST_MONDAY_MS + (day % 7) * DAY_MS + shift, WEEK_MS, now_ms)
    if every == "day":
        return _repeating(shift, DAY_MS, now_ms)
    return _repeating(0, max(length_ms, 1000), now_ms)


def anchor_of(every: Every, instant_ms: int) -> tuple[int, int]:
    """The (day, second) with which periods begin at `instant_ms`; the inverse of `anchored`."""
    moment = datetime.fromtimestamp(clamped(instant_ms) // 1000, UTC)
    second = moment.hour * 3600 + moment.minute * 60 + moment.second
    return {"day": 0, "week": moment.weekday(), "month": moment.day}[every], second


def _repeating(first_ms: int, length_ms: int, now_ms: int) -> tuple[int, int]:
    start = first_ms + (now_ms - first_ms) // length_ms * length_ms
    return start, start + length_ms


def _month(day: int, shift: int, now_ms: int) -> tuple[int, int]:
    moment = datetime.fromtimestamp(now_ms // 1000, UTC)
    months = moment.year * 12 + moment.month - 1
    border = _border(months, day, shift)
    if now_ms < border:
        return _border(months - 1, day, shift), border
    return border, _border(months + 1, day, shift)


def _border(months: int, day: int, shift: int) -> int:
    """Where the period of a month begins; `months` counts from the year 0."""
    year, month = divmod(months, 12)
    last = calendar.monthrange(year, month + 1)[1]
    midnight = calendar.timegm((year, month + 1, min(max(day, 1), last), 0, 0, 0))
    return midnight * 1000 + shift
