"""Error bodies that name the window that is used up: a provider's own word that nothing is left, and until when.

An error's body in, reports out. Which rest an error leads to is `verdict`'s; here it is only about quota windows, and
an error that names none gives no report.

Sources: Z.ai (docs.z.ai/api-reference/api-code: 1308, 1310 and their sentences); OpenCode Go, Kimi and MiniMax (the
sentences of their plans' errors, as users quote them); Codex (`usage_limit_reached` with `resets_in_seconds`); Gemini
(`google.rpc.QuotaFailure` and `RetryInfo`, ai.google.dev/gemini-api/docs/rate-limits); OpenAI and Groq ("on tokens per
min (TPM): Limit 10000, Used 9000"); OpenRouter (`error.metadata.headers`, openrouter.ai/docs/api-reference/limits).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from eggpool.domain import QuotaReport, QuotaUnit, WindowKind
from eggpool.routing.rate_headers import LENGTHS_S
from eggpool.routing.reset_times import back_in_s, instant_ms

HOUR_S, DAY_S = 3600, 86_400
FIVE_HOURS_S, WEEK_S, MONTH_S = 5 * HOUR_S, 7 * DAY_S, 30 * DAY_S
_LONGEST_BODY = 64 * 1024
_LONGEST_MESSAGE = 4096

_OF_A_PLAN = frozenset({"1304", "1308", "1310", "usage_limit_reached", "GoUsageLimitError", "access_terminated_error"})
"""Codes and types that speak of a plan's window, whatever their words are."""

_USED_UP = re.compile(
    r"(?:limit|quota|allowance)s? (?:was |has been |is )?(?:reached|exceeded|exhausted|used up)"
    r"|(?:reached|exceeded|hit|used up|exhausted) (?:your|the|its) .{0,60}?(?:limit|quota)|使用上限",
    re.I,
)
_WHEN_BACK = re.compile(r"resets?\b|try again|refresh|available again|将在", re.I)
_HOURS = re.compile(r"(\d{1,3})[ -]?(?:hours?|hrs?|h|小时)(?![a-z])", re.I)
_NAMED = (
    (re.compile(r"\bdaily\b|\bper[ -]day\b|\b(?:24|1)[ -]?(?:hours?|day)\b|每日|每天", re.I), "daily", DAY_S),
    (re.compile(r"\bweek(?:ly)?\b|\b7[ -]?days?\b|每周", re.I), "weekly", WEEK_S),
    (re.compile(r"\bmonth(?:ly)?\b|\bbilling cycle\b|\b30[ -]?days?\b|每月", re.I), "monthly", MONTH_S),
)
_COUNTED = re.compile(
    r"\bon (?P<counted>requests|tokens|input tokens|output tokens) per (?P<period>min|minute|hour|day|week)\b"
    r"(?:.{0,40}?Limit:? (?P<limit>\d{1,15}))?",
    re.I,
)
_FREE_MODELS = re.compile(r"free-models-per-(min|day)")
_QUOTA_ID = re.compile(r"Per(Day|Minute)")

# A day at Google begins at midnight in California: 08:00 UTC in winter, an hour earlier in summer. The later one never
# leads to a request an hour before its time, and then to one day more of waiting.
_GOOGLE_DAY_S = 8 * HOUR_S


def read(body: bytes, now_ms: int, *, told_s: float | None = None, model: str | None = None) -> tuple[QuotaReport, ...]:
    """The windows that an error's body says are used up.

    `told_s` are the seconds until the provider wants to be asked again, from wherever it said so; `model` is the one
    that was asked.
    """
    error = _error(body)
    if not error:
        return ()
    message = _text(error.get("message"))[:_LONGEST_MESSAGE]
    if told_s is None:
        told_s = back_in_s({}, message.encode("utf-8", "replace"), now_ms)  # what stood behind escapes
    back_ms = None if told_s is None else now_ms + round(told_s * 1000)
    reports = tuple(_of_google(error, now_ms, back_ms, model))
    if not reports:
        reports = tuple(_of_openrouter(error, now_ms, model))
    if not reports:
        reports = tuple(_counted(message, now_ms, back_ms, model))
    if not reports:
        codes = {_text(error.get("code")), _text(error.get("type"))}
        reports = tuple(_of_a_plan(message, codes, now_ms, back_ms))
    return reports


def _of_a_plan(message: str, codes: set[str], now_ms: int, back_ms: int | None) -> Iterator[QuotaReport]:
    """The window of a plan, named in words, or else told from how far away its end is."""
    if codes.isdisjoint(_OF_A_PLAN) and not _USED_UP.search(message):
        return
    back = _WHEN_BACK.search(message)
    window = _named(message[: back.start()] if back else message, now_ms, back_ms)
    if window is None and "usage_limit_reached" in codes and back_ms is not None:
        # Codex has two windows; what is further away than five hours can only be the week.
        window = ("five_hour", FIVE_HOURS_S) if back_ms - now_ms <= FIVE_HOURS_S * 1000 else ("weekly", WEEK_S)
    if window is not None:
        yield QuotaReport(
            window=window[0],
            at_ms=now_ms,
            unit=QuotaUnit.PERCENT,
            used_share=1.0,
            resets_at_ms=back_ms,
            length_s=window[1],
            exhausted=True,
        )


def _named(text: str, now_ms: int, back_ms: int | None) -> tuple[str, int] | None:
    """Name and length of the window that a text speaks of; of several the first one that is long enough."""
    found: list[tuple[str, int]] = []
    hours = _HOURS.search(text)
    if hours is not None and int(hours[1]) not in (0, 24):
        count = int(hours[1])
        found.append(("five_hour" if count == 5 else f"{count}_hour", count * HOUR_S))
    found += [(name, length_s) for pattern, name, length_s in _NAMED if pattern.search(text)]
    wait_s = 0 if back_ms is None else (back_ms - now_ms) / 1000
    return next((window for window in found if window[1] >= wait_s), found[-1] if found else None)


def _counted(message: str, now_ms: int, back_ms: int | None, model: str | None) -> Iterator[QuotaReport]:
    told = _COUNTED.search(message)
    if told is None:
        return
    counted = told["counted"].lower().replace(" ", "_")
    period = told["period"].lower().replace("minute", "min").replace("min", "minute")
    limit = int(told["limit"]) if told["limit"] else None
    yield QuotaReport(
        window=f"{counted}_{period}",
        at_ms=now_ms,
        unit=QuotaUnit.REQUESTS if counted == "requests" else QuotaUnit.TOKENS,
        used_share=1.0,  # what is left is less than this request needs
        limit=limit,
        resets_at_ms=back_ms,
        length_s=LENGTHS_S[period],
        kind=WindowKind.ROLLING,
        model=model,
        exhausted=True,
    )


def _of_openrouter(error: dict[str, object], now_ms: int, model: str | None) -> Iterator[QuotaReport]:
    headers = {name.lower(): value for name, value in _table(_table(error.get("metadata")).get("headers")).items()}
    limit, remaining = _text(headers.get("x-ratelimit-limit")), _text(headers.get("x-ratelimit-remaining"))
    if remaining != "0":
        return
    free = _FREE_MODELS.search(_text(error.get("message")))
    period = {"min": "minute", "day": "day"}[free[1]] if free else None
    yield QuotaReport(
        window=f"free_models_{period}" if period else "requests",
        at_ms=now_ms,
        unit=QuotaUnit.REQUESTS,
        used_share=1.0,
        limit=int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 16 else None,
        resets_at_ms=instant_ms(headers.get("x-ratelimit-reset"), now_ms),
        length_s=LENGTHS_S[period] if period else None,
        model=model,
        exhausted=True,
    )


def _of_google(error: dict[str, object], now_ms: int, back_ms: int | None, model: str | None) -> Iterator[QuotaReport]:
    for detail in _tables(error.get("details")):
        if not _text(detail.get("@type")).endswith("QuotaFailure"):
            continue
        for violation in _tables(detail.get("violations")):
            quota_id = _text(violation.get("quotaId"))
            period = _QUOTA_ID.search(quota_id)
            if period is None:
                continue
            daily = period[1] == "Day"
            counted = "tokens" if "token" in quota_id.lower() else "requests"
            limit = _text(violation.get("quotaValue"))
            yield QuotaReport(
                window=f"{counted}_{'day' if daily else 'minute'}",
                at_ms=now_ms,
                unit=QuotaUnit.TOKENS if counted == "tokens" else QuotaUnit.REQUESTS,
                used_share=1.0,
                limit=int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 16 else None,
                resets_at_ms=_next_google_day_ms(now_ms) if daily else back_ms,
                length_s=DAY_S if daily else LENGTHS_S["minute"],
                kind=WindowKind.BLOCK if daily else WindowKind.ROLLING,
                model=model,
                exhausted=True,
            )


def _next_google_day_ms(now_ms: int) -> int:
    begun = (now_ms // 1000 - _GOOGLE_DAY_S) // DAY_S
    return ((begun + 1) * DAY_S + _GOOGLE_DAY_S) * 1000


def _error(body: bytes) -> dict[str, object]:
    """The error object of a body: below `error`, or the body itself; empty when there is none."""
    if len(body) > _LONGEST_BODY:
        return {}
    try:
        payload: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if isinstance(payload, list) and payload:
        payload = payload[0]  # Gemini's OpenAI surface puts its error into a list
    outer = _table(payload)
    inner = outer.get("error")
    if isinstance(inner, str):
        return {"message": inner}
    return _table(inner) or outer


def _table(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _tables(value: object) -> list[dict[str, object]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and -(10**18) < value < 10**18:
        return str(value)
    return value if isinstance(value, str) else ""
