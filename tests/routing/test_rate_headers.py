"""Rate-limit headers, as each provider writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.domain import QuotaReport, QuotaUnit, WindowKind
from eggpool.routing.rate_headers import MINUTES, Periods, periods_of, read

NOW_MS = 1_800_000_000_000
MINUTE, DAY, MONTH = 60, 86_400, 30 * 86_400
REQUESTS, TOKENS = QuotaUnit.REQUESTS, QuotaUnit.TOKENS
GROQ = periods_of("https://api.groq.com/openai/v1")
OPENROUTER = periods_of("https://openrouter.ai/api/v1")


def told(text: str, periods: Periods = MINUTES) -> tuple[QuotaReport, ...]:
    """What lines of headers say about the model `m`."""
    lines = [line.strip().partition(": ") for line in text.strip().splitlines()]
    return read([(name.encode(), value.encode()) for name, _, value in lines], NOW_MS, model="m", periods=periods)


def report(
    window: str, unit: QuotaUnit, used: int, limit: int, back_s: float | None, length_s: int | None
) -> QuotaReport:
    """A report on the model `m`."""
    back_ms = None if back_s is None else NOW_MS + round(back_s * 1000)
    return QuotaReport(
        window, NOW_MS, unit, used / limit, used, limit, back_ms, length_s, WindowKind.ROLLING, "m", exhausted=False
    )


@pytest.mark.parametrize(
    ("text", "periods", "reports"),
    [
        (  # OpenAI
            """x-request-id: req_1
            x-ratelimit-limit-requests: 5000
            x-ratelimit-remaining-requests: 4999
            x-ratelimit-reset-requests: 12ms
            x-ratelimit-limit-tokens: 160000
            x-ratelimit-remaining-tokens: 40000
            x-ratelimit-reset-tokens: 6m0s""",
            MINUTES,
            (
                report("requests_minute", REQUESTS, 1, 5000, 0.012, MINUTE),
                report("tokens_minute", TOKENS, 120_000, 160_000, 360, MINUTE),
            ),
        ),
        (  # Anthropic
            """anthropic-ratelimit-requests-limit: 50
            anthropic-ratelimit-requests-remaining: 0
            anthropic-ratelimit-requests-reset: 2027-01-15T08:00:30Z
            anthropic-ratelimit-tokens-limit: 48000
            anthropic-ratelimit-tokens-remaining: 36000
            anthropic-ratelimit-tokens-reset: 2027-01-15T08:00:15Z
            anthropic-ratelimit-input-tokens-limit: 40000
            anthropic-ratelimit-input-tokens-remaining: 30000
            anthropic-ratelimit-input-tokens-reset: 2027-01-15T08:00:15Z
            anthropic-ratelimit-output-tokens-limit: 8000
            anthropic-ratelimit-output-tokens-remaining: 8000
            anthropic-ratelimit-output-tokens-reset: 2027-01-15T08:00:00Z
            anthropic-ratelimit-unified-status: allowed""",
            MINUTES,
            (
                report("requests_minute", REQUESTS, 50, 50, 30, MINUTE),
                report("tokens_minute", TOKENS, 12_000, 48_000, 15, MINUTE),
                report("input_tokens_minute", TOKENS, 10_000, 40_000, 15, MINUTE),
                report("output_tokens_minute", TOKENS, 0, 8000, 0, MINUTE),
            ),
        ),
        (  # Groq: requests of a day, tokens of a minute
            """x-ratelimit-limit-requests: 14400
            x-ratelimit-limit-tokens: 18000
            x-ratelimit-remaining-requests: 14370
            x-ratelimit-remaining-tokens: 17997
            x-ratelimit-reset-requests: 2m59.56s
            x-ratelimit-reset-tokens: 7.66s""",
            GROQ,
            (
                report("requests_day", REQUESTS, 30, 14_400, 179.56, DAY),
                report("tokens_minute", TOKENS, 3, 18_000, 7.66, MINUTE),
            ),
        ),
        (  # Cerebras
            """x-ratelimit-limit-requests-day: 1000000000
            x-ratelimit-limit-tokens-minute: 1000000000
            x-ratelimit-remaining-requests-day: 999997455
            x-ratelimit-remaining-tokens-minute: 999998298
            x-ratelimit-reset-requests-day: 33011.382867813110351562
            x-ratelimit-reset-tokens-minute: 11.382867813110351562""",
            MINUTES,
            (
                report("requests_day", REQUESTS, 2545, 10**9, 33011.383, DAY),
                report("tokens_minute", TOKENS, 1702, 10**9, 11.383, MINUTE),
            ),
        ),
        (  # DigitalOcean; seconds since 1970
            """x-ratelimit-limit-tokens-per-day: 1000
            x-ratelimit-remaining-tokens-per-day: 250
            x-ratelimit-reset-tokens-per-day: 1800003600
            x-ratelimit-limit-tokens-per-minute: 100
            x-ratelimit-remaining-tokens-per-minute: 100""",
            MINUTES,
            (
                report("tokens_day", TOKENS, 750, 1000, 3600, DAY),
                report("tokens_minute", TOKENS, 0, 100, None, MINUTE),
            ),
        ),
        (  # Mistral
            """x-ratelimit-limit-tokens-minute: 5000000
            x-ratelimit-remaining-tokens-minute: 4999911
            x-ratelimit-tokens-query-cost: 52
            x-ratelimit-limit-req-minute: 720
            x-ratelimit-remaining-req-minute: 717
            x-ratelimitbysize-limit-month: 2000
            x-ratelimitbysize-remaining-month: 1000""",
            MINUTES,
            (
                report("tokens_minute", TOKENS, 89, 5_000_000, None, MINUTE),
                report("requests_minute", REQUESTS, 3, 720, None, MINUTE),
                report("tokens_month", TOKENS, 1000, 2000, None, MONTH),
            ),
        ),
        (  # OpenRouter, with a 429; milliseconds since 1970
            """x-ratelimit-limit: 20
            x-ratelimit-remaining: 0
            x-ratelimit-reset: 1800000060000""",
            OPENROUTER,
            (report("requests", REQUESTS, 20, 20, 60, None),),
        ),
    ],
)
def test_each_providers_headers(text: str, periods: Periods, reports: tuple[QuotaReport, ...]) -> None:
    """Limit, use and reset of each window that is told of, in its unit and with its length."""
    assert told(text, periods) == reports


@pytest.mark.parametrize(
    "text",
    [
        "content-type: application/json\nx-request-id: 1\nratelimit-limit: 1000",
        "x-ratelimit-limit-tokens: 100",
        "x-ratelimit-remaining-tokens: 100",
        "x-ratelimit-limit-tokens: 0\nx-ratelimit-remaining-tokens: 0",
        "x-ratelimit-limit-tokens: many\nx-ratelimit-remaining-tokens: 0",
        "x-ratelimit-limit-tokens: -5\nx-ratelimit-remaining-tokens: 0",
        "x-ratelimit-limit-tokens: nan\nx-ratelimit-remaining-tokens: inf",
        "x-ratelimit-limit-tokens-prompt: 100\nx-ratelimit-remaining-tokens-prompt: 1",
        "x-ratelimit-limit-limit-tokens: 100\nx-ratelimit-remaining-tokens: 1",
        "x-ratelimit-limit-requests-tokens: 100\nx-ratelimit-remaining-requests-tokens: 1",
        "x-ratelimit-tokens: 100\nx-ratelimit-: 100\nx-ratelimit-over-limit: no",
    ],
)
def test_what_is_not_understood_is_no_report(text: str) -> None:
    """Half of a window, an unknown word and a number that is none are passed over."""
    assert told(text) == ()


def test_more_than_the_limit_may_remain() -> None:
    """A burst allowance is no negative use."""
    (found,) = told("x-ratelimit-limit-tokens: 100\nx-ratelimit-remaining-tokens: 150.0")
    assert (found.used, found.used_share) == (0, 0.0)


def test_a_provider_behind_an_odd_address_counts_minutes() -> None:
    """Only known hosts mean something else by a bare name."""
    assert periods_of("https://api.openai.com/v1") is MINUTES
    assert periods_of("http://[::1") is MINUTES
    assert GROQ["requests"] == "day"


WORDS = st.sampled_from(["limit", "remaining", "reset", "requests", "tokens", "input", "day", "per", "x", ""])
NAMES = st.builds(
    lambda start, words: (start + "-".join(words)).encode(),
    st.sampled_from(["x-ratelimit-", "anthropic-ratelimit-", "ratelimitbysize-", "x-"]),
    st.lists(WORDS, max_size=5),
)


@given(st.lists(st.tuples(NAMES | st.binary(max_size=30), st.binary(max_size=30) | st.just(b"5")), max_size=12))
def test_no_header_raises(headers: list[tuple[bytes, bytes]]) -> None:
    """Whatever is sent, each report has a share that is a part of its limit, and none is the last word."""
    for found in read(headers, NOW_MS):
        assert found.used_share is not None
        assert 0 <= found.used_share <= 1
        assert found.exhausted is False
