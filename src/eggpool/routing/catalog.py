"""Which models there are, under what names, and who can serve each: an immutable value, built anew at each change.

Built from the configuration and from what each account's provider last listed. What is listed can be routed; limits
and prices are optional knowledge. An empty or failed list never takes a model away.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property

import msgspec

from eggpool.config.schema import PROTOCOL_DIALECTS, Config, Provider
from eggpool.domain import AccountLabel, Capabilities, Dialect, Limits, ListedModel, ModelCard, Price

MISSES_UNTIL_WITHDRAWN = 3
CLAUDE = "claude-"
_SHOWN_BY_CLAUDE_CODE = ("claude", "anthropic")  # it leaves all other models out of its list
_LONGEST_NAME_FOR_SUGGESTIONS = 80


class AccountModels(msgspec.Struct, frozen=True):
    """What one account is known to have.

    `fetched_at_ms` is when its provider last gave a good list, None when it never did. `misses` counts the good lists
    in a row that lacked a model which an earlier one had.
    """

    models: tuple[ListedModel, ...] = ()
    fetched_at_ms: int | None = None
    misses: dict[str, int] = {}


class Candidate(msgspec.Struct, frozen=True):
    """One account that has one model."""

    account: AccountLabel
    provider: str
    model: str  # the provider's name for it
    dialects: frozenset[Dialect]
    routing_priority: int
    path: str | None = None  # endpoint path that replaces the provider's own
    limits: Limits = Limits()
    price: Price | None = None
    capabilities: Capabilities = Capabilities()
    enforces_limits: bool = True  # what is surely longer than the window is refused without asking

    @property
    def is_bounded(self) -> bool:
        """Whether anything is known that the model cannot do there."""
        limits, has = self.limits, self.capabilities
        return bool(limits.context or limits.input or limits.output) or has.images is False or has.tools is False


class Offer(msgspec.Struct, frozen=True, dict=True):
    """What a name stands for."""

    model: str
    candidates: tuple[Candidate, ...]

    @cached_property
    def bounded(self) -> tuple[Candidate, ...]:
        """Those of which something is known that the model cannot do there."""
        return tuple(one for one in self.candidates if one.is_bounded)

    def larger_than(self, candidate: Candidate) -> Offer:
        """Only those whose window is known to be larger than that of `candidate`."""
        bound = candidate.limits.context
        larger = [one for one in self.candidates if bound and one.limits.context and one.limits.context > bound]
        return Offer(self.model, tuple(larger))


class Catalog(msgspec.Struct, frozen=True):
    """All names that requests may use.

    `unlisted` holds the providers' accounts that never gave a list: for lack of knowledge they are tried for any name
    that nobody lists. `overridden` are the same for models that the configuration says something about. `chains` holds
    the aliases: what the configuration calls by a name of its own, and the models that stand for it, the first best.
    With `claude_names`, `claude-` may stand before the name of any other model that is listed.
    """

    offers: Mapping[str, Offer] = {}
    suffixed: Mapping[str, Offer] = {}
    unlisted: tuple[Candidate, ...] = ()
    overridden: Mapping[tuple[AccountLabel, str], Candidate] = {}
    listing: Mapping[str, ListedModel] = {}  # first known metadata of each bare name
    accounts_at: Mapping[str, int] = {}  # how many enabled accounts each provider has
    chains: Mapping[str, tuple[str, ...]] = {}
    claude_names: bool = False

    def chain(self, name: str) -> tuple[Offer, ...]:
        """What `name` stands for, each offer to be used when nothing can serve the ones before it.

        An alias hides a model of the same name, which may stand in its own chain. No account comes twice with the same
        model. Empty when nobody serves any of it.
        """
        name = self._meant(name)
        models = self.chains.get(name)
        if models is None:
            offer = self.resolve(name)
            return () if offer is None else (offer,)
        offers: list[Offer] = []
        seen: set[tuple[AccountLabel, str]] = set()
        for model in models:
            offer = self.resolve(model)
            there = offer.candidates if offer is not None else ()
            further = tuple(one for one in there if (one.account, one.model) not in seen)
            seen.update((one.account, one.model) for one in further)
            if offer is not None and further:
                offers.append(Offer(offer.model, further))
        return tuple(offers)

    def _meant(self, name: str) -> str:
        """The name behind one that only begins with `claude-` so that Claude Code shows it."""
        if not self.claude_names or self._knows(name):
            return name
        behind = name.removeprefix(CLAUDE)
        return behind if self._knows(behind) else name

    def _knows(self, name: str) -> bool:
        return name in self.chains or name in self.offers or name in self.suffixed

    def resolve(self, name: str) -> Offer | None:
        """The offer of one model, aliases apart: `model/provider` before a bare name, then accounts without a list."""
        offer = self.suffixed.get(name) or self.offers.get(name)
        if offer is not None or not self.unlisted:
            return offer
        model, _, provider = name.rpartition("/")
        there = [candidate for candidate in self.unlisted if model and candidate.provider == provider]
        asked = model if there else name
        return Offer(
            asked,
            tuple(
                self.overridden.get((one.account, asked)) or msgspec.structs.replace(one, model=asked)
                for one in there or self.unlisted
            ),
        )

    def near(self, name: str) -> list[str]:
        """Names like `name`, best first, at most three."""
        if len(name) > _LONGEST_NAME_FOR_SUGGESTIONS:
            return []
        return difflib.get_close_matches(name, [*self.chains, *self.offers, *self.suffixed], n=3)

    def cards(self, *, mode: str, collapse: bool, resting: frozenset[AccountLabel]) -> list[ModelCard]:
        """The pool's own list, by name. `mode` is `[models] expose_mode`; `resting` matters for healthy_union only."""
        found = {
            name: self._card(name, (offer,), collapse=collapse)
            for name, offer in (self.offers if collapse else self.suffixed).items()
            if _exposed(self, offer, mode, resting)
        }
        for name in self.chains:
            found.pop(name, None)
            offers = self.chain(name)
            if any(_exposed(self, offer, mode, resting) for offer in offers):
                found[name] = self._card(name, offers, collapse=True)
        return sorted(found.values(), key=lambda card: card.id)

    def _card(self, name: str, offers: tuple[Offer, ...], *, collapse: bool) -> ModelCard:
        first = offers[0].model
        listed = self.listing.get(first) or ListedModel(id=first)
        candidates = [candidate for offer in offers for candidate in offer.candidates]
        providers = tuple(dict.fromkeys(candidate.provider for candidate in candidates))
        return ModelCard(
            id=name,
            base_model=first,
            display_name=name if name in self.chains else listed.display_name or first,
            created=listed.created or 0,
            owned_by="eggpool" if collapse else providers[0],
            providers=providers,
            collapsed=collapse,
            routing_priority=max(candidate.routing_priority for candidate in candidates),
            limits=_smallest(candidate.limits for candidate in candidates),
            dialects=tuple(sorted({one for candidate in candidates for one in candidate.dialects})),
            price=candidates[0].price if len(offers) == len(providers) == 1 else None,
        )


def with_claude_names(cards: list[ModelCard]) -> list[ModelCard]:
    """A list with a second entry, which begins with `claude-`, for each model that Claude Code would not show."""
    taken = {card.id for card in cards}
    further = [
        msgspec.structs.replace(card, id=CLAUDE + card.id)
        for card in cards
        if not card.id.startswith(_SHOWN_BY_CLAUDE_CODE) and CLAUDE + card.id not in taken
    ]
    return sorted([*cards, *further], key=lambda card: card.id)


def merge(previous: AccountModels, fetched: Iterable[ListedModel], at_ms: int) -> AccountModels:
    """What an account has after a good answer with `fetched` models; an empty answer changes nothing."""
    models = {model.id: model for model in fetched}
    if not models:
        return previous
    misses: dict[str, int] = {}
    for model in previous.models:
        if model.id not in models:
            missed = previous.misses.get(model.id, 0) + 1
            if missed < MISSES_UNTIL_WITHDRAWN:
                models[model.id] = model
                misses[model.id] = missed
    return AccountModels(tuple(models.values()), at_ms, misses)


def build(
    config: Config, lists: Mapping[AccountLabel, AccountModels], prices: Mapping[tuple[str, str], Price], now_ms: int
) -> Catalog:
    """The catalogue of all enabled accounts. `prices` is by (provider, model)."""
    bare: dict[str, list[Candidate]] = {}
    suffixed: dict[str, list[Candidate]] = {}
    unlisted: list[Candidate] = []
    overridden: dict[tuple[AccountLabel, str], Candidate] = {}
    listing: dict[str, ListedModel] = {}
    accounts_at: dict[str, int] = {}
    for provider in config.providers.values():
        accounts = [account for account in provider.accounts if account.enabled and provider.enabled]
        accounts_at[provider.id] = len(accounts)
        known = {account.label: _known(config, provider, lists.get(account.label), now_ms) for account in accounts}
        everything = _union(known.values())
        for account in accounts:
            models = known[account.label]
            if models is None:
                # Its siblings' lists are the best guess for an account that never gave one of its own.
                models = everything
                if not everything:
                    unlisted.append(_candidate(config, provider, account.label, ListedModel(id=""), None))
                    for name in {**config.model_overrides, **provider.model_overrides}:
                        price = prices.get((provider.id, name))
                        named = _candidate(config, provider, account.label, ListedModel(id=name), price)
                        overridden[account.label, name] = named
            for listed in models.values():
                price = prices.get((provider.id, listed.id))
                candidate = _candidate(config, provider, account.label, listed, price)
                bare.setdefault(listed.id, []).append(candidate)
                suffixed.setdefault(f"{listed.id}/{provider.id}", []).append(candidate)
                listing.setdefault(listed.id, listed)
    return Catalog(
        offers={name: Offer(name, tuple(candidates)) for name, candidates in bare.items()},
        suffixed={name: Offer(candidates[0].model, tuple(candidates)) for name, candidates in suffixed.items()},
        unlisted=tuple(unlisted),
        overridden=overridden,
        listing=listing,
        accounts_at=accounts_at,
        claude_names=config.models.claude_aliases,
        chains={name: tuple(_expanded(config.models.aliases, name, frozenset())) for name in config.models.aliases},
    )


def _expanded(aliases: Mapping[str, tuple[str, ...]], name: str, within: frozenset[str]) -> dict[str, None]:
    """The models of an alias in order, each once, with those of the aliases among them in their place.

    A name that leads back to an alias which it is part of means the model of that name.
    """
    models: dict[str, None] = {}
    within = within | {name}
    for model in aliases[name]:
        if model in aliases and model not in within:
            models |= {one: None for one in _expanded(aliases, model, within) if one not in models}
        else:
            models.setdefault(model)
    return models


def _known(
    config: Config, provider: Provider, listed: AccountModels | None, now_ms: int
) -> dict[str, ListedModel] | None:
    """The models of one account, None when nothing is known about it."""
    models = {model: ListedModel(id=model) for model in provider.static_models}
    if listed is not None and listed.fetched_at_ms is not None:
        stale = now_ms - listed.fetched_at_ms > config.models.stale_after_s * 1000
        if not stale or config.models.allow_stale_catalog:
            models |= {model.id: model for model in listed.models}
            return models
    return models or None


def _union(known: Iterable[dict[str, ListedModel] | None]) -> dict[str, ListedModel]:
    everything: dict[str, ListedModel] = {}
    for models in known:
        everything |= models or {}
    return everything


def _candidate(
    config: Config, provider: Provider, account: AccountLabel, listed: ListedModel, price: Price | None
) -> Candidate:
    own, general = config.override(provider.id, listed.id)
    protocol = (own.protocol if own else None) or (general.protocol if general else None)
    dialects = provider.dialects
    if len(dialects) > 1:
        # A provider that speaks one dialect decides for all its models; only here is there anything to choose.
        if protocol is not None:
            dialects = frozenset({PROTOCOL_DIALECTS[protocol]})
        elif listed.dialects & dialects:
            dialects = listed.dialects & dialects
    first, second = (own, general) if own else (general, None)

    def limit(name: str, told: int | None) -> int | None:
        for override in (first, second):
            value: int | None = getattr(override, f"max_{name}_tokens", None)
            if value is not None:
                return value
        return told

    return Candidate(
        account=account,
        provider=provider.id,
        model=listed.id,
        dialects=dialects,
        routing_priority=provider.routing_priority,
        path=(own.path if own else None) or (general.path if general else None),
        limits=Limits(
            context=limit("context", listed.limits.context),
            input=limit("input", listed.limits.input),
            output=limit("output", listed.limits.output),
        ),
        price=price,
        capabilities=listed.capabilities,
        enforces_limits=all(one.enforce_context_limit for one in (own, general) if one is not None),
    )


def _exposed(catalog: Catalog, offer: Offer, mode: str, resting: frozenset[AccountLabel]) -> bool:
    if mode == "healthy_union":
        return any(candidate.account not in resting for candidate in offer.candidates)
    if mode == "intersection":
        having = Counter(candidate.provider for candidate in offer.candidates)
        return all(count == catalog.accounts_at[provider] for provider, count in having.items())
    return True


def _smallest(limits: Iterable[Limits]) -> Limits:
    known = list(limits)

    def least(values: Iterable[int | None]) -> int | None:
        return min((value for value in values if value is not None), default=None)

    return Limits(
        context=least(one.context for one in known),
        input=least(one.input for one in known),
        output=least(one.output for one in known),
    )
