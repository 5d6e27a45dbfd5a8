"""What a request costs, and how prices are read."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from eggpool.domain import Cost, Exactness, Price, Usage, UsageSource
from eggpool.errors import ConfigError
from eggpool.pricing import (
    MAX_RATE,
    Unit,
    cost,
    from_listing,
    from_override,
    overlay,
    parse_price_text,
    saved_by_cache,
    with_override,
)

DOLLAR = 1_000_000_000
FULL = Price(
    input=3 * DOLLAR,
    output=15 * DOLLAR,
    cache_read=300_000_000,
    cache_write=3_750_000_000,
    cache_write_1h=6 * DOLLAR,
)

rates = st.integers(0, MAX_RATE)
counts = st.integers(0, 10**9)


def usage_of(plain: int, read: int, write: int, write_1h: int, output: int, reasoning: int) -> Usage:
    """Usage from disjoint counts."""
    return Usage(
        input_tokens=plain + read + write + write_1h,
        cache_read_tokens=read,
        cache_write_tokens=write + write_1h,
        cache_write_1h_tokens=write_1h,
        output_tokens=output + reasoning,
        reasoning_tokens=reasoning,
    )


def test_thirty_equal_requests_cost_thirty_times_one() -> None:
    """A small request has the same exact cost each time, and nothing is learnt from one for the next."""
    price = Price(input=150_000_000, output=600_000_000)
    one = cost(Usage(input_tokens=11, output_tokens=7), price)
    assert one == Cost(5_850, Exactness.DERIVED)
    total = sum(cost(Usage(input_tokens=11, output_tokens=7), price).nanodollars or 0 for _ in range(30))
    assert total == 30 * 5_850


def test_each_kind_of_token_has_its_own_rate() -> None:
    """Cached, written and plain input are charged once each, as parts of the input."""
    usage = usage_of(plain=1000, read=10_000, write=2000, write_1h=500, output=100, reasoning=0)
    expected = (1000 * 3000 + 10_000 * 300 + 2000 * 3750 + 500 * 6000 + 100 * 15_000) * 1000 // 1000
    assert cost(usage, FULL) == Cost(expected, Exactness.DERIVED)


def test_one_rounding_to_the_nearest() -> None:
    """Parts of a nanodollar are added up first and rounded once."""
    price = Price(input=499_999, output=1)
    assert cost(Usage(input_tokens=1), price).nanodollars == 0
    assert cost(Usage(input_tokens=1, output_tokens=1), price).nanodollars == 1
    assert cost(Usage(input_tokens=3), price).nanodollars == 1


def test_reasoning_is_part_of_the_output() -> None:
    """Reasoning tokens are not charged on top of the output that contains them."""
    with_reasoning = cost(Usage(output_tokens=100, reasoning_tokens=60), FULL)
    assert with_reasoning == cost(Usage(output_tokens=100), FULL)


def test_reasoning_with_a_rate_of_its_own() -> None:
    """A provider's own rate for reasoning holds for that part only."""
    price = replace(FULL, reasoning=30 * DOLLAR)
    assert cost(Usage(output_tokens=100, reasoning_tokens=60), price).nanodollars == 40 * 15_000 + 60 * 30_000


def test_reported_money_is_exact() -> None:
    """What the provider says that it charged holds, whatever the prices say."""
    assert cost(Usage(input_tokens=5, cost_nanodollars=123), FULL) == Cost(123, Exactness.EXACT)
    assert cost(Usage(input_tokens=5, cost_nanodollars=0), None) == Cost(0, Exactness.EXACT)


@pytest.mark.parametrize("price", [None, Price(), Price(cache_read=5), Price(output=5), Price(input=5)])
def test_no_price_is_unknown_money(price: Price | None) -> None:
    """Tokens without a price are never given an assumed one."""
    assert cost(Usage(input_tokens=10, output_tokens=10), price) == Cost(None, Exactness.UNKNOWN)


def test_no_report_is_unknown_money() -> None:
    """A reply without a usage report does not count as free."""
    assert cost(Usage(), FULL, UsageSource.NONE) == Cost(None, Exactness.UNKNOWN)


def test_a_partial_report_is_an_estimate() -> None:
    """A reply that was cut is priced by what was seen, and marked."""
    assert cost(Usage(output_tokens=1), FULL, UsageSource.PARTIAL) == Cost(15_000, Exactness.ESTIMATED)


@pytest.mark.parametrize("kind", ["read", "write", "write_1h"])
def test_a_missing_cache_rate_only_touches_its_own_part(kind: str) -> None:
    """Where no cache rate is known that part costs what input costs, marked as estimated; the rest stays as it is."""
    price = Price(input=3 * DOLLAR, output=15 * DOLLAR)
    parts = {"plain": 100, "read": 0, "write": 0, "write_1h": 0, "output": 10, "reasoning": 0, kind: 900}
    assert cost(usage_of(**parts), price) == Cost(1000 * 3000 + 10 * 15_000, Exactness.ESTIMATED)


def test_cache_tokens_beyond_the_input_are_an_estimate() -> None:
    """Counts that contradict each other are priced, never below zero, and marked."""
    assert cost(Usage(input_tokens=10, cache_read_tokens=100), FULL) == Cost(100 * 300, Exactness.ESTIMATED)


def test_a_long_context_has_its_own_rates_for_the_whole_request() -> None:
    """Above the threshold, and not at it, the tier holds for every token."""
    price = replace(FULL, tier_above_tokens=1000, tier_input=6 * DOLLAR, tier_output=20 * DOLLAR)
    assert cost(Usage(input_tokens=1000, output_tokens=1), price).nanodollars == 1000 * 3000 + 15_000
    assert cost(Usage(input_tokens=1001, output_tokens=1), price) == Cost(1001 * 6000 + 20_000, Exactness.DERIVED)


def test_cached_tokens_in_a_long_context_keep_their_ratio() -> None:
    """A source that tells no cache rate for the tier leaves an estimate, scaled like the input."""
    price = replace(FULL, tier_above_tokens=1000, tier_input=6 * DOLLAR)
    assert cost(Usage(input_tokens=2000, cache_read_tokens=2000), price) == Cost(2000 * 600, Exactness.ESTIMATED)


@pytest.mark.parametrize(
    ("usage", "price", "saved"),
    [
        (Usage(input_tokens=1000, cache_read_tokens=600), Price(input=3_000_000, cache_read=300_000), 1620),
        (Usage(input_tokens=1000), Price(input=3_000_000, cache_read=300_000), 0),
        (Usage(input_tokens=1000, cache_read_tokens=600), Price(input=3_000_000), None),
        (Usage(input_tokens=1000, cache_read_tokens=600), Price(cache_read=3_000_000), None),
        (Usage(input_tokens=1000, cache_read_tokens=600), None, None),
        (Usage(input_tokens=1000, cache_read_tokens=600), Price(input=3_000_000, cache_read=4_000_000), 0),
        (
            Usage(input_tokens=1000, cache_read_tokens=600),
            Price(input=3_000_000, cache_read=300_000, tier_above_tokens=500, tier_input=6_000_000),
            3240,
        ),
    ],
)
def test_what_the_cache_saved(usage: Usage, price: Price | None, saved: int | None) -> None:
    """Cached tokens saved the difference between the two rates, at the tier that held; unknown rates save nothing."""
    assert saved_by_cache(usage, price) == saved


def test_a_fee_per_request_is_added() -> None:
    """The fee is charged once."""
    assert cost(Usage(output_tokens=1), replace(FULL, request=7)).nanodollars == 15_007


@given(
    parts=st.fixed_dictionaries(dict.fromkeys(("plain", "read", "write", "write_1h", "output", "reasoning"), counts)),
    grown=st.sampled_from(["plain", "read", "write", "write_1h", "output", "reasoning"]),
    by=counts,
    price=st.builds(
        Price,
        input=rates,
        output=rates,
        cache_read=st.none() | rates,
        cache_write=st.none() | rates,
        cache_write_1h=st.none() | rates,
        reasoning=st.none() | rates,
        request=st.integers(0, DOLLAR),
    ),
    tier=st.none() | st.tuples(counts, rates, rates),
)
def test_cost_grows_with_each_kind_of_token(
    parts: dict[str, int], grown: str, by: int, price: Price, tier: tuple[int, int, int] | None
) -> None:
    """More tokens of any kind never cost less, as long as a tier is not cheaper than what it replaces."""
    if tier is not None:
        price = replace(
            price,
            tier_above_tokens=tier[0],
            tier_input=max(tier[1], price.input or 0),
            tier_output=max(tier[2], price.output or 0),
        )
    before = cost(usage_of(**parts), price)
    after = cost(usage_of(**{**parts, grown: parts[grown] + by}), price)
    assert before.nanodollars is not None
    assert after.nanodollars is not None
    assert 0 <= before.nanodollars <= after.nanodollars


@given(usage=st.builds(Usage, *[st.integers(-(2**70), 2**70)] * 6), price=st.none() | st.builds(Price, rates, rates))
def test_any_numbers_give_a_cost(usage: Usage, price: Price | None) -> None:
    """Money is unknown exactly when the exactness says so, and never negative, whatever a provider reports."""
    result = cost(usage, price)
    assert (result.nanodollars is None) == (result.exactness is Exactness.UNKNOWN)
    assert result.nanodollars is None or result.nanodollars >= 0


@pytest.mark.parametrize(
    ("text", "unit", "dollars_per_million"),
    [
        ("$3 / 1M", "token", 3),
        ("3", "1m", 3),
        (3, "1m", 3),
        (0.003, "1k", 3),
        ("0.000003 per token", "1m", 3),
        ("0.003 /1k", "token", 3),
        ("$0.003/1K tokens", "token", 3),
        ("US$ 3 per million tokens", "token", 3),
        ("3 USD / MTok", "token", 3),
        ("3 dollars per 1_000_000 tokens", "token", 3),
        (3e-6, "token", 3),
        ("3e-06", "token", 3),
        (".5 /1m", "token", 0.5),
        (0, "token", 0),
    ],
)
def test_prices_as_people_write_them(text: float | str, unit: Unit, dollars_per_million: float) -> None:
    """Number, currency and unit are understood; the unit in the text wins."""
    assert parse_price_text(text, unit) == int(dollars_per_million * DOLLAR)


def test_a_price_below_a_nanodollar_per_token_is_kept_whole() -> None:
    """Some published prices are not whole per token; per million they are."""
    assert parse_price_text("0.0000000375", "token") == 37_500_000


@pytest.mark.parametrize(
    "text",
    [
        *("-1", -1, -0.5, "free", "", "3 €", "3 / dozen", "$3 / 1k / 1M", "100", "9" * 200, "1e999", "nan", True),
        *(float("nan"), float("inf")),
        pytest.param(10**5000, id="huge"),
    ],
)
def test_what_is_no_price_is_refused(text: float | str) -> None:
    """Negative, absurd and unreadable prices are told in one sentence."""
    with pytest.raises(ConfigError) as caught:
        parse_price_text(text, "token")
    assert len(caught.value.problems) == 1
    assert len(str(caught.value)) < 250


@given(st.text(max_size=150) | st.floats() | st.integers())
def test_any_text_is_a_price_or_a_sentence(text: float | str) -> None:
    """Nothing but a ConfigError comes out, and a price is within its bounds."""
    with contextlib.suppress(ConfigError):
        assert 0 <= parse_price_text(text, "1k") <= MAX_RATE


def test_override_units() -> None:
    """The keys of the configuration have the units that their names say."""
    price = from_override(
        input_price_per_1k=0.003,
        output_price_per_1k="$15 / 1M",
        cache_read_per_million_microdollars=300_000,
        cache_write_per_million_microdollars=3_750_000,
    )
    assert price == Price(3 * DOLLAR, 15 * DOLLAR, 300_000_000, 3_750_000_000, source="config")
    assert from_override() is None


def test_listing_of_dollars_per_token() -> None:
    """A list with prices per token as text, cache and fee included."""
    entry = {
        "id": "m",
        "pricing": {
            "prompt": "0.000003",
            "completion": "0.000015",
            "request": "0.01",
            "image": "0",
            "input_cache_read": "0.0000003",
            "input_cache_write": "0.00000375",
            "internal_reasoning": "0",
        },
    }
    assert from_listing(entry) == Price(
        3 * DOLLAR, 15 * DOLLAR, 300_000_000, 3_750_000_000, request=10_000_000, source="provider"
    )


def test_listing_per_thousand() -> None:
    """A list with prices per thousand tokens beside the other fields, and microdollars per million."""
    entry = {"input_price_per_1k": 0.003, "output_price_per_1k": 0.015, "cache_read_per_million_microdollars": 300_000}
    assert from_listing(entry) == Price(3 * DOLLAR, 15 * DOLLAR, 300_000_000, source="provider")


@pytest.mark.parametrize(
    "pricing",
    [
        None,
        [],
        {},
        {"prompt": "-1", "completion": "-1"},
        {"prompt": "NaN", "completion": None},
        {"prompt": 3, "completion": 15},
        {"prompt": True},
        {"prompt": {"usd": 1}},
    ],
)
def test_a_listing_without_a_price(pricing: object) -> None:
    """Negative, absurd or missing prices count as not told, so the model is unpriced, not free."""
    assert from_listing({"id": "m", "pricing": pricing}) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=4,
)
listed_names = st.sampled_from(["prompt", "completion", "request", "input_cache_read", "input_price_per_1k", "pricing"])


@given(st.dictionaries(listed_names, json_values | st.dictionaries(listed_names, json_values)))
def test_any_listing_is_read(entry: dict[str, object]) -> None:
    """A model list can contain anything without harm."""
    price = from_listing(entry)
    assert price is None or 0 <= (price.input or 0) <= MAX_RATE


def test_an_override_wins_and_the_list_fills_up() -> None:
    """Each rate comes from the configuration, else from the list; a tier of the list goes with its own rates."""
    listed = Price(2 * DOLLAR, 8 * DOLLAR, 200_000_000, tier_above_tokens=9, tier_input=4 * DOLLAR, source="provider")
    merged = with_override(listed, input_price_per_1k=0.001)
    assert merged == Price(DOLLAR, 8 * DOLLAR, 200_000_000, source="mixed")
    assert with_override(listed) == listed
    assert with_override(None, input_price_per_1k=0.001) == Price(DOLLAR, source="config")
    assert overlay(FULL, listed) == replace(FULL, source="")
