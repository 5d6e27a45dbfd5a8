"""Rate-limit headers of replies: what a provider says about its windows with every answer.

Headers in, reports out; what a report leads to is `quota`'s. The names are made of words, which are read by a table,
so that one grammar covers OpenAI (`x-ratelimit-remaining-tokens`), Anthropic
(`anthropic-ratelimit-input-tokens-reset`), Cerebras (`x-ratelimit-limit-requests-day`), DigitalOcean
(`x-ratelimit-limit-tokens-per-day`), Mistral (`x-ratelimit-remaining-req-minute`), OpenRouter (`x-ratelimit-reset`) and
whoever else speaks like that; a name with any other word is passed over.

Sources: the rate-limit pages of these providers; for Groq, whose `requests` are those of a day, console.groq.com/docs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from eggpool.domain import QuotaReport, QuotaUnit, WindowKind
from eggpool.routing.reset_times import instant_ms

Periods = Mapping[str, str]
"""By what is counted ("requests", "tokens"): the period that a provider means where its headers name none."""

MINUTES: Periods = {"requests": "minute", "tokens": "minute", "input_tokens": "minute", "output_tokens": "minute"}
_BY_HOST: dict[str, Periods] = {
    "api.groq.com": {**MINUTES, "requests": "day"},
    "openrouter.ai": {},  # of a free model's minute or day: it does not say
}

LENGTHS_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 7 * 86_400, "month": 30 * 86_400}

_PREFIXES = (b"x-ratelimit-", b"anthropic-ratelimit-", b"x-ratelimitbysize-", b"ratelimitbysize-")
_FIELDS = frozenset({"limit", "remaining", "reset"})
_COUNTED = {
    "req": "requests",
    "request": "requests",
    "requests": "requests",
    "token": "tokens",
    "tokens": "tokens",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
}
_Window = tuple[str, str]  # what is counted, and the period, or nothing where the name has none
_LONGEST_NUMBER = 20  # digits


def periods_of(base_url: str) -> Periods:
    """The periods that the provider at this address means."""
    try:
        host = urlsplit(base_url).hostname or ""
    except ValueError:
        host = ""
    return _BY_HOST.get(host, MINUTES)


def read(
    headers: Iterable[tuple[bytes, bytes]], now_ms: int, *, model: str | None = None, periods: Periods = MINUTES
) -> tuple[QuotaReport, ...]:
    """The windows that a reply's headers tell of; `headers` has lower-case names.

    Such limits hold for a model at an account: `model` is the one that was asked. None of them says that nothing is
    left, even where 0 remains: these windows fill again all the time, and a provider that refuses says so itself, with
    the time to wait.
    """
    told: dict[_Window, dict[str, bytes]] | None = None
    for name, value in headers:
        if name.startswith(_PREFIXES):
            found = _meaning(name)
            if found is not None:
                field, window = found
                if told is None:
                    told = {}
                values = told.get(window)
                if values is None:
                    told[window] = {field: value}
                else:
                    values[field] = value
    if told is None:
        return ()
    reports = [_report(window, values, now_ms, model, periods) for window, values in told.items()]
    return tuple([report for report in reports if report is not None])


@lru_cache(maxsize=256)
def _meaning(name: bytes) -> tuple[str, _Window] | None:
    """Which field of which window a header is; None when it is neither."""
    text = name.decode("latin-1")
    _, _, rest = text.partition("ratelimit")
    counted = "tokens" if rest.startswith("bysize-") else ""
    rest = rest.removeprefix("bysize").removeprefix("-")
    field, period = "", ""
    for word in rest.replace("put-tokens", "put_tokens").split("-"):
        what = _COUNTED.get(word)
        if word in _FIELDS and not field:
            field = word
        elif what is not None and counted in ("", what):
            counted = what
        elif word in LENGTHS_S and not period:
            period = word
        elif word != "per":
            return None
    return (field, (counted or "requests", period)) if field else None


def _report(
    window: _Window, values: Mapping[str, bytes], now_ms: int, model: str | None, periods: Periods
) -> QuotaReport | None:
    counted, period = window
    limit, remaining = _count(values.get("limit")), _count(values.get("remaining"))
    if not limit or remaining is None:
        return None
    period = period or periods.get(counted, "")
    used = max(limit - remaining, 0)
    return QuotaReport(
        window=f"{counted}_{period}" if period else counted,
        at_ms=now_ms,
        unit=QuotaUnit.REQUESTS if counted == "requests" else QuotaUnit.TOKENS,
        used_share=used / limit,
        used=used,
        limit=limit,
        resets_at_ms=instant_ms(values.get("reset", b"").decode("latin-1"), now_ms),
        length_s=LENGTHS_S.get(period),
        kind=WindowKind.ROLLING,
        model=model,
        exhausted=False,
    )


def _count(text: bytes | None) -> int | None:
    """A whole number that is not negative, also when it is written with a fraction; else None."""
    if text is None or len(text) > _LONGEST_NUMBER:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if 0 <= value < 1e18 else None
