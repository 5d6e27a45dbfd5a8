"""Aliases of models, and the routing keys beside them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.config.reading import loaded, problems

from eggpool.config.chains import check_chains
from eggpool.config.findings import Findings


def test_an_alias_is_a_name_for_a_model_or_for_several_in_order() -> None:
    """A single name stands for a list of one; models may hold slashes."""
    config = loaded("[models.aliases]\nfast = 'glm-5.3'\n'openai/best' = ['kimi-k3', 'glm-5.3', 'fast']\n").config
    assert config.models.aliases == {"fast": ("glm-5.3",), "openai/best": ("kimi-k3", "glm-5.3", "fast")}
    assert loaded("").config.models.aliases == {}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a = []", "a: expected the name of a model, or a list of such names, not empty"),
        ("a = ''", "a: expected the name of a model, or a list of such names, not empty"),
        ("'' = 'x'", '"": expected the name of a model, or a list of such names, not empty'),
        ("a = ['x', '']", "a: expected the name of a model, or a list of such names, not empty"),
        ("a = ['x', 1]", "a: expected text or a list of text, got a list"),
        ("a = 1", "a: expected text or a list of text, got 1"),
        ("a = { b = 'c' }", "a: expected text or a list of text, got a table"),
        ("a = ['x', 'a']", "a: leads to itself"),
        ("a = ['x', 'x']", "a: names a model twice"),
    ],
)
def test_an_alias_that_leads_nowhere_is_refused(text: str, fault: str) -> None:
    """At its own place."""
    assert problems(f"[models.aliases]\n{text}\n") == [f"models.aliases.{fault}"]


def test_aliases_that_lead_to_each_other_are_refused() -> None:
    """Each of them is named; one that only leads into the circle is not."""
    assert problems("[models.aliases]\na = ['x', 'b']\nb = 'c'\nc = 'a'\nd = 'a'\n") == [
        f"models.aliases.{name}: leads back to itself by way of other aliases" for name in "abc"
    ]


def test_aliases_are_a_table() -> None:
    """Anything else is told as such."""
    assert problems("[models]\naliases = 3\n") == ["models.aliases: expected a table, got 3"]


NAMES = st.sampled_from("abcdef")


@given(st.dictionaries(NAMES, st.lists(NAMES, min_size=1, max_size=3, unique=True).map(tuple), max_size=6))
def test_what_is_not_refused_ends(aliases: dict[str, tuple[str, ...]]) -> None:
    """From every alias that passes, following names comes to an end."""
    findings = Findings()
    check_chains(aliases, "aliases", findings)
    if findings.problems:
        return
    for name in aliases:
        names = {name}
        for _ in aliases:
            names = {model for one in names for model in aliases.get(one, ())}
        assert not names & aliases.keys()


def test_the_keys_of_routing_have_an_effect() -> None:
    """Nothing is said about them."""
    text = "[routing]\naffinity = false\naffinity_slack = 0.1\naffinity_ttl_s = 60\nmax_wait_ms = 5\n"
    result = loaded(text)
    assert [warning for warning in result.warnings if "routing" in warning] == []
    routing = result.config.routing
    assert (routing.affinity, routing.affinity_slack, routing.affinity_ttl_s, routing.max_wait_ms) == (
        False,
        0.1,
        60,
        5,
    )
