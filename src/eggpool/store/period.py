"""Periods as people write them in the address of a page. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from eggpool.errors import BadRequest

_LENGTH = re.compile(r"^([1-9]\d{0,4})([mhdw])$")
_UNIT_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_HELP = 'Use 1h, 24h, 7d, 30d, an ISO date or time such as 2026-11-03, or two of them as "START..END".'
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_period(text: str, now_ms: int) -> tuple[int, int]:
    """The period as (since, until) in milliseconds since 1970; what happens at `until` is not part of it.

    `24h` ends now, a start alone lasts until now, and so does `START..`. A time without an offset is UTC, and an END
    that is a date includes that day. Raises BadRequest.
    """
    text = text.strip()
    length = _LENGTH.match(text)
    if length is not None:
        return now_ms - int(length[1]) * _UNIT_MS[length[2]], now_ms
    start, dots, end = text.partition("..")
    since, _ = _instant(start)
    until = now_ms
    if dots and end.strip():
        until, is_date = _instant(end)
        until += _UNIT_MS["d"] if is_date else 0
    if since >= until:
        raise BadRequest("The period ends before it begins.", param="period")
    return since, until


def _instant(text: str) -> tuple[int, bool]:
    """Milliseconds since 1970, and whether it was a date without a time."""
    text = text.strip()
    try:
        # A "+" in an address is read as a space, and so comes back as one before the offset.
        moment = datetime.fromisoformat(re.sub(r" (\d\d:\d\d)$", r"+\1", text) if "T" in text else text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (moment - _EPOCH) // timedelta(milliseconds=1), len(text) <= len("2026-11-03")
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"The period is not understood. {_HELP}", param="period") from error
