"""Error bodies that say which window is used up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.domain import QuotaReport, QuotaUnit, WindowKind
from eggpool.routing.reset_times import back_in_s
from eggpool.routing.used_up import read

NOW_MS = 1_800_000_000_000  # 2027-01-15T08:00:00Z
HOUR, DAY = 3600, 86_400
ROLLING, BLOCK = WindowKind.ROLLING, WindowKind.BLOCK
REQUESTS, TOKENS, PERCENT = QuotaUnit.REQUESTS, QuotaUnit.TOKENS, QuotaUnit.PERCENT


def told(payload: object, model: str = "m") -> list[QuotaReport]:
    """What a body says, with the time to wait that is read from it."""
    body = json.dumps(payload).encode()
    return list(read(body, NOW_MS, told_s=back_in_s({}, body, NOW_MS), model=model))


def plan(window: str, length_s: int, back_s: int | None) -> QuotaReport:
    """A plan's window with nothing left."""
    back_ms = None if back_s is None else NOW_MS + back_s * 1000
    return QuotaReport(window, NOW_MS, PERCENT, used_share=1.0, resets_at_ms=back_ms, length_s=length_s, exhausted=True)


PLANS: list[tuple[Any, QuotaReport]] = [
    (  # Z.ai, in Beijing time
        {
            "error": {
                "code": "1308",
                "message": "Usage limit reached for 5 hour. Your limit will reset at 2027-01-15 18:30:00",
            }
        },
        plan("five_hour", 5 * HOUR, 2 * HOUR + 1800),
    ),
    (  # the same on its Anthropic surface
        {
            "type": "error",
            "error": {
                "type": "rate_limit_error",
                "code": "1308",
                "message": "[1308][Usage limit reached for 5 hour. Your limit will reset at 2027-01-15 18:30:00][x]",
            },
        },
        plan("five_hour", 5 * HOUR, 2 * HOUR + 1800),
    ),
    (  # BigModel
        {"error": {"code": "1308", "message": "已达到 5 小时的使用上限。您的限额将在 2027-01-15 18:30:00 重置。"}},
        plan("five_hour", 5 * HOUR, 2 * HOUR + 1800),
    ),
    (
        {
            "error": {
                "code": "1310",
                "message": "Weekly/Monthly Limit Exhausted. Your limit will reset at 2027-01-18 16:00:00",
            }
        },
        plan("weekly", 7 * DAY, 3 * DAY),
    ),
    (
        {
            "error": {
                "code": 1310,
                "message": "Weekly/Monthly Limit Exhausted. Your limit will reset at 2027-02-04 16:00:00",
            }
        },
        plan("monthly", 30 * DAY, 20 * DAY),
    ),
    (  # OpenCode Go
        {
            "type": "error",
            "error": {"type": "GoUsageLimitError", "message": "5-hour usage limit reached. Resets in 4hr 59min."},
        },
        plan("five_hour", 5 * HOUR, 4 * HOUR + 59 * 60),
    ),
    (
        {
            "type": "error",
            "error": {
                "type": "GoUsageLimitError",
                "message": "weekly usage limit reached. It will reset in 5 days 10 hours. To continue, enable usage.",
            },
        },
        plan("weekly", 7 * DAY, 5 * DAY + 10 * HOUR),
    ),
    (
        {"error": {"type": "GoUsageLimitError", "message": "Monthly usage limit reached. It will reset in 10 days."}},
        plan("monthly", 30 * DAY, 10 * DAY),
    ),
    (  # the time to wait is not the window's length
        {"error": {"type": "GoUsageLimitError", "message": "Weekly usage limit reached. Resets in 4hr 1min."}},
        plan("weekly", 7 * DAY, 4 * HOUR + 60),
    ),
    (  # Kimi
        {
            "error": {
                "message": "You've reached your weekly (7-day) usage limit. Your quota will reset when it ends.",
                "type": "access_terminated_error",
            }
        },
        plan("weekly", 7 * DAY, None),
    ),
    (
        {
            "error": {
                "message": "You've reached your usage limit for this billing cycle. Your quota will be refreshed then.",
                "type": "access_terminated_error",
            }
        },
        plan("monthly", 30 * DAY, None),
    ),
    (  # MiniMax
        {
            "type": "error",
            "error": {
                "type": "rate_limit_error",
                "message": "usage limit exceeded, 5-hour usage limit reached for Token Plan Starter (0/0 used),"
                " resets at 2027-01-15T09:00:00Z (2056)",
            },
        },
        plan("five_hour", 5 * HOUR, HOUR),
    ),
    (  # Codex, whose window is known by how far its end is away
        {
            "error": {
                "type": "usage_limit_reached",
                "message": "The usage limit has been reached",
                "resets_in_seconds": 9,
            }
        },
        plan("five_hour", 5 * HOUR, 9),
    ),
    (
        {"error": {"type": "usage_limit_reached", "plan_type": "plus", "resets_at": 1_800_000_000 + 6 * HOUR}},
        plan("weekly", 7 * DAY, 6 * HOUR),
    ),
    ({"error": {"message": "You have exceeded your daily quota."}}, plan("daily", DAY, None)),
    ({"error": "You have hit your 3-hour limit"}, plan("3_hour", 3 * HOUR, None)),
]


@pytest.mark.parametrize(("payload", "report"), PLANS)
def test_the_window_of_a_plan(payload: object, report: QuotaReport) -> None:
    """Which one, that nothing is left, and when it comes back; it is the account's, not the model's."""
    assert told(payload) == [report]


def test_gemini_names_each_quota() -> None:
    """A minute ends when RetryInfo says, a day at midnight in California, whatever RetryInfo says."""
    payload = [
        {
            "error": {
                "code": 429,
                "status": "RESOURCE_EXHAUSTED",
                "message": "You exceeded your current quota. Please retry in 34s.",
                "details": [
                    {
                        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                        "violations": [
                            {
                                "quotaId": "GenerateContentInputTokensPerModelPerMinute-FreeTier",
                                "quotaDimensions": {"location": "global", "model": "gemini-2.5-pro"},
                                "quotaValue": "125000",
                            },
                            {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaValue": "50"},
                            {"quotaId": "SomethingElse"},
                        ],
                    },
                    {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"},
                ],
            }
        }
    ]
    assert told(payload) == [
        QuotaReport(
            *("tokens_minute", NOW_MS, TOKENS, 1.0, None, 125_000, NOW_MS + 34_000, 60, ROLLING, "m"), exhausted=True
        ),
        QuotaReport(
            *("requests_day", NOW_MS, REQUESTS, 1.0, None, 50, NOW_MS + DAY * 1000, DAY, BLOCK, "m"), exhausted=True
        ),
    ]
    (tokens, day) = read(json.dumps(payload).encode(), NOW_MS - 1000)
    assert (tokens.resets_at_ms, day.resets_at_ms) == (NOW_MS + 33_000, NOW_MS)


@pytest.mark.parametrize(
    ("message", "report"),
    [
        (
            "Rate limit reached for gpt-x in organization org-x on tokens per min (TPM): Limit 10000, Used 9000, "
            "Requested 2000. Please try again in 6s.",
            QuotaReport(
                *("tokens_minute", NOW_MS, TOKENS, 1.0, None, 10_000, NOW_MS + 6000, 60, ROLLING, "m"), exhausted=True
            ),
        ),
        (
            "Rate limit reached for model `x` on requests per day (RPD): Limit 1000, Used 1000. Try again in 1m26.4s.",
            QuotaReport(
                *("requests_day", NOW_MS, REQUESTS, 1.0, None, 1000, NOW_MS + 86_400, DAY, ROLLING, "m"), exhausted=True
            ),
        ),
        (
            "Rate limit reached on output tokens per minute.",
            QuotaReport(
                *("output_tokens_minute", NOW_MS, TOKENS, 1.0, None, None, None, 60, ROLLING, "m"), exhausted=True
            ),
        ),
    ],
)
def test_a_limit_that_is_counted(message: str, report: QuotaReport) -> None:
    """OpenAI and Groq write the limit into the sentence; it holds for the model."""
    assert told({"error": {"message": message, "type": "tokens", "code": "rate_limit_exceeded"}}) == [report]


def test_openrouter_puts_headers_into_its_body() -> None:
    """Its free models have limits of their own, by the minute and the day."""
    error = {
        "message": "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 requests per day",
        "code": 429,
        "metadata": {
            "headers": {
                "X-RateLimit-Limit": "50",
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": "1800003600000",
            }
        },
    }
    full = QuotaReport(
        *("free_models_day", NOW_MS, REQUESTS, 1.0, None, 50, NOW_MS + HOUR * 1000, DAY, None, "m"), exhausted=True
    )
    assert told({"error": error}) == [full]
    error["message"] = "Rate limit exceeded"
    (other,) = told({"error": error})
    assert (other.window, other.length_s) == ("requests", None)


@pytest.mark.parametrize(
    "payload",
    [
        {},
        [],
        None,
        "limit reached",
        {"error": {"message": "Rate limit exceeded. Please slow down.", "type": "rate_limit_error"}},
        {"error": {"message": "We're receiving too many requests at the moment.", "type": "rate_limit_reached_error"}},
        {
            "error": {
                "message": "You exceeded your current quota, please check your plan.",
                "code": "insufficient_quota",
            }
        },
        {"error": {"message": "This model is trained weekly and has 5 hours of video."}},
        {"error": {"type": "usage_limit_reached", "message": "The usage limit has been reached"}},
        {"error": {"details": [{"@type": "x.QuotaFailure", "violations": "many"}, 3]}},
        {"error": {"metadata": {"headers": {"X-RateLimit-Remaining": "3"}}}},
    ],
)
def test_an_error_that_names_no_window_says_nothing(payload: object) -> None:
    """What is not named is not guessed; the rest that follows is the verdict's."""
    assert told(payload) == []


def test_a_body_of_absurd_length_is_not_read() -> None:
    """No error needs more than 64 KiB."""
    body = json.dumps({"error": {"message": "weekly limit reached", "x": "y" * 70_000}}).encode()
    assert read(body, NOW_MS) == ()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["0", "1308"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "message", "code", "type", "details", "@type", "violations", "quotaId", "metadata", "headers"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(VALUES)
def test_any_json_is_read_without_a_fault(value: object) -> None:
    """Whatever an error looks like: reports that say that nothing is left, or none."""
    body = json.dumps(value).encode()
    assert all(report.exhausted for report in read(body, NOW_MS, told_s=1.0))


@given(st.binary(max_size=60))
def test_any_bytes_are_read_without_a_fault(body: bytes) -> None:
    """Bytes that are no JSON say nothing."""
    read(body, NOW_MS)
