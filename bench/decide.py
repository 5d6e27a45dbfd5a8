"""What a decision costs: microseconds of one plan over accounts with three windows each.

    python bench/decide.py

The accounts are in the middle of things: money spent, requests in flight, a report from the provider for every third.
Between two plans time moves on and one account's spending changes, as it does between two requests. `resting` is the
same with a tenth of the accounts at rest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eggpool.domain import AccountLabel, Billing, Dialect, QuotaReport, QuotaUnit, WindowKind, WindowSource, WindowSpec
from eggpool.routing.catalog import Candidate, Offer
from eggpool.routing.decision import decision
from eggpool.routing.health import Rest, ScopeKey, account_scope, model_scope
from eggpool.routing.plan import Affinity, Demand, plan
from eggpool.routing.quota import Quota
from eggpool.routing.speech import Surface
from eggpool.routing.spending import Spending

NOW_MS = 1_800_000_000_000
STEP_MS = 400  # between two requests
ESTIMATE = Spending(40_000_000, 30_000)
SPECS = (
    WindowSpec("five_hour", WindowKind.BLOCK, QuotaUnit.MONEY, 12 * 10**9, 18_000, WindowSource.PRESET),
    WindowSpec("weekly", WindowKind.ANCHORED, QuotaUnit.MONEY, 30 * 10**9, 604_800, WindowSource.PRESET, "week"),
    WindowSpec("monthly", WindowKind.ROLLING, QuotaUnit.MONEY, 60 * 10**9, 2_592_000, WindowSource.PRESET),
)


class Account:
    """The live state of an account."""

    def __init__(self, number: int) -> None:
        self.in_flight = number % 3
        self.last_used = float(number)
        self.weight = 1.0
        self.max_concurrency = 8 if number % 4 == 0 else None
        self.billing: Billing = "metered" if number % 10 == 9 else "plan"
        self.quota = Quota(SPECS)
        self.quota.add(Spending(number * 150_000_000, number * 100_000), NOW_MS - 3_600_000, NOW_MS - 1000)
        if number % 3 == 0:
            self.quota.learn(QuotaReport("weekly", NOW_MS - 500, QuotaUnit.PERCENT, used_share=number / 100), NOW_MS)


class Pool(msgspec.Struct):
    """The live state of a pool."""

    accounts: dict[AccountLabel, Account]
    rests: dict[ScopeKey, Rest] = {}
    refused_surfaces: Mapping[Surface, float] = {}


def measure(count: int, turns: int, *, resting: bool) -> tuple[float, float, float]:
    """Microseconds of a plan, of the spending that changes before it, and of the record; medians."""
    labels = [AccountLabel(f"provider{number % 5}/account{number}") for number in range(count)]
    pool = Pool({label: Account(number) for number, label in enumerate(labels)})
    offer = Offer(
        "model",
        tuple(
            Candidate(label, label.partition("/")[0], "model", frozenset({Dialect.CHAT}), number % 2)
            for number, label in enumerate(labels)
        ),
    )
    if resting:
        for label in labels[::10]:
            pool.rests[account_scope(label)] = Rest("plan_window", 10**9, True, 1)
            pool.rests[model_scope(label, "other")] = Rest("rate", 10**9, False, 1)
    demand = Demand(Dialect.CHAT, estimate=ESTIMATE, affinity=Affinity(labels[-1], warm=True))
    plans, changes, records = [], [], []
    for turn in range(turns):
        now_ms = NOW_MS + turn * STEP_MS
        quota = pool.accounts[labels[turn % count]].quota
        began = time.perf_counter_ns()
        quota.settle(quota.reserve(ESTIMATE, now_ms), ESTIMATE, now_ms)
        changed = time.perf_counter_ns()
        planned = plan(pool, offer, demand, now_ms / 1000, now_ms)
        decided = time.perf_counter_ns()
        decision(planned, demand)
        changes.append(changed - began)
        plans.append(decided - changed)
        records.append(time.perf_counter_ns() - decided)
    return tuple(sorted(one)[turns // 2] / 1000 for one in (plans, changes, records))  # type: ignore[return-value]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5000)
    turns = parser.parse_args().turns
    print("accounts  resting  plan µs  spending µs  record µs")
    for count in (2, 10, 50):
        for resting in (False, True):
            planned, changed, recorded = measure(count, turns, resting=resting)
            print(f"{count:8}  {'yes' if resting else 'no':7}  {planned:7.1f}  {changed:11.1f}  {recorded:9.1f}")


if __name__ == "__main__":
    main()
