"""When a provider says to come back."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.routing.reset_times import back_in_s, instant_ms, retry_after_s

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
        # a nonsensical time is a long one, not an endless one
        ({"retry-after-ms": "1e300"}, 31 * 24 * 3600),
        ({"retry-after": "1e300"}, 31 * 24 * 3600),
        ({"retry-after": "9" * 300 + "d"}, 31 * 24 * 3600),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 31 * 24 * 3600),
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
    """An HTTP date is the time that is left until then, at most a month."""
    date = format_datetime(datetime.fromtimestamp(instant_s, UTC), usegmt=True)
    assert retry_after_s({"retry-after": date}, NOW_MS) == min(max(0, instant_s - NOW_MS // 1000), 31 * 24 * 3600)


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({}, b"", None),
        # the same instant, in every unit that it is seen in
        ({"x-ratelimit-reset-requests": "90", "x-ratelimit-remaining-requests": "0"}, b"", 90),
        ({"x-ratelimit-reset-requests": "1m30s", "x-ratelimit-remaining-requests": "0"}, b"", 90),
        ({"x-ratelimit-reset-requests": "90000ms", "x-ratelimit-remaining-requests": "0"}, b"", 90),
        ({"x-ratelimit-reset-tokens": "1800000090", "x-ratelimit-remaining-tokens": "0"}, b"", 90),
        ({"x-ratelimit-reset-tokens": "1800000090000", "x-ratelimit-remaining-tokens": "0"}, b"", 90),
        (
            {
                "anthropic-ratelimit-tokens-reset": "2027-01-15T08:01:30Z",
                "anthropic-ratelimit-tokens-remaining": "0",
            },
            b"",
            90,
        ),
        ({}, b'{"error":{"details":[{"retryDelay":"90s"}]}}', 90),
        ({}, b'{"error":{"metadata":{"headers":{"X-RateLimit-Reset":"1800000090000"}}}}', 90),
        ({}, b"You will regain access on 2027-01-15 at 08:02 UTC.", 120),
        ({}, b"You will regain access on 2027-99-15 at 08:02 UTC.", None),
        ({}, b'{"error":{"code":"1308","next_flush_time":1800000090000}}', 90),
        ({}, b'{"error":{"message":"Rate limit reached. Please try again in 90s."}}', 90),
        ({}, b'{"error":{"message":"Please try again in 1m30s."}}', 90),
        ({}, b"retry after 90 seconds", 90),
        ({}, b"retry after " + b"9" * 400 + b" seconds", 31 * 24 * 3600),
        ({"x-ratelimit-reset": "1e300", "x-ratelimit-remaining": "0"}, b"", 31 * 24 * 3600),
        ({}, b"retry after 500 milliseconds", 0.5),
        ({}, b'{"error":{"message":"Try again in 250ms"}}', 0.25),
        ({}, b'{"error":{"message":"The limit resets in 2 hours"}}', 7200),
        ({}, b'{"error":{"resets_in_seconds":90}}', 90),
        ({}, b'{"metadata":{"headers":{"X-RateLimit-Remaining":"0","X-RateLimit-Reset":"1800000090000"}}}', 90),
        ({}, b"You will regain access on 2027-01-15 at 09:00 UTC.", 3600),
        ({}, b"You will regain access on 2027-19-15 at 09:00 UTC.", None),
        # several parts, as OpenCode Go, its console and Codex write them
        ({}, b"5-hour usage limit reached. Resets in 4hr 59min.", 4 * 3600 + 59 * 60),
        ({}, b"It will reset in 5 days 10 hours.", 5 * 86400 + 36000),
        ({}, b"or try again in 5 days, 22 hours and 11 minutes.", 5 * 86400 + 22 * 3600 + 660),
        ({}, b"Please try again in 1 week", 604800),
        # an instant in a sentence; without a zone it is Beijing's (UTC+8), where that is still to come, else UTC's
        ({}, b"limit reached (0/0 used), resets at 2027-01-15T08:01:30Z (2056)", 90),
        ({}, b"limit reached, resets at 2027-01-15T09:01:30+01:00", 90),
        ({}, b"Usage limit reached for 5 hour. Your limit will reset at 2027-01-15 16:01:30", 90),
        ({}, "您的限额将在 2027-01-15 16:01:30 重置".encode(), 90),
        ({}, b"Your limit will reset at 2027-01-15 08:01:30", 90),
        ({}, b"Your limit will reset at 2026-01-15 08:01:30", 0),
        ({}, b"Your limit will reset at 2027-13-15 08:01:30", None),
        # a limit of which something remains says nothing about this failure; of several used up the last one counts
        ({"x-ratelimit-reset-requests": "90", "x-ratelimit-remaining-requests": "12"}, b"", None),
        ({"x-ratelimit-reset-requests": "90"}, b"", None),
        (
            {
                "x-ratelimit-reset-requests": "90",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "6m0s",
                "x-ratelimit-remaining-tokens": "0",
            },
            b"",
            360,
        ),
        # the more direct word comes first
        ({"retry-after": "7"}, b'{"retryDelay":"90s"}', 90),
        ({"retry-after": "7", "x-ratelimit-reset-requests": "90", "x-ratelimit-remaining-requests": "0"}, b"", 7),
        ({"retry-after": "7"}, b"try again in 90s", 7),
        # what is no time is passed over
        ({"retry-after": "7"}, b'{"retryDelay":"soon"}', 7),
        ({"x-ratelimit-reset-requests": "never", "x-ratelimit-remaining-requests": "0"}, b"", None),
    ],
)
def test_every_place_and_unit(headers: dict[str, str], body: bytes, seconds: float | None) -> None:
    """A time means the same wherever and however a provider writes it, and the place nearest to the failure counts."""
    assert back_in_s(headers, body, NOW_MS) == seconds


@given(
    st.dictionaries(st.sampled_from(["retry-after", "x-ratelimit-reset", "x-ratelimit-remaining"]), st.text()),
    st.binary(),
)
def test_nonsense_is_no_time(headers: dict[str, str], body: bytes) -> None:
    """Whatever a provider sends, the answer is a time between nothing and a month, or none."""
    told = back_in_s(headers, body, NOW_MS)
    assert told is None or 0 <= told <= 31 * 24 * 3600


@pytest.mark.parametrize(
    "told",
    [90, 90.0, "90", "90s", "1m30s", 1_800_000_090, 1_800_000_090_000, "1800000090000", "2027-01-15T08:01:30.000Z"],
)
def test_a_field_means_an_instant(told: object) -> None:
    """Whatever the unit, it is the same moment, to the millisecond."""
    assert instant_ms(told, NOW_MS) == NOW_MS + 90_000
    assert instant_ms(1_800_000_090_123, NOW_MS) == NOW_MS + 90_123


@pytest.mark.parametrize("told", [None, True, "", "soon", -1, float("nan"), float("inf"), 10**400, [], {}])
def test_a_field_that_is_no_time_is_none(told: object) -> None:
    """Nonsense is passed over."""
    assert instant_ms(told, NOW_MS) is None


@given(st.integers() | st.floats() | st.text(max_size=30) | st.datetimes().map(str))
def test_an_instant_lies_between_now_and_a_month_from_now(told: object) -> None:
    """What is over is now, and nothing is further away than any window is long."""
    found = instant_ms(told, NOW_MS)
    assert found is None or NOW_MS <= found <= NOW_MS + 31 * 24 * 3600 * 1000


@given(st.integers(1, 30 * 24 * 3600))
def test_one_instant_in_any_unit(seconds: int) -> None:
    """Seconds, milliseconds, a duration, a date in either form and an epoch in either unit mean the same."""
    instant = datetime.fromtimestamp(NOW_MS // 1000 + seconds, UTC)
    minutes, rest = divmod(seconds, 60)
    spent = {"x-ratelimit-remaining": "0"}
    told = [
        {"retry-after": str(seconds)},
        {"retry-after-ms": str(seconds * 1000)},
        {"retry-after": format_datetime(instant, usegmt=True)},
        {"retry-after": f"{instant:%Y-%m-%dT%H:%M:%SZ}"},
        spent | {"x-ratelimit-reset": f"{minutes}m{rest}s"},
        spent | {"x-ratelimit-reset": str(NOW_MS // 1000 + seconds)},
        spent | {"x-ratelimit-reset": str(NOW_MS + seconds * 1000)},
    ]
    assert [back_in_s(headers, b"", NOW_MS) for headers in told] == [seconds] * len(told)
