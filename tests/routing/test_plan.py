"""The order of candidates: a pure function that lists every account once, chosen or refused with a reason."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.domain import AccountLabel, Dialect
from eggpool.routing.catalog import Candidate, Offer
from eggpool.routing.health import Rest, ScopeKey, account_scope, model_scope, provider_scope, status
from eggpool.routing.plan import TRIAL_S, Demand, Plan, plan

NOW, NOW_MS = 1000.0, 1_800_000_000_000
CHAT = Demand(Dialect.CHAT)


class Account(msgspec.Struct, frozen=True):
    """The live state of an account."""

    in_flight: int = 0
    last_used: float = 0.0
    weight: float = 1.0
    max_concurrency: int | None = None


class Pool(msgspec.Struct, frozen=True):
    """The live state of a pool."""

    accounts: Mapping[AccountLabel, Account]
    rests: Mapping[ScopeKey, Rest] = {}


def candidate(label: str, priority: int = 0, dialect: Dialect = Dialect.CHAT) -> Candidate:
    """An account that has the model m."""
    return Candidate(AccountLabel(label), label.partition("/")[0], "m", frozenset({dialect}), priority)


def planned(pool: Pool, candidates: list[Candidate], demand: Demand = CHAT) -> Plan:
    """The plan for the model m, now."""
    return plan(pool, Offer("m", tuple(candidates)), demand, NOW, NOW_MS)


def order(result: Plan) -> list[str]:
    """The accounts chosen, in order."""
    return [choice.candidate.account for choice in result.choices]


def scopes(one: Candidate) -> list[ScopeKey]:
    """Everything that may rest on the way to a candidate."""
    return [provider_scope(one.provider), account_scope(one.account), model_scope(one.account, one.model)]


LABELS = [f"{provider}/{name}" for provider in ("a", "b", "c") for name in ("1", "2")]
RESTS = st.builds(
    Rest,
    kind=st.sampled_from(["rate", "network"]),
    until=st.floats(NOW - 100, NOW + 100),
    on_providers_word=st.booleans(),
    failures=st.integers(1, 5),
    on_trial=st.booleans(),
)
ACCOUNTS = st.builds(
    Account,
    in_flight=st.integers(0, 5),
    last_used=st.floats(0, 3).map(round),
    weight=st.sampled_from([0.5, 1.0, 2.0]),
    max_concurrency=st.none() | st.integers(1, 5),
)
DEMANDS = st.builds(Demand, st.sampled_from([Dialect.CHAT, Dialect.MESSAGES]), st.none() | st.sampled_from(LABELS))


@st.composite
def situations(draw: st.DrawFn) -> tuple[Pool, list[Candidate]]:
    """A pool in any state, and candidates in any order."""
    labels = draw(st.lists(st.sampled_from(LABELS), unique=True))
    priority = {provider: draw(st.integers(0, 2)) for provider in "abc"}
    dialects = st.sampled_from([Dialect.CHAT, Dialect.CHAT, Dialect.MESSAGES])
    candidates = [candidate(label, priority[label[0]], draw(dialects)) for label in labels]
    places = [scope for one in candidates for scope in scopes(one)]
    rests = draw(st.dictionaries(st.sampled_from(places), RESTS)) if places else {}
    return Pool({one.account: draw(ACCOUNTS) for one in candidates}, rests), candidates


@given(situations(), DEMANDS, st.randoms(use_true_random=False))
def test_each_account_once(situation: tuple[Pool, list[Candidate]], demand: Demand, random: object) -> None:
    """Every account is chosen or refused, never both, never twice; a refusal says why."""
    pool, candidates = situation
    result = planned(pool, candidates, demand)
    listed = [*order(result), *(refusal.account for refusal in result.refused)]
    assert sorted(listed) == sorted(one.account for one in candidates)
    assert all(refusal.reason for refusal in result.refused)


@given(situations(), DEMANDS, st.data())
def test_a_function_of_its_arguments(
    situation: tuple[Pool, list[Candidate]], demand: Demand, data: st.DataObject
) -> None:
    """The same situation gives the same plan, in whatever order the accounts are listed."""
    pool, candidates = situation
    first = planned(pool, candidates, demand)
    assert planned(pool, candidates, demand) == first
    again = planned(pool, data.draw(st.permutations(candidates)), demand)
    assert again.choices == first.choices
    assert {*again.refused} == {*first.refused}
    assert again.retry_after_s == first.retry_after_s


@given(situations(), DEMANDS)
def test_only_a_providers_word_refuses(situation: tuple[Pool, list[Candidate]], demand: Demand) -> None:
    """Dialect, pin and ceiling aside, an account is refused exactly while its provider's word holds or is tried."""
    pool, candidates = situation
    refused = {refusal.account: refusal for refusal in planned(pool, candidates, demand).refused}
    for one in candidates:
        account = pool.accounts[one.account]
        words = [
            rest
            for scope in scopes(one)
            if (rest := pool.rests.get(scope)) and rest.on_providers_word and status(rest, NOW) in ("resting", "trial")
        ]
        full = account.max_concurrency is not None and account.in_flight >= account.max_concurrency
        elsewhere = demand.only not in (None, one.account)
        assert (one.account in refused) == (demand.dialect not in one.dialects or elsewhere or bool(words) or full)
        if one.account in refused and refused[one.account].reason.startswith("resting_"):
            back_ms = refused[one.account].until_at_ms
            assert back_ms is not None
            assert back_ms >= NOW_MS + max(round((rest.until - NOW) * 1000) for rest in words)


@given(situations())
def test_the_order(situation: tuple[Pool, list[Candidate]]) -> None:
    """Guesses last, then tiers, then load by weight, then the longest unused, then the name."""
    pool, candidates = situation
    keys = []
    for choice in planned(pool, candidates).choices:
        one, account = choice.candidate, pool.accounts[choice.candidate.account]
        rests = [pool.rests[scope] for scope in scopes(one) if scope in pool.rests]
        guessed = any(status(rest, NOW) in ("resting", "trial") for rest in rests)
        load = account.in_flight / account.weight
        keys.append((guessed, -one.routing_priority, load, account.last_used, one.account))
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("accounts", "expected"),
    [
        ({"a/1": (0, Account(in_flight=0)), "b/1": (5, Account(in_flight=99))}, ["b/1", "a/1"]),
        ({"a/1": (0, Account(in_flight=2)), "a/2": (0, Account(in_flight=1))}, ["a/2", "a/1"]),
        ({"a/1": (0, Account(in_flight=1)), "a/2": (0, Account(in_flight=3, weight=4.0))}, ["a/2", "a/1"]),
        ({"a/1": (0, Account(last_used=9.0)), "a/2": (0, Account(last_used=3.0))}, ["a/2", "a/1"]),
        ({"b/1": (0, Account()), "a/1": (0, Account())}, ["a/1", "b/1"]),
    ],
    ids=["tier before load", "load", "load by weight", "longest unused", "name"],
)
def test_each_key_of_the_order(accounts: dict[str, tuple[int, Account]], expected: list[str]) -> None:
    """One example for each key, all else being equal."""
    pool = Pool({AccountLabel(label): account for label, (_, account) in accounts.items()})
    assert order(planned(pool, [candidate(label, tier) for label, (tier, _) in accounts.items()])) == expected


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("word", [False, True])
@pytest.mark.parametrize(("until", "trial"), [(NOW + 30, False), (NOW - 1, False), (NOW - 1, True)])
def test_each_scope(place: int, word: bool, until: float, trial: bool) -> None:
    """A guess puts last, a word refuses, while it holds or is tried, wherever it stands; once due it does neither."""
    one, other = candidate("a/1", priority=9), candidate("b/1")
    pool = Pool(
        {one.account: Account(), other.account: Account()}, {scopes(one)[place]: Rest("rate", until, word, 1, trial)}
    )
    result = planned(pool, [one, other])
    if until < NOW and not trial:
        assert order(result) == ["a/1", "b/1"]
        assert not result.choices[0].last_resort
    elif word:
        assert order(result) == ["b/1"]
        assert result.refused[0].reason == "resting_rate"
        assert result.retry_after_s == (TRIAL_S if trial else 30)
        assert result.refused[0].until_at_ms == NOW_MS + (1000 if trial else 30_000)
    else:
        assert order(result) == ["b/1", "a/1"]
        assert result.choices[1].last_resort


def test_the_last_of_several_words_counts() -> None:
    """An account is back when the last of its rests has ended; the request when the first account is."""
    one, other = candidate("a/1"), candidate("b/1")
    rests = {
        provider_scope("a"): Rest("overloaded", NOW + 5, True, 1),
        account_scope(one.account): Rest("plan_window", NOW + 50, True, 1),
        model_scope(one.account, "m"): Rest("rate", NOW + 20, True, 1),
        account_scope(other.account): Rest("balance", NOW + 60, True, 1),
    }
    result = planned(Pool({one.account: Account(), other.account: Account()}, rests), [one, other])
    assert [(refusal.reason, refusal.until_at_ms) for refusal in result.refused] == [
        ("resting_plan_window", NOW_MS + 50_000),
        ("resting_balance", NOW_MS + 60_000),
    ]
    assert result.retry_after_s == 50


def test_rests_of_others() -> None:
    """Another model, account or provider at rest changes nothing."""
    one = candidate("a/1")
    word = Rest("rate", NOW + 30, True, 1)
    rests = {
        model_scope(one.account, "other"): word,
        account_scope(AccountLabel("a/2")): word,
        provider_scope("b"): word,
    }
    assert order(planned(Pool({one.account: Account()}, rests), [one])) == ["a/1"]


def test_wrong_dialect() -> None:
    """It is a matter of dialect only when every account is refused for that."""
    one, other = candidate("a/1", dialect=Dialect.MESSAGES), candidate("b/1")
    pool = Pool({one.account: Account(), other.account: Account(in_flight=1, max_concurrency=1)})
    assert planned(pool, [one]).wrong_dialect
    assert not planned(pool, [one, other]).wrong_dialect
    assert not planned(pool, []).wrong_dialect
    assert planned(pool, [one, other]).retry_after_s is None
