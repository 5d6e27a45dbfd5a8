"""Which models there are, under which names: what is listed can be routed, and a bad list takes nothing away."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.config.schema import Account, Config, ModelOverride, Models, Provider
from eggpool.domain import AccountLabel, Capabilities, Dialect, Limits, ListedModel, Price
from eggpool.routing.catalog import MISSES_UNTIL_WITHDRAWN, AccountModels, Catalog, build, merge

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
NOBODY: frozenset[AccountLabel] = frozenset()


def label(text: str) -> AccountLabel:
    """An account's label."""
    return AccountLabel(text)


def provider(name: str, *accounts: str, **fields: object) -> Provider:
    """A provider with accounts of these names; one that begins with a minus is disabled."""
    made = tuple(
        Account(name=one.lstrip("-"), label=label(f"{name}/{one.lstrip('-')}"), enabled=not one.startswith("-"))
        for one in accounts
    )
    return msgspec.structs.replace(Provider(id=name, base_url="http://x", accounts=made), **fields)


def config(*providers: Provider, overrides: dict[str, ModelOverride] | None = None, **models: object) -> Config:
    """A configuration with these providers."""
    return Config(
        providers={one.id: one for one in providers},
        models=msgspec.structs.replace(Models(), **models),
        model_overrides=overrides or {},
    )


def lists(**models: str) -> dict[AccountLabel, AccountModels]:
    """Fresh lists: `a_1="m n"` gives the account a/1 the models m and n."""
    return {
        label(account.replace("_", "/", 1)): AccountModels(tuple(map(ListedModel, names.split())), NOW_MS)
        for account, names in models.items()
    }


def built(
    settings: Config,
    known: dict[AccountLabel, AccountModels],
    prices: dict[tuple[str, str], Price] | None = None,
    now_ms: int = NOW_MS,
) -> Catalog:
    """The catalogue of a configuration and lists."""
    return build(settings, known, prices or {}, now_ms)


def accounts_for(catalog: Catalog, name: str) -> list[str]:
    """Who can serve a name."""
    offer = catalog.resolve(name)
    return [] if offer is None else [candidate.account for candidate in offer.candidates]


def names(catalog: Catalog, mode: str = "union", *, collapse: bool = True, resting: str = "") -> list[str]:
    """What the pool lists."""
    frozen = frozenset(map(label, resting.split()))
    return [card.id for card in catalog.cards(mode=mode, collapse=collapse, resting=frozen)]


@pytest.mark.parametrize(
    "model", ["llama-3.3-70b", "grok-4", "gemini-2.5", "o4-mini", "openai/gpt-4o", "claude-x", "qwen3"]
)
@pytest.mark.parametrize("collapse", [False, True])
def test_a_provider_of_one_dialect_decides(model: str, collapse: bool) -> None:
    """Every id at an openai-only provider is listed and served by Chat, whatever it is called or said to speak."""
    listed = ListedModel(model, dialects=frozenset({Dialect.MESSAGES}))
    catalog = built(config(provider("p", "1")), {label("p/1"): AccountModels((listed,), NOW_MS)})
    (card,) = catalog.cards(mode="union", collapse=collapse, resting=NOBODY)
    assert card.id == (model if collapse else f"{model}/p")
    assert card.dialects == (Dialect.CHAT,)
    for name in (model, f"{model}/p", card.id):
        offer = catalog.resolve(name)
        assert offer is not None
        assert offer.model == model
        assert [(one.account, one.model, one.dialects) for one in offer.candidates] == [
            ("p/1", model, frozenset({Dialect.CHAT}))
        ]


def test_names() -> None:
    """A bare name means all providers, a suffixed one only its own; an id may hold slashes itself."""
    catalog = built(
        config(provider("p", "1", "2"), provider("q", "1")), lists(p_1="m openai/gpt", p_2="m", q_1="m openai/gpt")
    )
    assert accounts_for(catalog, "m") == ["p/1", "p/2", "q/1"]
    assert accounts_for(catalog, "m/p") == ["p/1", "p/2"]
    assert accounts_for(catalog, "m/q") == ["q/1"]
    assert accounts_for(catalog, "openai/gpt") == ["p/1", "q/1"]
    assert accounts_for(catalog, "openai/gpt/q") == ["q/1"]
    for unknown in ("", "/", "m/", "/p", "gpt", "openai", "m/r", "M", "gpt/q"):
        assert catalog.resolve(unknown) is None
    assert names(catalog) == ["m", "openai/gpt"]
    assert names(catalog, collapse=False) == ["m/p", "m/q", "openai/gpt/p", "openai/gpt/q"]


MODEL_IDS = st.text(alphabet="mno/-", min_size=1, max_size=4)
LISTS = st.dictionaries(
    st.sampled_from(["p/1", "p/2", "q/1"]).map(label),
    st.lists(MODEL_IDS, max_size=4).map(lambda ids: AccountModels(tuple(map(ListedModel, ids)), NOW_MS)),
)


@given(LISTS, st.booleans())
def test_what_is_listed_can_be_routed(known: dict[AccountLabel, AccountModels], collapse: bool) -> None:
    """Each listed name resolves to accounts, each once, of a model that those accounts have."""
    settings = config(provider("p", "1", "2"), provider("q", "1"))
    catalog = built(settings, known)
    for card in catalog.cards(mode="union", collapse=collapse, resting=NOBODY):
        offer = catalog.resolve(card.id)
        assert offer is not None
        served = [candidate.account for candidate in offer.candidates]
        assert served
        assert len({*served}) == len(served)
        assert all(candidate.model == offer.model for candidate in offer.candidates)
        if f"{offer.model}/{offer.candidates[0].provider}" != card.id or not collapse:
            assert offer.model == card.base_model


def test_disabled_ones_take_no_part() -> None:
    """Disabled accounts and providers are neither routed to nor counted."""
    settings = config(provider("p", "1", "-2"), provider("q", "1", enabled=False))
    catalog = built(settings, lists(p_1="m", p_2="m n", q_1="q"))
    assert names(catalog, "intersection") == ["m"]
    assert accounts_for(catalog, "m") == ["p/1"]
    assert catalog.resolve("q") is None


@pytest.mark.parametrize(
    ("mode", "resting", "expected"),
    [
        ("union", "p/1 p/2 q/1", ["m", "n", "o"]),
        ("intersection", "", ["m", "o"]),
        ("healthy_union", "", ["m", "n", "o"]),
        ("healthy_union", "p/1", ["m", "o"]),
        ("healthy_union", "p/1 p/2", ["o"]),
        ("healthy_union", "p/1 p/2 q/1", []),
    ],
)
def test_expose_modes(mode: str, resting: str, expected: list[str]) -> None:
    """What any account of a provider has, what all of them have, what any working one has; all stay routable."""
    catalog = built(config(provider("p", "1", "2"), provider("q", "1")), lists(p_1="m n", p_2="m", q_1="o"))
    assert names(catalog, mode, resting=resting) == expected
    assert all(accounts_for(catalog, name) for name in ("m", "n", "o"))


def test_an_account_without_a_list_takes_its_siblings() -> None:
    """An account that never gave a list is tried for what its siblings have."""
    catalog = built(config(provider("p", "1", "2")), lists(p_1="m"))
    assert accounts_for(catalog, "m") == ["p/1", "p/2"]
    assert names(catalog, "intersection") == ["m"]
    assert catalog.resolve("n") is None


def test_a_provider_without_any_list() -> None:
    """Where nothing is known, any name is tried that nobody lists; a suffix narrows it; nothing of it is listed."""
    catalog = built(config(provider("p", "1"), provider("q", "1"), provider("r", "1")), lists(p_1="m"))
    assert accounts_for(catalog, "m") == ["p/1"]
    assert accounts_for(catalog, "new/one") == ["q/1", "r/1"]
    assert accounts_for(catalog, "new/one/q") == ["q/1"]
    offer = catalog.resolve("new/one/q")
    assert offer is not None
    assert {(offer.model, one.model) for one in offer.candidates} == {("new/one", "new/one")}
    offer = catalog.resolve("new/p")
    assert offer is not None
    assert offer.model == "new/p"
    assert names(catalog) == ["m"]


def test_overrides_hold_without_a_list() -> None:
    """What the configuration says about a model holds at an account that never gave a list, too."""
    both = ("openai", "anthropic")
    at_p = {"m": ModelOverride(protocol="anthropic", path="/special", max_context_tokens=10)}
    catalog = built(
        config(provider("p", "1", protocols=both, model_overrides=at_p), overrides={"n": ModelOverride(path="/n")}),
        {},
        {("p", "m"): Price(input=7)},
    )
    for name in ("m", "m/p"):
        offer = catalog.resolve(name)
        assert offer is not None
        (one,) = offer.candidates
        assert (one.dialects, one.path, one.limits.context) == (frozenset({Dialect.MESSAGES}), "/special", 10)
        assert one.price == Price(input=7)
    offer = catalog.resolve("n")
    assert offer is not None
    assert offer.candidates[0].path == "/n"
    offer = catalog.resolve("other")
    assert offer is not None
    assert offer.candidates[0].path is None


def test_static_models() -> None:
    """Static models are there whether or not a list says so; with them, a missing list is no riddle."""
    settings = config(provider("p", "1", static_models=("s", "m")))
    assert names(built(settings, {})) == ["m", "s"]
    assert built(settings, {}).resolve("other") is None
    rich = AccountModels((ListedModel("m", display_name="Rich"),), NOW_MS)
    catalog = built(settings, {label("p/1"): rich})
    assert names(catalog) == ["m", "s"]
    assert catalog.listing["m"].display_name == "Rich"


@pytest.mark.parametrize("allow", [True, False])
def test_stale_lists(allow: bool) -> None:
    """A stale list is used or not as the configuration says; either way the model is still tried."""
    settings = config(provider("p", "1"), allow_stale_catalog=allow, stale_after_s=3600)
    fresh = built(settings, lists(p_1="m"), now_ms=NOW_MS + HOUR_MS)
    assert names(fresh) == ["m"]
    stale = built(settings, lists(p_1="m"), now_ms=NOW_MS + HOUR_MS + 1)
    assert names(stale) == (["m"] if allow else [])
    assert accounts_for(stale, "m") == ["p/1"]


@pytest.mark.parametrize(
    ("protocols", "listed", "own", "general", "expected"),
    [
        (("openai",), {Dialect.MESSAGES}, None, None, {Dialect.CHAT}),
        (("openai",), set(), "anthropic", None, {Dialect.CHAT}),
        (("openai", "anthropic"), set(), None, None, {Dialect.CHAT, Dialect.MESSAGES}),
        (("openai", "anthropic"), {Dialect.MESSAGES}, None, None, {Dialect.MESSAGES}),
        (("openai", "anthropic"), {Dialect.RESPONSES}, None, None, {Dialect.CHAT, Dialect.MESSAGES}),
        (("openai", "anthropic"), {Dialect.MESSAGES}, None, "openai", {Dialect.CHAT}),
        (("openai", "anthropic"), {Dialect.MESSAGES}, "anthropic", "openai", {Dialect.MESSAGES}),
    ],
)
def test_dialects(
    protocols: tuple[str, ...], listed: set[Dialect], own: str | None, general: str | None, expected: set[Dialect]
) -> None:
    """A provider of one dialect decides; else the override, the provider's before the general, then the list."""
    at_p = {"m": ModelOverride(protocol=own)} if own else {}  # type: ignore[arg-type]
    everywhere = {"m": ModelOverride(protocol=general)} if general else {}  # type: ignore[arg-type]
    settings = config(provider("p", "1", protocols=protocols, model_overrides=at_p), overrides=everywhere)
    model = ListedModel("m", dialects=frozenset(listed))
    offer = built(settings, {label("p/1"): AccountModels((model,), NOW_MS)}).resolve("m")
    assert offer is not None
    assert offer.candidates[0].dialects == expected


def test_limits() -> None:
    """Limits: the provider's override, the general one, the list; a card shows the smallest of all candidates."""
    listed = AccountModels((ListedModel("m", limits=Limits(100, 90, 80)),), NOW_MS)
    settings = config(
        provider("p", "1", model_overrides={"m": ModelOverride(max_context_tokens=50)}),
        provider("q", "1"),
        provider("r", "1", static_models=("m",)),
        overrides={"m": ModelOverride(max_context_tokens=60, max_output_tokens=40)},
    )
    catalog = built(settings, {label("p/1"): listed, label("q/1"): listed})
    offer = catalog.resolve("m")
    assert offer is not None
    assert [one.limits for one in offer.candidates] == [Limits(50, 90, 40), Limits(60, 90, 40), Limits(60, None, 40)]
    (card,) = catalog.cards(mode="union", collapse=True, resting=NOBODY)
    assert card.limits == Limits(50, 90, 40)


def test_cards() -> None:
    """A card tells name, age, owner, tier and, where there is only one, price."""
    model = ListedModel("m", "Model M", 1_700_000_000)
    known = {label("p/1"): AccountModels((model,), NOW_MS), label("q/1"): AccountModels((model,), NOW_MS)}
    settings = config(provider("p", "1", routing_priority=3), provider("q", "1", routing_priority=5))
    catalog = built(settings, known, {("p", "m"): Price(input=7)})
    (both,) = catalog.cards(mode="union", collapse=True, resting=NOBODY)
    assert (both.display_name, both.created, both.owned_by, both.providers) == (
        "Model M",
        1_700_000_000,
        "eggpool",
        ("p", "q"),
    )
    assert (both.routing_priority, both.price, both.collapsed) == (5, None, True)
    at_p, at_q = catalog.cards(mode="union", collapse=False, resting=NOBODY)
    assert (at_p.owned_by, at_p.routing_priority, at_p.price) == ("p", 3, Price(input=7))
    assert (at_q.owned_by, at_q.routing_priority, at_q.price, at_q.collapsed) == ("q", 5, None, False)


def test_near_names() -> None:
    """A misspelt name is answered with what is near it; a monster of a name with nothing."""
    catalog = built(config(provider("p", "1")), lists(p_1="gpt-4o-mini llama-3.3-70b"))
    assert catalog.near("gpt4o-mini")[0] == "gpt-4o-mini"
    assert catalog.near("zzz") == []
    assert catalog.near("gpt-4o-mini" * 100) == []


def listed(*ids: str) -> list[ListedModel]:
    """A fetched list."""
    return [*map(ListedModel, ids)]


def test_an_empty_list_changes_nothing() -> None:
    """An empty answer is no news."""
    before = merge(AccountModels(), listed("m"), 1)
    assert merge(before, [], 2) is before


def test_withdrawal() -> None:
    """A model goes when several good lists in a row lack it; one that comes back starts anew."""
    known = merge(AccountModels(), listed("m", "n"), 1)
    for at_ms in range(2, 1 + MISSES_UNTIL_WITHDRAWN):
        known = merge(known, listed("m"), at_ms)
        assert {model.id for model in known.models} == {"m", "n"}
    back = merge(known, listed("m", "n"), 10)
    assert back.misses == {}
    gone = merge(known, listed("m"), 10)
    assert [model.id for model in gone.models] == ["m"]
    assert (gone.misses, gone.fetched_at_ms) == ({}, 10)


@given(st.lists(st.lists(MODEL_IDS, max_size=5)))
def test_merging_any_lists(fetches: list[list[str]]) -> None:
    """What the last good list has is there, nothing twice, and nothing that the last few all lacked."""
    known = AccountModels()
    for at_ms, ids in enumerate(fetches):
        known = merge(known, listed(*ids), at_ms)
    good = [ids for ids in fetches if ids]
    there = [model.id for model in known.models]
    assert len({*there}) == len(there)
    if good:
        recent = {one for ids in good[-MISSES_UNTIL_WITHDRAWN:] for one in ids}
        assert {*good[-1]} <= {*there} <= recent
        assert all(0 < missed < MISSES_UNTIL_WITHDRAWN for missed in known.misses.values())


def chain(catalog: Catalog, name: str) -> list[tuple[str, list[str]]]:
    """The models that a name stands for, in order, each with who can serve it."""
    return [(offer.model, [candidate.account for candidate in offer.candidates]) for offer in catalog.chain(name)]


ALIASES = {
    "fast": ("m", "n/q"),
    "m": ("m", "n"),
    "best": ("o", "fast", "n/q", "nobody"),
    "slow": ("o/q", "n/q", "n"),
    "round": ("about",),
    "about": ("n", "round"),
    "lost": ("nobody",),
    "empty": (),
}


def aliased() -> Catalog:
    """Two providers and names of the user's own for what they have."""
    return built(
        config(provider("p", "1"), provider("q", "1"), aliases=ALIASES),
        lists(p_1="m n", q_1="n o"),
    )


@pytest.mark.parametrize(
    ("name", "offers"),
    [
        ("n", [("n", ["p/1", "q/1"])]),
        ("n/q", [("n", ["q/1"])]),
        ("fast", [("m", ["p/1"]), ("n", ["p/1", "q/1"])]),
        ("slow", [("o", ["q/1"]), ("n", ["q/1"]), ("n", ["p/1"])]),
        ("m", [("m", ["p/1"]), ("n", ["p/1", "q/1"])]),
        ("best", [("o", ["q/1"]), ("m", ["p/1"]), ("n", ["p/1", "q/1"])]),
        ("about", [("n", ["p/1", "q/1"])]),
        ("round", [("n", ["p/1", "q/1"])]),
        ("lost", []),
        ("empty", []),
        ("unheard of", []),
    ],
)
def test_chains(name: str, offers: list[tuple[str, list[str]]]) -> None:
    """An alias stands for its models in order, those of other aliases in their place; no account comes twice."""
    assert chain(aliased(), name) == offers


@given(
    st.dictionaries(st.sampled_from("abcdm"), st.lists(st.sampled_from("abcdmno"), max_size=4).map(tuple), max_size=5),
    st.sampled_from("abcdmno"),
)
def test_chains_end(aliases: dict[str, tuple[str, ...]], name: str) -> None:
    """However aliases lead to one another, each model comes at most once, and a plain name is itself."""
    catalog = built(config(provider("p", "1"), aliases=aliases), lists(p_1="m n o"))
    models = [model for model, _ in chain(catalog, name)]
    assert len(models) == len(set(models))
    if name not in aliases:
        assert models == [one for one in "mno" if one == name]


@pytest.mark.parametrize("collapse", [False, True])
def test_aliases_are_listed(collapse: bool) -> None:
    """An alias that somebody can serve has an entry of its own, in place of a model that it hides."""
    catalog = aliased()
    listed = names(catalog, collapse=collapse)
    plain = ["n", "o"] if collapse else ["m/p", "n/p", "n/q", "o/q"]
    assert listed == sorted([*plain, "about", "best", "fast", "m", "round", "slow"])
    for name in listed:
        assert catalog.chain(name)
    assert names(catalog, "healthy_union", collapse=True, resting="q/1") == [
        "about",
        "best",
        "fast",
        "m",
        "n",
        "round",
        "slow",
    ]


def test_the_entry_of_an_alias() -> None:
    """Its limits are the smallest in the chain, its providers all of them, and only one model has a price to show."""
    one = ListedModel("m", "Model M", 5, Limits(context=100, output=50))
    two = ListedModel("n", limits=Limits(context=200, output=10))
    price = Price(input=1, output=2)
    catalog = built(
        config(provider("p", "1", routing_priority=3), provider("q", "1"), aliases={"x": ("m", "n"), "y": ("m",)}),
        {label("p/1"): AccountModels((one,), NOW_MS), label("q/1"): AccountModels((two,), NOW_MS)},
        {("p", "m"): price},
    )
    cards = {card.id: card for card in catalog.cards(mode="union", collapse=False, resting=NOBODY)}
    x, y = cards["x"], cards["y"]
    assert (x.base_model, x.display_name, x.created, x.owned_by) == ("m", "x", 5, "eggpool")
    assert (x.providers, x.collapsed, x.routing_priority) == (("p", "q"), True, 3)
    assert (x.limits, x.price) == (Limits(context=100, output=10), None)
    assert (y.limits, y.price, y.providers) == (Limits(context=100, output=50), price, ("p",))


def test_an_alias_that_leads_nowhere_is_not_listed() -> None:
    """A name that requests could not use has no entry, even where a model has that name."""
    catalog = built(config(provider("p", "1"), aliases={"m": ("nobody",)}), lists(p_1="m n"))
    assert names(catalog) == ["n"]
    assert catalog.chain("m") == ()


def test_two_models_have_no_one_price() -> None:
    """Also when one provider has both."""
    prices = {("p", name): Price(input=number, output=number) for number, name in enumerate("mn")}
    catalog = built(config(provider("p", "1"), aliases={"x": ("m", "n")}), lists(p_1="m n"), prices)
    cards = {card.id: card.price for card in catalog.cards(mode="union", collapse=True, resting=NOBODY)}
    assert cards == {"x": None, "m": prices["p", "m"], "n": prices["p", "n"]}


def test_an_alias_for_what_nobody_lists_goes_to_accounts_without_a_list() -> None:
    """Aliases work before any list has come, and are listed all the same."""
    catalog = built(config(provider("p", "1"), aliases={"fast": ("m", "n/p")}), {})
    assert chain(catalog, "fast") == [("m", ["p/1"]), ("n", ["p/1"])]
    assert names(catalog) == ["fast"]


def test_near_names_include_aliases() -> None:
    """A misspelt alias is suggested."""
    assert aliased().near("fasst") == ["fast"]


def test_capabilities_reach_the_candidates() -> None:
    """What a list says that a model can take is known of its candidates."""
    told = Capabilities(images=False, tools=True)
    models = AccountModels((ListedModel("m", capabilities=told),), NOW_MS)
    offer = built(config(provider("p", "1")), {label("p/1"): models}).resolve("m")
    assert offer is not None
    assert [one.capabilities for one in offer.candidates] == [told]
