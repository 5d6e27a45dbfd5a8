"""What a request costs, and how prices are read. Pure: values in, values out.

Money is integer nanodollars, prices are integer nanodollars per million tokens. A cost is summed in whole units of
(tokens x price) and rounded once, at the end, so that equal requests cost exactly the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Literal

import msgspec

from eggpool.domain import Cost, Exactness, Price, Usage, UsageSource
from eggpool.errors import ConfigError

MILLION = 1_000_000
NANODOLLARS = 1_000_000_000  # in a dollar
NANODOLLARS_PER_MICRODOLLAR = 1000

MAX_RATE = 10_000 * NANODOLLARS
"""Nothing costs more than ten thousand dollars per million tokens; beyond it the unit was misread."""
MAX_FEE = 1000 * NANODOLLARS
MAX_TEXT = 100  # characters of a price

Unit = Literal["token", "1k", "1m"]
_TOKENS: dict[Unit, int] = {"token": 1, "1k": 1000, "1m": MILLION}
_UNIT_WORDS: dict[str, Unit] = {
    **dict.fromkeys(("token", "tokens", "tok", "1", "1token", "1tok"), "token"),
    **dict.fromkeys(("k", "1k", "ktok", "ktokens", "1ktok", "1ktokens", "1000", "1000tokens", "thousand"), "1k"),
    **dict.fromkeys(("thousandtokens", "1ktoken", "ktoken"), "1k"),
    **dict.fromkeys(("m", "1m", "mtok", "mtokens", "1mtok", "1mtokens", "1000000", "1000000tokens", "million"), "1m"),
    **dict.fromkeys(("milliontokens", "1mtoken", "mtoken", "1million", "1milliontokens"), "1m"),
}
_PRICE = re.compile(
    r"""^\s*(?:US)?\$?\s*
        (?P<number>[0-9][0-9_]*(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,3})?|\.[0-9]+)
        \s*(?:USD|dollars?|\$)?\s*
        (?:(?:/|per\b)\s*(?P<unit>[0-9a-z_,\s]+?))?\s*$""",
    re.VERBOSE | re.IGNORECASE,
)


def cost(usage: Usage, price: Price | None, source: UsageSource = UsageSource.REPORTED) -> Cost:
    """The money of one request.

    Money that the provider reported is exact. Otherwise tokens times prices: derived when every number is known,
    estimated when the rate of a cached part had to be taken from the input rate, when token counts contradict each
    other, or when the report is not the final one. Unknown when no report was seen (`source` NONE), or when input or
    output tokens have no price: an assumed price is never booked.

    The result grows with the number of tokens of each kind, counted as disjoint kinds.
    """
    if usage.cost_nanodollars is not None and usage.cost_nanodollars >= 0:
        return Cost(usage.cost_nanodollars, Exactness.EXACT)
    unknown = Cost(None, Exactness.UNKNOWN)
    if price is None or source is UsageSource.NONE or (price.input is None and price.output is None):
        return unknown
    tokens, consistent = _disjoint(usage)
    rates, known = _rates(price, usage.input_tokens)
    units = 0
    derived = consistent and source is UsageSource.REPORTED
    for kind, count in tokens.items():
        if count == 0:
            continue
        rate = rates[kind]
        if rate is None:
            return unknown
        units += count * rate
        derived = derived and kind in known
    nanodollars = price.request + (units + MILLION // 2) // MILLION
    return Cost(nanodollars, Exactness.DERIVED if derived else Exactness.ESTIMATED)


def saved_by_cache(usage: Usage, price: Price | None) -> int | None:
    """Nanodollars that the cached part of the input would have cost more without the cache.

    None when the source does not say what cached or uncached input costs.
    """
    if price is None or price.cache_read is None:
        return None
    rates, _ = _rates(price, usage.input_tokens)
    plain, cached = rates["input"], rates["cache_read"]
    if plain is None or cached is None:
        return None
    return max(plain - cached, 0) * max(usage.cache_read_tokens, 0) // MILLION


_Kind = Literal["input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning"]


def _disjoint(usage: Usage) -> tuple[dict[_Kind, int], bool]:
    """The counts without their subsets, and whether the subsets fitted into what they are parts of."""
    read, write = max(usage.cache_read_tokens, 0), max(usage.cache_write_tokens, 0)
    write_1h, reasoning = max(usage.cache_write_1h_tokens, 0), max(usage.reasoning_tokens, 0)
    tokens: dict[_Kind, int] = {
        "input": usage.input_tokens - read - max(write, write_1h),
        "cache_read": read,
        "cache_write": write - write_1h,
        "cache_write_1h": write_1h,
        "output": usage.output_tokens - reasoning,
        "reasoning": reasoning,
    }
    consistent = all(count >= 0 for count in tokens.values())
    return {kind: max(count, 0) for kind, count in tokens.items()}, consistent


def _rates(price: Price, input_tokens: int) -> tuple[dict[_Kind, int | None], set[_Kind]]:
    """The rate of each kind, and the kinds whose rate the source really tells."""
    in_tier = price.tier_above_tokens is not None and input_tokens > price.tier_above_tokens
    tier_input = price.tier_input if in_tier else None
    tier_output = price.tier_output if in_tier else None
    plain_input = price.input if tier_input is None else tier_input
    plain_output = price.output if tier_output is None else tier_output
    write = _scaled(price.cache_write, price.input, tier_input)
    rates: dict[_Kind, int | None] = {
        "input": plain_input,
        "cache_read": _first(_scaled(price.cache_read, price.input, tier_input), plain_input),
        "cache_write": _first(write, plain_input),
        "cache_write_1h": _first(_scaled(price.cache_write_1h, price.input, tier_input), write, plain_input),
        "output": plain_output,
        # Reasoning is output: without a rate of its own it costs what output costs, and nothing is assumed.
        "reasoning": _first(_scaled(price.reasoning, price.output, tier_output), plain_output),
    }
    known: set[_Kind] = {"input", "output"}
    if price.reasoning is None or tier_output is None:
        known.add("reasoning")
    if tier_input is None:
        told: dict[_Kind, int | None] = {
            "cache_read": price.cache_read,
            "cache_write": price.cache_write,
            "cache_write_1h": price.cache_write_1h,
        }
        known.update(kind for kind, rate in told.items() if rate is not None)
    return rates, known


def _scaled(rate: int | None, base: int | None, tier: int | None) -> int | None:
    """A rate inside a tier whose source only tells the tier of the base rate: providers keep the ratio."""
    if rate is None or tier is None:
        return rate
    return rate * tier // base if base else max(rate, tier)


def _first(*rates: int | None) -> int | None:
    return next((rate for rate in rates if rate is not None), None)


def parse_price_text(value: float | str, default_unit: Unit) -> int:
    """A price as people and providers write it, as nanodollars per million tokens.

    Takes numbers, and text such as "3", "$3 / 1M", "0.000003 per token" or "0.003 /1k"; `default_unit` is how many
    tokens a price is for when it does not say. Raises ConfigError for anything else, and for a price below zero or
    beyond all reason.
    """
    amount, unit = _read_price(value)
    rate = _nanodollars(amount, MILLION // _TOKENS[unit or default_unit])
    if rate > MAX_RATE:
        dollars = MAX_RATE // NANODOLLARS
        raise ConfigError((f"The price {value} is over {dollars} dollars per million tokens; check its unit.",))
    return rate


def _read_price(value: float | str) -> tuple[Decimal, Unit | None]:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ConfigError((_NOT_A_PRICE.format("of this kind"),))
    if isinstance(value, int) and abs(value) > MAX_RATE:
        raise ConfigError(("A price is far beyond all reason; check its unit.",))
    text = value if isinstance(value, str) else repr(value)
    match = _PRICE.match(text) if len(text) <= MAX_TEXT else None
    if match is None:
        raise ConfigError((_NOT_A_PRICE.format(repr(str(value)[:60])),))
    unit = None
    if match["unit"] is not None:
        unit = _UNIT_WORDS.get(re.sub(r"[\s_,]", "", match["unit"]).lower())
        if unit is None:
            raise ConfigError((_NOT_A_PRICE.format(repr(str(value)[:60])),))
    return Decimal(match["number"].replace("_", "")), unit


_NOT_A_PRICE = 'The price {} is not understood; write a number of dollars, or text such as "$3 / 1M" or "0.003 /1k".'


def _nanodollars(dollars: Decimal, times: int) -> int:
    try:
        return int((dollars * NANODOLLARS * times).to_integral_value())
    except InvalidOperation as error:
        raise ConfigError((_NOT_A_PRICE.format(dollars),)) from error


def from_override(
    *,
    input_price_per_1k: float | str | None = None,
    output_price_per_1k: float | str | None = None,
    cache_read_per_million_microdollars: int | None = None,
    cache_write_per_million_microdollars: int | None = None,
) -> Price | None:
    """The price that a model override tells; None when it tells none. Raises ConfigError."""
    price = Price(
        input=None if input_price_per_1k is None else parse_price_text(input_price_per_1k, "1k"),
        output=None if output_price_per_1k is None else parse_price_text(output_price_per_1k, "1k"),
        cache_read=_from_microdollars(cache_read_per_million_microdollars),
        cache_write=_from_microdollars(cache_write_per_million_microdollars),
        source="config",
    )
    return None if price == Price(source="config") else price


def with_override(
    price: Price | None,
    *,
    input_price_per_1k: float | str | None = None,
    output_price_per_1k: float | str | None = None,
    cache_read_per_million_microdollars: int | None = None,
    cache_write_per_million_microdollars: int | None = None,
) -> Price | None:
    """The price with what a model override tells put over it. Raises ConfigError."""
    override = from_override(
        input_price_per_1k=input_price_per_1k,
        output_price_per_1k=output_price_per_1k,
        cache_read_per_million_microdollars=cache_read_per_million_microdollars,
        cache_write_per_million_microdollars=cache_write_per_million_microdollars,
    )
    return overlay(override, price)


def _from_microdollars(value: int | None) -> int | None:
    return None if value is None else value * NANODOLLARS_PER_MICRODOLLAR


_LISTED: dict[str, tuple[tuple[str, Unit], ...]] = {
    # Field of Price: the names under which lists tell it, and the unit that holds when the value names none.
    "input": (("prompt", "token"), ("input_price_per_1k", "1k")),
    "output": (("completion", "token"), ("output_price_per_1k", "1k")),
    "cache_read": (("input_cache_read", "token"),),
    "cache_write": (("input_cache_write", "token"),),
    "reasoning": (("internal_reasoning", "token"),),
}


def from_listing(entry: Mapping[str, object]) -> Price | None:
    """The price in one entry of a provider's model list, or None when it tells none.

    Looked for in its `pricing` object and beside it, in dollars: per token (`prompt`, `completion`,
    `input_cache_read`, `input_cache_write`, `internal_reasoning`), per request (`request`), per thousand tokens
    (`input_price_per_1k`, `output_price_per_1k`), or in microdollars per million. A value that is no price (not a
    number, negative, beyond all reason) counts as not told. Never raises.

    Source: https://openrouter.ai/docs/api-reference/list-available-models
    """
    pricing = entry.get("pricing")
    places = [place for place in (pricing, entry) if isinstance(place, Mapping)]
    rates = {field: _listed_rate(places, field) for field in _LISTED}
    if rates["input"] is None and rates["output"] is None:
        return None
    if rates["reasoning"] == 0:
        rates["reasoning"] = None  # lists write 0 for reasoning that costs what output costs
    fee = next((fee for fee in (_listed_fee(place.get("request")) for place in places) if fee is not None), 0)
    return Price(
        input=rates["input"],
        output=rates["output"],
        cache_read=rates["cache_read"],
        cache_write=rates["cache_write"],
        reasoning=rates["reasoning"],
        request=fee,
        source="provider",
    )


def _listed_rate(places: list[Mapping[str, object]], field: str) -> int | None:
    for place in places:
        for name, unit in _LISTED[field]:
            value = place.get(name)
            if isinstance(value, int | float | str) and not isinstance(value, bool):
                try:
                    return parse_price_text(value, unit)
                except ConfigError:
                    continue
        micro = place.get(f"{field}_per_million_microdollars")
        if isinstance(micro, int) and not isinstance(micro, bool) and 0 <= micro * 1000 <= MAX_RATE:
            return micro * NANODOLLARS_PER_MICRODOLLAR
    return None


def _listed_fee(value: object) -> int | None:
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return None
    try:
        amount, unit = _read_price(value)
    except ConfigError:
        return None
    fee = _nanodollars(amount, 1)
    return fee if unit is None and fee <= MAX_FEE else None


def overlay(over: Price | None, under: Price | None) -> Price | None:
    """Two sources of one price: what `over` does not tell is taken from `under`.

    The tiers of `under` belong to its own input and output, so they go when `over` tells either of those.
    """
    if over is None or under is None:
        return over if under is None else under
    names = ("input", "output", "cache_read", "cache_write", "cache_write_1h", "reasoning")
    told = {name: getattr(over, name) for name in names if getattr(over, name) is not None}
    from_over = set(told)
    if {"input", "output"} & from_over or over.tier_above_tokens is not None:
        told.update({name: getattr(over, name) for name in ("tier_above_tokens", "tier_input", "tier_output")})
    if over.request:
        told["request"] = over.request
    merged = msgspec.structs.replace(under, **told)
    same = msgspec.structs.replace(merged, source=over.source) == over
    return msgspec.structs.replace(merged, source=over.source if same or over.source == under.source else "mixed")
