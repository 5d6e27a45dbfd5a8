"""The ways of choosing an account that the simulator compares. Each orders what the routing code lets through.

All of them know the same: the same windows, the same reports, the same rests. All of them put last what rests on a
guess, then tiers, then what is used up by estimate, then metered accounts behind plans. They differ in what they do
within that, and in whether a conversation stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from eggpool.domain import AccountLabel, Billing, Dialect
from eggpool.routing.catalog import Offer
from eggpool.routing.health import Rest, ScopeKey
from eggpool.routing.plan import Affinity, Choice, Demand, plan
from eggpool.routing.quota import Quota
from eggpool.routing.speech import Surface
from eggpool.routing.spending import Spending


class Account:
    """The pool's side of an account."""

    def __init__(self, quota: Quota, billing: Billing) -> None:
        self.in_flight = 0
        self.last_used = 0.0
        self.weight = 1.0
        self.max_concurrency: int | None = None
        self.billing = billing
        self.quota = quota


class Pool(msgspec.Struct):
    """The pool's state."""

    accounts: dict[AccountLabel, Account]
    rests: dict[ScopeKey, Rest] = {}
    refused_surfaces: dict[Surface, float] = {}


class Situation(msgspec.Struct, frozen=True):
    """One decision to make."""

    pool: Pool
    offer: Offer
    estimate: Spending
    now: float
    now_ms: int
    bound: AccountLabel | None  # where the conversation was served last
    warm: bool  # less than a cache lifetime ago


class Strategy(Protocol):
    """Names the account to try next, None when none can be tried."""

    def __call__(self, situation: Situation, /) -> AccountLabel | None: ...


Key = Callable[[Situation, Choice], tuple[float, ...]]


def ours(situation: Situation) -> AccountLabel | None:
    """The plan as it is."""
    affinity = Affinity(situation.bound, situation.warm) if situation.bound is not None else None
    demand = Demand(Dialect.CHAT, estimate=situation.estimate, affinity=affinity)
    first = plan(situation.pool, situation.offer, demand, situation.now, situation.now_ms).first
    return None if first is None else first.candidate.account


def _first(situation: Situation, key: Key, *, stays: bool = False) -> AccountLabel | None:
    """The account that comes first by the key; the one where the conversation is, if it serves and `stays`."""
    demand = Demand(Dialect.CHAT, estimate=situation.estimate)
    choices = plan(situation.pool, situation.offer, demand, situation.now, situation.now_ms).choices
    if stays and any(one.candidate.account == situation.bound and not one.last_resort for one in choices):
        return situation.bound
    if not choices:
        return None
    first = min(
        choices,
        key=lambda one: (
            one.last_resort,
            -one.candidate.routing_priority,
            one.exhausted,
            one.billing == "metered",
            *key(situation, one),
            one.in_flight,
            one.last_used,
            one.candidate.account,
        ),
    )
    return first.candidate.account


def _shares(situation: Situation, choice: Choice) -> list[float]:
    quota = situation.pool.accounts[choice.candidate.account].quota
    return quota.shares(situation.now_ms, situation.estimate) or [0.0]


def _highest_share(situation: Situation, choice: Choice) -> tuple[float, ...]:
    return (max(_shares(situation, choice)) + 0.02 * choice.in_flight,)


def _utilisation(situation: Situation, choice: Choice) -> tuple[float, ...]:
    """The rule of EggPool 0.1: the highest window share and a part of the mean, and a little for what is in flight."""
    shares = _shares(situation, choice)
    return (max(shares) + 0.15 * sum(shares) / len(shares) + 0.0083 * choice.in_flight,)


def _longest_unused(situation: Situation, choice: Choice) -> tuple[float, ...]:
    return (choice.last_used,)


def least_utilised(situation: Situation) -> AccountLabel | None:
    """EggPool 0.1."""
    return _first(situation, _utilisation)


def round_robin(situation: Situation) -> AccountLabel | None:
    """One after the other."""
    return _first(situation, _longest_unused)


def affinity_then_share(situation: Situation) -> AccountLabel | None:
    """Stays while the cache is warm, else the lowest highest share: ours without pacing."""
    return _first(situation, _highest_share, stays=situation.warm)


def sticky(situation: Situation) -> AccountLabel | None:
    """Stays as long as the account serves at all; new conversations go round."""
    return _first(situation, _longest_unused, stays=True)


STRATEGIES: dict[str, Strategy] = {
    "ours": ours,
    "affinity, then highest share": affinity_then_share,
    "least utilised (0.1)": least_utilised,
    "round robin": round_robin,
    "sticky": sticky,
}
