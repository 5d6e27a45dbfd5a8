"""When a provider says to come back: the headers that carry a time, in every unit that they are seen in.

Sources: RFC 9110 section 10.2.3 (Retry-After: seconds or a date); OpenAI's `retry-after-ms`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime


def retry_after_s(headers: Mapping[str, str], now_ms: int) -> float | None:
    """Seconds until the provider wants to be asked again, None when it does not say. `headers` has lower-case names."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    told = headers.get("retry-after")
    if told is None:
        return None
    seconds = _number(told)
    return seconds if seconds is not None else _until_date(told, now_ms)


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
    except (ValueError, TypeError):
        return None
    return max(0.0, moment.timestamp() - now_ms / 1000)
