"""Prices by provider and model: whose word counts, and what is said of a price that cannot be read."""

from __future__ import annotations

from eggpool.config.load import load
from eggpool.config.schema import Config
from eggpool.domain import AccountLabel, ListedModel, Price
from eggpool.engine.prices import price_problems, price_table
from eggpool.routing.catalog import AccountModels

PROVIDER = """
[providers.one]
id = "one"
base_url = "http://127.0.0.1:1/v1"
static_models = ["fixed"]
[[providers.one.accounts]]
name = "a"
api_key = "test-one-key-0000"
"""
LISTED = {
    AccountLabel("one/a"): AccountModels(
        (ListedModel(id="m", price=Price(input=1_000, output=2_000, source="provider")),), fetched_at_ms=1
    )
}


def config(overrides: str) -> Config:
    return load(PROVIDER + overrides, {}, folder="/nowhere").config


def test_the_configuration_comes_before_the_list() -> None:
    """A provider's own override wins over the general one, and that over what the provider lists."""
    general = '[model_overrides."m"]\ninput_price_per_1k = "$5 / 1M"\noutput_price_per_1k = "$6 / 1M"\n'
    own = '[providers.one.model_overrides."m"]\ninput_price_per_1k = "$3 / 1M"\n'
    price = price_table(config(general + own), LISTED)["one", "m"]
    assert (price.input, price.output) == (3_000_000_000, 6_000_000_000)


def test_a_model_without_any_price_is_not_in_the_table() -> None:
    """Nothing is assumed about a model that nobody prices."""
    assert ("one", "fixed") not in price_table(config(""), LISTED)


def test_a_price_that_cannot_be_read_is_named_with_its_place() -> None:
    """Every unreadable price is told, each with the path of its key."""
    wrong = '[model_overrides."m"]\ninput_price_per_1k = "cheap"\n'
    wrong += '[providers.one.model_overrides."n"]\noutput_price_per_1k = "3 eggs"\n'
    first, second = price_problems(config(wrong))
    assert first.startswith('model_overrides."m".input_price_per_1k: ')
    assert second.startswith('providers.one.model_overrides."n".output_price_per_1k: ')
