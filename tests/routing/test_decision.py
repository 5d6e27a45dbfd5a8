"""A decision as it is kept and shown."""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from eggpool.domain import AccountLabel, Billing, Dialect, QuotaReport, QuotaUnit
from eggpool.routing.catalog import Candidate, Offer
from eggpool.routing.decision import MAX_BYTES, decision, explanation
from eggpool.routing.health import Rest, ScopeKey, account_scope
from eggpool.routing.plan import Affinity, Demand, Plan, plan
from eggpool.routing.quota import Quota
from eggpool.routing.speech import Surface

NOW, NOW_MS = 1000.0, 1_800_000_000_000


class Account(msgspec.Struct, frozen=True):
    """The live state of an account."""

    in_flight: int = 0
    last_used: float = 0.0
    weight: float = 1.0
    max_concurrency: int | None = None
    billing: Billing = "plan"
    quota: Quota = msgspec.field(default_factory=Quota)


class Pool(msgspec.Struct, frozen=True):
    """The live state of a pool."""

    accounts: dict[AccountLabel, Account]
    rests: dict[ScopeKey, Rest] = {}
    refused_surfaces: Mapping[Surface, float] = {}


def planned(labels: list[str], demand: Demand, rests: dict[ScopeKey, Rest] | None = None) -> tuple[Pool, Plan]:
    """A pool of idle accounts, each with a week of which a third is used, and the plan there."""
    pool = Pool({AccountLabel(label): Account() for label in labels}, rests or {})
    for account in pool.accounts.values():
        account.quota.learn(QuotaReport("weekly", NOW_MS, QuotaUnit.PERCENT, used_share=1 / 3), NOW_MS)
    candidates = tuple(Candidate(label, "p", "m", frozenset({Dialect.CHAT}), 0) for label in pool.accounts)
    return pool, plan(pool, Offer("m", candidates), demand, NOW, NOW_MS)


def test_the_usual_record_is_short() -> None:
    """For two accounts and a warm conversation, a record takes about 120 bytes and says who was best."""
    demand = Demand(Dialect.CHAT, affinity=Affinity(AccountLabel("opencode-go/work"), warm=True))
    _, result = planned(["opencode-go/home", "opencode-go/work"], demand)
    text = decision(result, demand, [("opencode-go/work", None)])
    assert len(text) <= 140
    assert json.loads(text) == {
        "best": [["opencode-go/work", -0.167], ["opencode-go/home", -0.167]],
        "bound": "kept",
        "tried": [["opencode-go/work", None]],
    }


def test_refusals_are_counted() -> None:
    """Reasons of refusal are counted, and a binding that was not obeyed is named."""
    rests = {account_scope(AccountLabel(f"p/{name}")): Rest("rate", NOW + 9, True, 1) for name in "ab"}
    demand = Demand(Dialect.CHAT, affinity=Affinity(AccountLabel("p/a"), warm=True))
    _, result = planned(["p/a", "p/b", "p/c"], demand, rests)
    assert json.loads(decision(result, demand)) == {
        "best": [["p/c", -0.167]],
        "no": {"resting_rate": 2},
        "bound": "gone",
        "to": "p/a",
    }


@given(
    labels=st.lists(st.text(min_size=1, max_size=100), min_size=1, max_size=12, unique=True),
    refused=st.dictionaries(st.integers(0, 11), st.text(min_size=1, max_size=100)),
    tried=st.lists(st.tuples(st.text(max_size=100), st.none() | st.text(max_size=100)), max_size=30),
)
def test_the_record_is_bounded(labels: list[str], refused: dict[int, str], tried: list[tuple[str, str | None]]) -> None:
    """However many accounts with however long names there are, a record is JSON of a bounded size."""
    rests = {
        account_scope(AccountLabel(labels[place])): Rest(kind, NOW + 9, True, 1)
        for place, kind in refused.items()
        if place < len(labels)
    }
    demand = Demand(Dialect.CHAT, affinity=Affinity(AccountLabel(labels[0]), warm=True))
    _, result = planned(labels, demand, rests)
    text = decision(result, demand, tried)
    assert len(text.encode()) <= MAX_BYTES
    shown = json.loads(text)
    assert bool(shown["best"]) == bool(result.count)


def test_the_long_form_shows_everything() -> None:
    """The long form has every account once, in order, with its windows."""
    rests = {account_scope(AccountLabel("p/a")): Rest("rate", NOW + 9, True, 1)}
    demand = Demand(Dialect.CHAT)
    pool, result = planned(["p/a", "p/b", "p/c"], demand, rests)
    shown = explanation(result, demand, pool, NOW_MS)
    assert [one.account for one in shown.choices] == ["p/b", "p/c"]
    assert [one.account for one in shown.refused] == ["p/a"]
    assert [window.name for window in shown.choices[0].windows] == ["weekly"]
    assert (shown.binding, shown.retry_after_s) == ("none", 9)
    assert json.loads(msgspec.json.encode(shown))["choices"][0]["windows"][0]["used_share"] == 1 / 3
