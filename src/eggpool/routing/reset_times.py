"""When a provider says to come back: the headers and body fields that carry a time, in every unit they are seen in.

Sources: RFC 9110 section 10.2.3 (Retry-After: seconds or a date); OpenAI's `retry-after-ms` and `x-ratelimit-reset-*`
(durations such as `6m0s`); Anthropic's `anthropic-ratelimit-*-reset` (RFC 3339) and "regain access on"; Gemini's
`RetryInfo.retryDelay`; Z.ai's `next_flush_time`, which it writes into its sentences in Beijing time; OpenCode Go's
"Resets in 4hr 59min"; OpenRouter's `X-RateLimit-Reset` inside the body. Some write an instant where a duration
belongs, in seconds or milliseconds since 1970: told apart by magnitude, because no rest lasts for thirty years.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

from eggpool.routing.health import LONGEST_TOLD_S

_EARLIEST_INSTANT_S = 1e9  # 2001; as a duration thirty years
_EARLIEST_INSTANT_MS = 1e12
_NO_INSTANT = 1e300
_UNIT_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_BEIJING = timezone(timedelta(hours=8))

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
_IN_BODY = re.compile(
    rb'"(?:next_flush_time|nextFlushTime|retryDelay|retry_after|resets_at|reset_at|resets_in_seconds|X-RateLimit-Reset)"'
    rb'\s*:\s*"?([^",}\]]{1,40})'
)
_PART = (
    r"(\d+(?:\.\d+)?) ?"
    r"(milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|w)(?![a-z])"
)
_WORDS_PART = re.compile(_PART, re.I)
_IN_WORDS = re.compile(
    rf"(?:try again|retry|available again|resets?) (?:in|after) ((?:{_PART}(?:,? (?:and )?)?){{1,5}})", re.I
)
_REGAINED = re.compile(r"regain access on (\d{4}-\d\d-\d\d) at (\d\d:\d\d) UTC")
_AT_WORDS = re.compile(
    r"(?:resets? (?:at|on)|将在) ?(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?)", re.I
)


def back_in_s(headers: Mapping[str, str], body: bytes, now_ms: int) -> float | None:
    """Seconds until the provider wants to be asked again, None when it does not say; never more than `LONGEST_TOLD_S`.

    `headers` has lower-case names; `body` is the error's. What stands in the body is about this very limit, so it comes
    first, then Retry-After, then the resets of limits that are used up, then words.
    """
    field = _IN_BODY.search(body)
    told = None if field is None else _moment(field[1].decode("utf-8", "replace").strip(), now_ms)
    if told is None:
        told = retry_after_s(headers, now_ms)
    if told is None:
        told = max(_used_up(headers, now_ms), default=None)
    if told is None:
        told = _in_words(body[:4096].decode("utf-8", "replace"), now_ms)
    return _bounded(told)


def retry_after_s(headers: Mapping[str, str], now_ms: int) -> float | None:
    """What Retry-After says, in milliseconds, seconds or as a date; never more than `LONGEST_TOLD_S`."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        instant = milliseconds >= _EARLIEST_INSTANT_MS
        return _bounded(_duration(milliseconds, now_ms) if instant else milliseconds / 1000)
    told = headers.get("retry-after")
    return None if told is None else _bounded(_moment(told.strip(), now_ms))


def instant_ms(told: object, now_ms: int) -> int | None:
    """The instant that a field means, in milliseconds since 1970; None when it is no time.

    A number, or text in any form: an instant in seconds or milliseconds since 1970, RFC 3339, an HTTP date, or a time
    from now. What is over is now; what is further away than a month is a month away.
    """
    if isinstance(told, str):
        seconds = _bounded(_moment(told.strip(), now_ms))
    elif isinstance(told, int | float) and not isinstance(told, bool) and 0 <= told < _NO_INSTANT:
        seconds = _bounded(_duration(told, now_ms))
    else:
        return None
    return None if seconds is None else now_ms + round(seconds * 1000)


def _bounded(told_s: float | None) -> float | None:
    return None if told_s is None else min(told_s, LONGEST_TOLD_S)


def _in_words(text: str, now_ms: int) -> float | None:
    regained = _REGAINED.search(text)
    if regained is not None:
        return _moment(f"{regained[1]}T{regained[2]}+00:00", now_ms)
    words = _IN_WORDS.search(text)
    if words is not None:
        return sum(
            float(amount) * _UNIT_S["ms" if unit.lower().startswith(("ms", "milli")) else unit[0].lower()]
            for amount, unit in _WORDS_PART.findall(words[1])
        )
    at = _AT_WORDS.search(text)
    if at is None:
        return None
    try:
        instant = datetime.fromisoformat(at[1])
    except ValueError:
        return None
    if instant.tzinfo is not None:
        return max(0.0, instant.timestamp() - now_ms / 1000)
    # Written without a zone it is Z.ai's, and Beijing's time; somebody else's UTC is then the later one.
    waits = [instant.replace(tzinfo=zone).timestamp() - now_ms / 1000 for zone in (_BEIJING, UTC)]
    return next((wait for wait in waits if wait > 0), 0.0)


def _lasting(duration: str) -> float:
    return sum(float(amount) * _UNIT_S[unit] for amount, unit in _DURATION_PART.findall(duration))


def _used_up(headers: Mapping[str, str], now_ms: int) -> Iterator[float]:
    """When the limits come back of which nothing remains."""
    for name, value in headers.items():
        if "ratelimit" not in name or "reset" not in name:
            continue
        if _number(headers.get(name.replace("reset", "remaining"))) == 0:
            told = _moment(value.strip(), now_ms)
            if told is not None:
                yield told


def _moment(text: str, now_ms: int) -> float | None:
    """Seconds from now, whether `text` is a number, a duration such as 6m0s, an RFC 3339 instant or an HTTP date."""
    number = _number(text) if text[-1:].isdigit() else None  # a failed conversion costs more than all the rest
    if number is not None:
        return _duration(number, now_ms)
    if _DURATION.fullmatch(text):
        return _lasting(text)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return _until_date(text, now_ms)
    instant = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return max(0.0, instant.timestamp() - now_ms / 1000)


def _duration(number: float, now_ms: int) -> float:
    """Seconds, whether `number` is a duration in seconds or an instant in seconds or milliseconds."""
    if number < _EARLIEST_INSTANT_S:
        return number
    instant_s = number if number < _EARLIEST_INSTANT_MS else number / 1000
    return max(0.0, instant_s - now_ms / 1000)


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text.strip())
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _until_date(text: str, now_ms: int) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:  # "-0000" claims no zone; the machine's own would be a guess
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now_ms / 1000)
