"""The pool's quota as Codex reads it."""

from __future__ import annotations

import msgspec

from eggpool.domain import QuotaUnit, WindowKind, WindowSource
from eggpool.routing.codex_headers import of_the_pool
from eggpool.routing.quota import WindowView
from eggpool.routing.windows import Drift

FIVE_HOURS = WindowView(
    name="five_hour",
    model=None,
    kind=WindowKind.BLOCK,
    unit=QuotaUnit.PERCENT,
    source=WindowSource.PROVIDER,
    limit=None,
    enforce=False,
    length_s=5 * 3600,
    used_share=0.2,
    elapsed_share=0.0,
    pressure=None,
    starts_at_ms=None,
    resets_at_ms=1_800_000_000_000,
    full_at_ms=None,
    told_at_ms=None,
    drift=Drift(),
)
WEEK = msgspec.structs.replace(FIVE_HOURS, name="weekly", length_s=7 * 86_400, used_share=0.9, resets_at_ms=None)


def test_two_windows() -> None:
    """The shortest and the longest window, the mean of what is used, and the first reset."""
    later = msgspec.structs.replace(FIVE_HOURS, used_share=1.7, resets_at_ms=1_900_000_000_000)
    daily = msgspec.structs.replace(FIVE_HOURS, name="daily", length_s=86_400)
    assert of_the_pool([(FIVE_HOURS, daily, WEEK), (later,), ()]) == [
        (b"x-codex-primary-used-percent", b"60.0"),
        (b"x-codex-primary-window-minutes", b"300"),
        (b"x-codex-primary-reset-at", b"1800000000"),
        (b"x-codex-secondary-used-percent", b"90.0"),
        (b"x-codex-secondary-window-minutes", b"10080"),
    ]


def test_one_window() -> None:
    """Where all windows have one length there is no second one."""
    assert [name for name, _ in of_the_pool([(WEEK,), (WEEK,)])] == [
        b"x-codex-primary-used-percent",
        b"x-codex-primary-window-minutes",
    ]


def test_nothing_is_known() -> None:
    """Windows that are assumed, of unknown use, of one model, or of minutes say nothing about the pool."""
    assumed = msgspec.structs.replace(FIVE_HOURS, source=WindowSource.ASSUMED)
    unknown = msgspec.structs.replace(FIVE_HOURS, used_share=None)
    of_a_model = msgspec.structs.replace(FIVE_HOURS, model="m")
    minute = msgspec.structs.replace(FIVE_HOURS, length_s=60)
    assert of_the_pool([(assumed, unknown, of_a_model, minute), ()]) == []
