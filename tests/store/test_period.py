"""Periods as people write them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.errors import BadRequest
from eggpool.store.period import parse_period

NOW = 1_800_000_000_000
HOUR = 3_600_000
DAY = 24 * HOUR
NOV_3 = 1_793_664_000_000  # 2026-11-03 00:00 UTC


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("1h", NOW - HOUR, NOW),
        ("24h", NOW - DAY, NOW),
        ("7d", NOW - 7 * DAY, NOW),
        ("30d", NOW - 30 * DAY, NOW),
        ("2w", NOW - 14 * DAY, NOW),
        ("90m", NOW - 90 * 60_000, NOW),
        ("2026-11-03", NOV_3, NOW),
        ("2026-11-03..", NOV_3, NOW),
        ("2026-11-03T12:00:00Z", NOV_3 + 12 * HOUR, NOW),
        ("2026-11-03T12:00:00+02:00", NOV_3 + 10 * HOUR, NOW),
        ("2026-11-03T12:00:00 02:00", NOV_3 + 10 * HOUR, NOW),
        ("2026-11-03..2026-11-03", NOV_3, NOV_3 + DAY),
        ("2026-11-03T01:00 .. 2026-11-03T02:30", NOV_3 + HOUR, NOV_3 + 2 * HOUR + HOUR // 2),
    ],
)
def test_what_is_understood(text: str, since: int, until: int) -> None:
    """Lengths end now, dates are UTC, and an end that is a date includes its day."""
    assert parse_period(text, NOW) == (since, until)


@pytest.mark.parametrize("text", ["", "0h", "-1h", "1y", "tomorrow", "..", "..2026-11-03", "2026-11-04..2026-11-03"])
def test_what_is_refused(text: str) -> None:
    """Anything else is a 400 that names the parameter."""
    with pytest.raises(BadRequest) as caught:
        parse_period(text, NOW)
    assert caught.value.param == "period"


@given(st.text(max_size=40) | st.from_regex(r"[0-9T:.+ -]{1,40}"))
def test_any_text_is_a_period_or_refused(text: str) -> None:
    """Nothing but a BadRequest comes out, and a period has a length."""
    with contextlib.suppress(BadRequest):
        since, until = parse_period(text, NOW)
        assert since < until
