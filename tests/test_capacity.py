"""What the simulator takes for the most that plans can serve is what their windows let through."""

from __future__ import annotations

import pytest
from bench.capacity import can_serve
from bench.demand import draw
from bench.worlds import DAY_MS, DEMAND, HOUR_MS, AccountFacts, Usual, WindowFacts

from eggpool.domain import QuotaUnit, WindowKind

USUAL = Usual(dollars=1.0, tokens=1000.0)
DAILY = WindowFacts("daily", WindowKind.ANCHORED, QuotaUnit.MONEY, 10.0, DAY_MS, "day", used=0.5)
FIVE_HOURS = WindowFacts("five_hour", WindowKind.BLOCK, QuotaUnit.MONEY, 4.0, 5 * HOUR_MS)
TOKENS = WindowFacts("daily", WindowKind.ANCHORED, QuotaUnit.TOKENS, 10_000.0, DAY_MS, "day")
DAYS = 3


def plan(*windows: WindowFacts) -> AccountFacts:
    return AccountFacts("plan/0", windows, 1.0, True, None, False, True, (), 0.0)


@pytest.mark.parametrize(
    ("windows", "each_hour", "served"),
    [
        ((DAILY,), 100.0, 5 + 10 + 10),
        ((DAILY,), 0.1, 0.1 * 24 * DAYS),
        ((TOKENS,), 100.0, 10 * DAYS),
        ((FIVE_HOURS,), 100.0, 4 * 15),
        ((FIVE_HOURS, DAILY), 100.0, 5 + 10 + 10),
    ],
)
def test_one_plan_serves_what_its_scarcest_window_lets_through(
    windows: tuple[WindowFacts, ...], each_hour: float, served: float
) -> None:
    """Of steady work, a plan serves all of its quota, or all of the work."""
    assert can_serve([plan(*windows)], [each_hour] * 24 * DAYS, USUAL) == pytest.approx(served)


def test_quota_of_a_quiet_day_is_lost() -> None:
    """All the work of three days, coming on the last one, meets one day's quota."""
    assert can_serve([plan(DAILY)], [0.0] * 48 + [1.0] * 24, USUAL) == pytest.approx(10)


def test_quota_that_is_lost_sooner_goes_first() -> None:
    """Days are used up before the week is touched, which serves most of the rush on the last one."""
    week = WindowFacts("weekly", WindowKind.ANCHORED, QuotaUnit.MONEY, 20.0, 7 * DAY_MS, "week", anchor_day=6)
    calm, rush = [0.25] * 24, [30 / 24] * 24
    assert can_serve([plan(DAILY), plan(week)], calm + calm + rush, USUAL) == pytest.approx((5 + 6 + 10) + 20)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_world_has_as_much_work_as_it_says(seed: int) -> None:
    """Demand lies in the range that is stated, in parts of what the plans can serve of it."""
    world = draw("plans only", seed)
    assert DEMAND[0] <= world.demand / world.capacity <= DEMAND[1] * 1.02
