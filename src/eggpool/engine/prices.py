"""What each model costs at each provider: the configuration's word before the provider's own list.

Sits here because it needs settings, model lists and prices together, which do not know each other.
"""

from __future__ import annotations

from collections.abc import Mapping

from eggpool import pricing
from eggpool.config.schema import Config, ModelOverride
from eggpool.domain import AccountLabel, Price
from eggpool.errors import ConfigError
from eggpool.routing.catalog import AccountModels


def price_table(config: Config, lists: Mapping[AccountLabel, AccountModels]) -> dict[tuple[str, str], Price]:
    """Prices by (provider, model). Raises ConfigError with the place of a price that cannot be read."""
    table: dict[tuple[str, str], Price] = {}
    for provider in config.providers.values():
        listed = {
            model.id: model.price
            for account in provider.accounts
            if account.label in lists
            for model in lists[account.label].models
        }
        names = {*listed, *provider.static_models, *provider.model_overrides, *config.model_overrides}
        for name in names:
            own, general = config.override(provider.id, name)
            told = _overlaid(general, listed.get(name), f'model_overrides."{name}"')
            price = _overlaid(own, told, f'providers.{provider.id}.model_overrides."{name}"')
            if price is not None:
                table[(provider.id, name)] = price
    return table


def price_problems(config: Config) -> list[str]:
    """The prices of the configuration that cannot be read, each with the path of its key."""
    problems: list[str] = []
    places = [(f'model_overrides."{name}"', override) for name, override in config.model_overrides.items()]
    for provider in config.providers.values():
        places += [
            (f'providers.{provider.id}.model_overrides."{name}"', override)
            for name, override in provider.model_overrides.items()
        ]
    for place, override in places:
        for key in ("input_price_per_1k", "output_price_per_1k"):
            price = getattr(override, key)
            if isinstance(price, (int, float)) and price < 0:
                continue  # the loader has told of it
            try:
                _overlaid(ModelOverride(**{key: price}), None, f"{place}.{key}")
            except ConfigError as error:
                problems += error.problems
    return problems


def _overlaid(override: ModelOverride | None, price: Price | None, place: str) -> Price | None:
    if override is None:
        return price
    try:
        return pricing.with_override(
            price,
            input_price_per_1k=override.input_price_per_1k,
            output_price_per_1k=override.output_price_per_1k,
            cache_read_per_million_microdollars=override.cache_read_per_million_microdollars,
            cache_write_per_million_microdollars=override.cache_write_per_million_microdollars,
        )
    except ConfigError as error:
        raise ConfigError(tuple(f"{place}: {problem}" for problem in error.problems)) from None
