"""When a provider says to come back: the headers that carry a time, in every unit that they are seen in.

Sources: RFC 9110 section 10.2.3 (Retry-After: seconds or a date); OpenAI's `retry-after-ms`. Some providers write an
instant where a duration belongs, in seconds or milliseconds since 1970: told apart by magnitude, because no rest lasts
for thirty years.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

_EARLIEST_INSTANT_S = 1e9  # 2001; as a duration thirty years
_EARLIEST_INSTANT_MS = 1e12


def retry_after_s(headers: Mapping[str, str], now_ms: int) -> float | None:
    """Seconds until the provider wants to be asked again, None when it does not say. `headers` has lower-case names."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _duration(milliseconds, now_ms) if milliseconds >= _EARLIEST_INSTANT_MS else milliseconds / 1000
    told = headers.get("retry-after")
    if told is None:
        return None
    seconds = _number(told)
    return _duration(seconds, now_ms) if seconds is not None else _until_date(told, now_ms)


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
