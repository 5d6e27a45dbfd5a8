"""The order of candidates: a pure function that lists every account once, chosen or refused with a reason."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.domain import (
    AccountLabel,
    Billing,
    Capabilities,
    Dialect,
    Limits,
    Needs,
    QuotaReport,
    QuotaUnit,
    WindowKind,
    WindowSource,
    WindowSpec,
)
from eggpool.routing.capabilities import SURELY
from eggpool.routing.catalog import Candidate, Offer
from eggpool.routing.health import Rest, ScopeKey, account_scope, model_scope, provider_scope, status
from eggpool.routing.plan import IN_FLIGHT_COST, STEPS, TRIAL_S, Affinity, Demand, Plan, plan
from eggpool.routing.quota import Quota
from eggpool.routing.speech import Surface
from eggpool.routing.spending import Spending

NOW, NOW_MS = 1000.0, 1_800_000_000_000
CHAT = Demand(Dialect.CHAT)


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

    accounts: Mapping[AccountLabel, Account]
    rests: Mapping[ScopeKey, Rest] = {}
    refused_surfaces: Mapping[Surface, float] = {}


def candidate(
    label: str,
    priority: int = 0,
    dialect: Dialect = Dialect.CHAT,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    lacks: frozenset[str] = frozenset(),
) -> Candidate:
    """An account that has the model m."""
    has = Capabilities(images=False if "images" in lacks else None, tools=False if "tools" in lacks else None)
    provider = label.partition("/")[0]
    return Candidate(
        AccountLabel(label), provider, "m", frozenset({dialect}), priority, limits=limits, capabilities=has
    )


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
WEEK = WindowSpec("weekly", WindowKind.ANCHORED, QuotaUnit.TOKENS, 1000, 604_800, WindowSource.PRESET, "week")
SPECS = [
    WEEK,
    WindowSpec("five_hour", WindowKind.BLOCK, QuotaUnit.MONEY, 1000, 18_000, WindowSource.CONFIG),
    WindowSpec("hourly", WindowKind.ROLLING, QuotaUnit.REQUESTS, 5, 3600, WindowSource.ASSUMED),
    WindowSpec("daily", WindowKind.ROLLING, QuotaUnit.TOKENS, 800, 86_400, WindowSource.CONFIG, enforce=True),
]
REPORTS = st.builds(
    QuotaReport,
    window=st.sampled_from(["weekly", "five_hour", "another"]),
    at_ms=st.just(NOW_MS - 1000),
    unit=st.just(QuotaUnit.PERCENT),
    used_share=st.floats(0, 1.2),
    resets_at_ms=st.none() | st.just(NOW_MS + 5000),
    model=st.none() | st.sampled_from(["m", "other"]),
)


@st.composite
def quotas(draw: st.DrawFn) -> Quota:
    """An account's windows in any state."""
    quota = Quota(draw(st.lists(st.sampled_from(SPECS), unique_by=lambda spec: spec.name)))
    for spent in draw(st.lists(st.builds(Spending, st.integers(0, 900), st.integers(0, 900)), max_size=3)):
        quota.add(spent, NOW_MS - 60_000, NOW_MS)
    for report in draw(st.lists(REPORTS, max_size=2)):
        quota.learn(report, NOW_MS)
    return quota


ACCOUNTS = st.builds(
    Account,
    in_flight=st.integers(0, 5),
    last_used=st.floats(0, 3).map(round),
    weight=st.sampled_from([0.5, 1.0, 2.0]),
    max_concurrency=st.none() | st.integers(1, 5),
    billing=st.sampled_from(["plan", "metered"]),
    quota=quotas(),
)
NEEDS = st.builds(
    Needs,
    images=st.booleans(),
    tools=st.booleans(),
    input_tokens=st.sampled_from([0, 100, 1000]),
    max_output_tokens=st.sampled_from([None, 100, 1000]),
)
DEMANDS = st.builds(
    Demand,
    st.sampled_from([Dialect.CHAT, Dialect.CHAT, Dialect.MESSAGES]),
    only=st.none() | st.none() | st.sampled_from(LABELS),
    estimate=st.builds(Spending, st.integers(0, 300), st.integers(0, 300)),
    affinity=st.none() | st.builds(Affinity, st.sampled_from(LABELS), st.booleans()),
    needs=NEEDS,
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Pool, list[Candidate]]:
    """A pool in any state, and candidates in any order."""
    labels = draw(st.lists(st.sampled_from(LABELS), unique=True))
    priority = {provider: draw(st.integers(0, 2)) for provider in "abc"}
    dialects = st.sampled_from([Dialect.CHAT, Dialect.CHAT, Dialect.MESSAGES])
    limits = st.builds(Limits, context=st.none() | st.just(500), output=st.none() | st.just(500))
    lacks = st.frozensets(st.sampled_from(["images", "tools"]))
    candidates = [candidate(label, priority[label[0]], draw(dialects), draw(limits), draw(lacks)) for label in labels]
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
    same = planned(pool, candidates, demand)
    assert (same.choices, same.refused, same.retry_after_s) == (first.choices, first.refused, first.retry_after_s)
    again = planned(pool, data.draw(st.permutations(candidates)), demand)
    assert again.choices == first.choices
    assert {*again.refused} == {*first.refused}
    assert (again.retry_after_s, again.binding) == (first.retry_after_s, first.binding)


def lacking(one: Candidate, needs: Needs) -> bool:
    """Whether a candidate is known not to do what is needed."""
    return (
        (needs.images and one.capabilities.images is False)
        or (needs.tools and one.capabilities.tools is False)
        or needs.input_tokens > (one.limits.context or 10**9) * SURELY
        or (needs.max_output_tokens or 0) > (one.limits.output or 10**9)
    )


@given(situations(), DEMANDS)
def test_only_a_word_refuses(situation: tuple[Pool, list[Candidate]], demand: Demand) -> None:
    """Dialect, pin and concurrency aside, only a provider's word, an enforced ceiling or a known lack refuses."""
    pool, candidates = situation
    refused = {refusal.account: refusal for refusal in planned(pool, candidates, demand).refused}
    ruled_out = set()
    for one in candidates:
        account = pool.accounts[one.account]
        words = [
            rest
            for scope in scopes(one)
            if (rest := pool.rests.get(scope)) and rest.on_providers_word and status(rest, NOW) in ("resting", "trial")
        ]
        spent = account.quota.refusal(NOW_MS, "m")
        full = account.max_concurrency is not None and account.in_flight >= account.max_concurrency
        elsewhere = demand.only not in (None, one.account)
        if demand.dialect not in one.dialects or elsewhere or words or spent or full:
            ruled_out.add(one.account)
            assert one.account in refused
        if one.account in refused and refused[one.account].reason.startswith("resting_"):
            back_ms = refused[one.account].until_at_ms
            assert back_ms is not None
            assert back_ms >= NOW_MS + max(round((rest.until - NOW) * 1000) for rest in words)
    left = [one for one in candidates if one.account not in ruled_out]
    able = [one for one in left if not lacking(one, demand.needs)]
    assert {*refused} - ruled_out == ({one.account for one in left if one not in able} if able else set())


@given(situations(), DEMANDS)
def test_the_order(situation: tuple[Pool, list[Candidate]], demand: Demand) -> None:
    """Guesses last, then tiers, what is used up, plans, the score, the load, the longest unused, then the name.

    Only the account that a warm conversation is bound to may stand before its place.
    """
    pool, candidates = situation
    result = planned(pool, candidates, demand)
    keys = []
    for choice in result.choices:
        one, account = choice.candidate, pool.accounts[choice.candidate.account]
        rests = [pool.rests[scope] for scope in scopes(one) if scope in pool.rests]
        guessed = any(status(rest, NOW) in ("resting", "trial") for rest in rests)
        assert choice.score == pytest.approx(
            account.quota.pressure(NOW_MS, demand.estimate, "m") + IN_FLIGHT_COST * account.in_flight / account.weight,
            abs=0.51 / STEPS,
        )
        assert choice.exhausted == account.quota.exhausted(NOW_MS, "m")
        assert (choice.last_resort, choice.billing) == (guessed, account.billing)
        metered = account.billing == "metered"
        place = (-one.routing_priority, choice.exhausted, metered, choice.score, account.in_flight, account.last_used)
        keys.append((guessed, *place, one.account))
    moved = keys[1:] if result.binding == "kept" else keys
    assert moved == sorted(moved)


def used_up() -> Quota:
    """Nothing is left of the week, by our own estimate."""
    quota = Quota([WEEK])
    quota.add(Spending(tokens=1000), NOW_MS, NOW_MS)
    return quota


@pytest.mark.parametrize(
    ("accounts", "expected"),
    [
        ({"a/1": (0, Account(in_flight=0)), "b/1": (5, Account(in_flight=99))}, ["b/1", "a/1"]),
        ({"a/1": (0, Account(quota=used_up())), "b/1": (-1, Account())}, ["a/1", "b/1"]),
        ({"a/1": (0, Account(quota=used_up())), "a/2": (0, Account(billing="metered"))}, ["a/2", "a/1"]),
        ({"a/1": (0, Account(billing="metered")), "a/2": (0, Account(in_flight=9))}, ["a/2", "a/1"]),
        ({"a/1": (0, Account(in_flight=2)), "a/2": (0, Account(in_flight=1))}, ["a/2", "a/1"]),
        ({"a/1": (0, Account(in_flight=1)), "a/2": (0, Account(in_flight=3, weight=4.0))}, ["a/2", "a/1"]),
        ({"a/1": (0, Account(last_used=9.0)), "a/2": (0, Account(last_used=3.0))}, ["a/2", "a/1"]),
        ({"b/1": (0, Account()), "a/1": (0, Account())}, ["a/1", "b/1"]),
    ],
    ids=[
        "tier before load",
        "tier before used up",
        "used up before metered",
        "plan before load",
        "load",
        "load by weight",
        "longest unused",
        "name",
    ],
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


def bound(label: str, *, warm: bool = True) -> Demand:
    """A request of a conversation that an account has served."""
    return Demand(Dialect.CHAT, affinity=Affinity(AccountLabel(label), warm))


BOUND: list[tuple[str, dict[str, tuple[int, Account]], bool, str, str]] = [
    ("best anyway", {"a/1": (0, Account()), "a/2": (0, Account(in_flight=1))}, True, "kept", "a/1"),
    ("within the slack", {"a/1": (0, Account(in_flight=15)), "a/2": (0, Account())}, True, "kept", "a/1"),
    ("beyond the slack", {"a/1": (0, Account(in_flight=16)), "a/2": (0, Account())}, True, "escaped", "a/2"),
    ("across tiers", {"a/1": (0, Account()), "b/1": (5, Account())}, True, "kept", "a/1"),
    ("cool", {"a/1": (0, Account(in_flight=1)), "a/2": (0, Account())}, False, "cool", "a/2"),
    ("not here", {"b/1": (0, Account())}, True, "gone", "b/1"),
    ("full", {"a/1": (0, Account(in_flight=1, max_concurrency=1)), "a/2": (0, Account())}, True, "gone", "a/2"),
]


@pytest.mark.parametrize(
    ("accounts", "warm", "binding", "first"), [row[1:] for row in BOUND], ids=[r[0] for r in BOUND]
)
def test_a_conversation_stays(accounts: dict[str, tuple[int, Account]], warm: bool, binding: str, first: str) -> None:
    """A warm conversation stays across tiers, until its account is far behind the best, or cannot serve."""
    pool = Pool({AccountLabel(label): account for label, (_, account) in accounts.items()})
    result = planned(pool, [candidate(label, tier) for label, (tier, _) in accounts.items()], bound("a/1", warm=warm))
    assert (result.binding, order(result)[0]) == (binding, first)


def test_a_crowded_short_window_keeps_out_newcomers_only() -> None:
    """A short window that is nearly full puts an account behind for new conversations; who is there stays."""
    spec = WindowSpec("hourly", WindowKind.ROLLING, QuotaUnit.TOKENS, 1000, 3600, WindowSource.CONFIG)
    one, other = candidate("a/1"), candidate("a/2")
    week = msgspec.structs.replace(WEEK, limit=10_000)
    pool = Pool({label.account: Account(quota=Quota([week, spec])) for label in (one, other)})
    pool.accounts[one.account].quota.add(Spending(tokens=950), NOW_MS, NOW_MS)
    pool.accounts[other.account].quota.add(Spending(tokens=250), NOW_MS, NOW_MS)
    assert order(planned(pool, [one, other])) == ["a/2", "a/1"]
    assert order(planned(pool, [one, other], bound("a/1"))) == ["a/1", "a/2"]


def test_a_conversation_leaves_what_rests() -> None:
    """Affinity is a preference, health a veto: also when the rest is only our own guess."""
    one, other = candidate("a/1"), candidate("b/1")
    rests = {account_scope(one.account): Rest("network", NOW + 9, False, 1)}
    result = planned(Pool({one.account: Account(), other.account: Account()}, rests), [one, other], bound("a/1"))
    assert (result.binding, order(result)) == ("resting", ["b/1", "a/1"])


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        (Needs(images=True), "lacks_images"),
        (Needs(input_tokens=751), "lacks_context"),
        (Needs(max_output_tokens=501), "lacks_output"),
    ],
)
def test_a_known_lack(needs: Needs, reason: str) -> None:
    """What is known not to work is passed over while another is left, and tried when none is."""
    one = candidate("a/1", limits=Limits(context=500, output=500), lacks=frozenset({"images"}))
    other = candidate("b/1")
    pool = Pool({one.account: Account(), other.account: Account(in_flight=3)})
    demand = Demand(Dialect.CHAT, needs=needs)
    result = planned(pool, [one, other], demand)
    assert (order(result), [refusal.reason for refusal in result.refused]) == (["b/1"], [reason])
    assert order(planned(pool, [one], demand)) == ["a/1"]


def test_a_spent_quota_refuses() -> None:
    """A provider's word about a window refuses until it resets, and says which window."""
    one = candidate("a/1")
    account = Account(quota=Quota())
    report = QuotaReport("weekly", NOW_MS, QuotaUnit.PERCENT, exhausted=True, resets_at_ms=NOW_MS + 90_000)
    account.quota.learn(report, NOW_MS)
    result = planned(Pool({one.account: account}), [one])
    assert [(refusal.reason, refusal.until_at_ms) for refusal in result.refused] == [("spent_weekly", NOW_MS + 90_000)]
    assert result.retry_after_s == 90
    assert (result.count, result.first, result.choices) == (0, None, ())


def test_what_differs_by_a_hair_is_a_tie() -> None:
    """Two accounts that small requests have used by next to nothing take turns, instead of one until it is ahead."""
    quota = Quota([WEEK])
    quota.learn(QuotaReport("weekly", NOW_MS, QuotaUnit.PERCENT, used_share=0.0004), NOW_MS)
    untouched = Quota([WEEK])
    untouched.learn(QuotaReport("weekly", NOW_MS, QuotaUnit.PERCENT, used_share=0.0), NOW_MS)
    accounts = {"a/1": Account(last_used=2.0, quota=untouched), "a/2": Account(last_used=1.0, quota=quota)}
    pool = Pool({AccountLabel(label): account for label, account in accounts.items()})
    assert untouched.pressure(NOW_MS) < quota.pressure(NOW_MS)
    assert order(planned(pool, [candidate(label) for label in accounts])) == ["a/2", "a/1"]
