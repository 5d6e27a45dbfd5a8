"""What usage endpoints answer: each documented shape, and whatever else may come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.domain import QuotaReport, QuotaUnit, WindowKind
from eggpool.upstream import meter_bodies as bodies
from eggpool.upstream.meter_bodies import Read, Told
from eggpool.upstream.meters import QUESTIONS

GOLDEN = Path(__file__).parent.parent / "golden" / "meters"
AT_MS = 1_789_303_200_000  # 2026-09-13T12:40:00Z, a Sunday
MIDNIGHT_MS = 1_789_344_000_000
OCTOBER_MS = 1_790_812_800_000
HOUR, DAY = 3600, 86_400
ROLLING, BLOCK, ANCHORED = WindowKind.ROLLING, WindowKind.BLOCK, WindowKind.ANCHORED
DOLLAR = 1_000_000_000
READERS = [question.read for questions in QUESTIONS.values() for question in questions]


def percent(
    window: str, share: float, back_ms: int | None, length_s: int, kind: WindowKind, *, exhausted: bool | None = None
) -> QuotaReport:
    """A share of a window."""
    return QuotaReport(window, AT_MS, QuotaUnit.PERCENT, share, None, None, back_ms, length_s, kind, None, exhausted)


def empty() -> Told:
    """The word that no money is left."""
    return Told((QuotaReport("balance", AT_MS, QuotaUnit.MONEY, exhausted=True),))


def in_s(seconds: float) -> int:
    """That many seconds after the answer was asked for."""
    return AT_MS + round(seconds * 1000)


@pytest.mark.parametrize(
    ("name", "read", "told"),
    [
        (
            "opencode-go",
            bodies.opencode_go,
            Told(
                (
                    percent("five_hour", 0.01, in_s(4 * HOUR + 167.51), 5 * HOUR, BLOCK, exhausted=False),
                    percent("weekly", 1.0, MIDNIGHT_MS + 510, 7 * DAY, ANCHORED, exhausted=True),
                    percent("monthly", 0.19, 1_791_683_750_510, 30 * DAY, ANCHORED, exhausted=False),
                )
            ),
        ),
        (
            "zai",
            bodies.zai,
            Told(
                (
                    percent("five_hour", 0.12, 1_789_310_000_123, 5 * HOUR, BLOCK),
                    percent("weekly", 0.59, 1_789_480_000_000, 7 * DAY, BLOCK),
                )
            ),
        ),
        (
            "kimi",
            bodies.kimi,
            Told(
                (
                    percent("weekly", 0.26, in_s(3 * DAY + 3 * HOUR + 785.52), 7 * DAY, BLOCK),
                    percent("five_hour", 0.27, in_s(2 * HOUR + 785.52), 5 * HOUR, BLOCK),
                )
            ),
        ),
        (
            "kimi-pools",
            bodies.kimi,
            Told(
                (
                    percent("five_hour", 0.5, in_s(2 * HOUR + 550), 5 * HOUR, BLOCK),
                    percent("monthly", 0.0338, 1_791_877_750_000, 30 * DAY, BLOCK),
                    percent("monthly_code", 0.0, 1_791_877_750_000, 30 * DAY, BLOCK),
                )
            ),
        ),
        ("moonshot", bodies.moonshot, Told((), 49_588_940_000)),
        ("moonshot", bodies.moonshot_in_yuan, Told()),
        (
            "minimax-token-plan",
            bodies.minimax,
            Told(
                (
                    percent("five_hour", 0.15, 1_789_308_000_000, 5 * HOUR, BLOCK),
                    percent("weekly", 0.6, MIDNIGHT_MS, 7 * DAY, BLOCK),
                )
            ),
        ),
        (
            "minimax-coding-plan",
            bodies.minimax,
            Told((percent("five_hour", 0.2, 1_789_308_000_000, 5 * HOUR, BLOCK),)),
        ),
        (
            "synthetic",
            bodies.synthetic,
            Told(
                (
                    percent("five_hour", 0.25, None, 5 * HOUR, ROLLING),
                    percent("weekly", 0.375, None, 7 * DAY, ROLLING),
                )
            ),
        ),
        (
            "synthetic-subscription",
            bodies.synthetic,
            Told((percent("five_hour", 0.2, in_s(HOUR + 2825.168), 5 * HOUR, BLOCK),)),
        ),
        (
            "chutes-subscription",
            bodies.chutes_subscription,
            Told(
                (
                    percent("4_hour", 0.25, in_s(2 * HOUR + 1200), 4 * HOUR, ROLLING),
                    percent("monthly", 0.3, OCTOBER_MS, 30 * DAY, ANCHORED),
                )
            ),
        ),
        (
            "chutes-quota",
            bodies.chutes_quota,
            Told((percent("daily", 0.20625, MIDNIGHT_MS, DAY, ANCHORED),)),
        ),
        (
            "nano-gpt",
            bodies.nano_gpt,
            Told(
                (
                    percent("daily", 0.01, MIDNIGHT_MS, DAY, ANCHORED),
                    percent("monthly", 0.75, 1_790_121_599_000, 30 * DAY, ANCHORED),
                )
            ),
        ),
        (
            "openrouter-key",
            bodies.openrouter_key,
            Told(
                (
                    QuotaReport(
                        "monthly",
                        AT_MS,
                        QuotaUnit.MONEY,
                        0.255,
                        25_500_000_000,
                        100 * DOLLAR,
                        OCTOBER_MS,
                        30 * DAY,
                        ANCHORED,
                    ),
                )
            ),
        ),
        ("openrouter-credits", bodies.openrouter_credits, Told((), 74_750_000_000)),
        ("deepseek", bodies.deepseek, Told((), 4_250_000_000)),
    ],
)
def test_each_documented_answer(name: str, read: Read, told: Told) -> None:
    """Windows with share, reset, length and kind, or the money that is left."""
    found = read(json.loads((GOLDEN / f"{name}.json").read_bytes()), AT_MS)
    assert found is not None
    assert found.balance_nanodollars == told.balance_nanodollars
    assert [_rounded(report) for report in found.reports] == [_rounded(report) for report in told.reports]


def _rounded(report: QuotaReport) -> tuple[object, ...]:
    """A report whose share is compared without the noise of a division."""
    share = None if report.used_share is None else round(report.used_share, 9)
    return (share, *(getattr(report, name) for name in report.__struct_fields__ if name != "used_share"))


def test_every_golden_file_is_used() -> None:
    """Each shape that is kept is read by somebody."""
    names = {path.stem for path in GOLDEN.iterdir()}
    source = Path(__file__).read_text(encoding="utf-8")
    assert names
    assert all(f'"{name}"' in source for name in names)


@pytest.mark.parametrize(
    ("read", "payload", "told"),
    [
        # an account without money
        (bodies.deepseek, {"is_available": False, "balance_infos": []}, empty()),
        (bodies.moonshot, {"data": {"available_balance": 0}}, Told(empty().reports, 0)),
        (bodies.moonshot_in_yuan, {"data": {"available_balance": -1.5}}, empty()),
        (bodies.deepseek, {"is_available": True, "balance_infos": [{"currency": "CNY"}]}, Told()),
        # keys without a limit, and with one that never comes back
        (bodies.openrouter_key, {"data": {"limit": None, "usage": 3}}, Told()),
        (
            bodies.openrouter_key,
            {"data": {"limit": 2, "limit_remaining": -1, "limit_reset": None}},
            Told((QuotaReport("key", AT_MS, QuotaUnit.MONEY, 1.5, 3 * DOLLAR, 2 * DOLLAR),)),
        ),
        (
            bodies.openrouter_key,
            {"data": {"limit": 2, "limit_remaining": 1, "limit_reset": "weekly"}},
            Told(
                (
                    QuotaReport(
                        *("weekly", AT_MS, QuotaUnit.MONEY, 0.5, DOLLAR, 2 * DOLLAR, MIDNIGHT_MS, 7 * DAY, ANCHORED)
                    ),
                )
            ),
        ),
        # a subscription that has ended, and a limit that does not hold
        (bodies.nano_gpt, {"active": False, "state": "inactive", "daily": {"percentUsed": 1}}, Told()),
        (
            bodies.nano_gpt,
            {"enforceDailyLimit": False, "daily": {"percentUsed": 1}, "monthly": {"percentUsed": 0.5}},
            Told((percent("monthly", 0.5, None, 30 * DAY, ANCHORED),)),
        ),
        # Synthetic's word that it limits
        (
            bodies.synthetic,
            {"rollingFiveHourLimit": {"remaining": 0, "max": 10, "limited": True}},
            Told((percent("five_hour", 1.0, None, 5 * HOUR, ROLLING, exhausted=True),)),
        ),
        # what is missing or odd is left out, the rest is read
        (
            bodies.opencode_go,
            {"usage": {"rolling": {"percent": "40"}, "weekly": {"percent": None}, "monthly": 3, "yearly": {}}},
            Told((percent("five_hour", 0.4, None, 5 * HOUR, BLOCK),)),
        ),
        (
            bodies.zai,
            {"data": {"limits": [{"type": "TOKENS_LIMIT", "unit": 9, "percentage": 1}, 3, {"type": "CREDIT_LIMIT"}]}},
            None,
        ),
        (
            bodies.zai,
            {"data": {"limits": [{"type": "CREDIT_LIMIT", "unit": 5, "number": 1, "percentage": 120}]}},
            Told((percent("monthly", 1.2, None, 30 * DAY, BLOCK),)),
        ),
        (
            bodies.minimax,
            {"model_remains": [{"current_interval_remaining_percent": 10, "remains_time": 60_000}]},
            Told((percent("five_hour", 0.9, in_s(60), 5 * HOUR, BLOCK),)),
        ),
        # refused inside a 200
        (bodies.minimax, {"base_resp": {"status_code": 1004, "status_msg": "login fail"}}, None),
        (bodies.zai, {"code": 401, "msg": "token expired or incorrect", "success": False}, None),
        (bodies.synthetic, {}, None),
    ],
)
def test_each_further_answer(read: Read, payload: Any, told: Told | None) -> None:
    """What is understood is taken; what is not known is None, so that it can be told."""
    found = read(payload, AT_MS)
    if told is None or found is None:
        assert found is told
        return
    assert found.balance_nanodollars == told.balance_nanodollars
    assert [_rounded(report) for report in found.reports] == [_rounded(report) for report in told.reports]


def test_of_several_words_about_a_window_the_worst_counts() -> None:
    """Two kinds of text models share a window."""
    little, much = percent("five_hour", 0.1, None, 5 * HOUR, BLOCK), percent("five_hour", 0.9, None, 5 * HOUR, BLOCK)
    week = percent("weekly", 0.2, None, 7 * DAY, BLOCK)
    assert bodies.distinct((little, week, much)) == (much, week)


KEYS = sorted(
    {
        word
        for path in GOLDEN.iterdir()
        for word in path.read_text(encoding="utf-8").split('"')[1::2]
        if word.isascii() and len(word) < 40
    }
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from([*KEYS, "1e999", "-5", "2026-09-13T16:42:47.510Z", 3, 5, 6])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=30,
)


def like(value: Any) -> st.SearchStrategy[Any]:
    """Values of the same shape, with any leaf and any branch replaced here and there."""
    if isinstance(value, dict):
        same: st.SearchStrategy[Any] = st.fixed_dictionaries(
            {}, optional={key: like(one) for key, one in value.items()}
        )
    elif isinstance(value, list):
        same = st.lists(st.one_of([like(one) for one in value]), max_size=3)
    else:
        same = st.just(value)
    return same | LEAVES | VALUES


SHAPES = st.one_of([like(json.loads(path.read_bytes())) for path in sorted(GOLDEN.iterdir())])


@pytest.mark.parametrize("read", READERS)
@given(payload=VALUES | SHAPES, at_ms=st.integers(0, 4_000_000_000_000))
def test_any_answer_is_read_without_a_fault(read: Read, payload: Any, at_ms: int) -> None:
    """Whatever is sent: shares are no less than 0, and resets are not in the past and not beyond a month."""
    told = read(payload, at_ms)
    for report in told.reports if told else ():
        assert report.used_share is None or 0 <= report.used_share <= 10
        assert report.resets_at_ms is None or at_ms - 1000 <= report.resets_at_ms <= at_ms + 31 * DAY * 1000
        assert report.length_s is None or 0 < report.length_s <= 1000 * 30 * DAY


@given(st.binary(max_size=80) | st.text(max_size=40).map(str.encode))
def test_any_bytes_are_decoded_without_a_fault(body: bytes) -> None:
    """What is no JSON is nothing."""
    bodies.decode(body)


def test_nested_nonsense_is_nothing() -> None:
    """A hundred thousand brackets do not reach the stack's end."""
    assert bodies.decode(b"[" * 100_000) is None
