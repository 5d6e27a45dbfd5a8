"""What a candidate lacks: only what is known, and only what is asked for."""

from __future__ import annotations

import pytest

from eggpool.domain import AccountLabel, Capabilities, Dialect, Limits, Needs
from eggpool.routing.capabilities import depends_on_content, lacks
from eggpool.routing.catalog import Candidate

EVERYTHING = Needs(images=True, tools=True, input_tokens=10_000_000, max_output_tokens=1_000_000)


UNLIMITED = Limits()


def candidate(limits: Limits = UNLIMITED, *, images: bool | None = None, tools: bool | None = None) -> Candidate:
    """A candidate of which that is known."""
    return Candidate(
        AccountLabel("p/1"), "p", "m", frozenset({Dialect.CHAT}), 0, None, limits, None, Capabilities(images, tools)
    )


@pytest.mark.parametrize(
    ("one", "needs", "reason"),
    [
        (candidate(), EVERYTHING, None),
        (candidate(images=True, tools=True), EVERYTHING, None),
        (candidate(images=False), Needs(images=True), "lacks_images"),
        (candidate(images=False), Needs(), None),
        (candidate(tools=False), Needs(tools=True), "lacks_tools"),
        (candidate(tools=False), Needs(images=True), None),
        (candidate(Limits(context=100)), Needs(input_tokens=151), "lacks_context"),
        (candidate(Limits(context=100)), Needs(input_tokens=150), None),
        (candidate(Limits(context=1000, input=100)), Needs(input_tokens=151), "lacks_context"),
        (candidate(Limits(output=100)), Needs(max_output_tokens=101), "lacks_output"),
        (candidate(Limits(output=100)), Needs(max_output_tokens=100), None),
        (candidate(Limits(output=100)), Needs(), None),
    ],
)
def test_lacks(one: Candidate, needs: Needs, reason: str | None) -> None:
    """A lack has a reason; what nobody says is not lacking, and guessed input must be far beyond the window."""
    assert lacks(one, needs) == reason


@pytest.mark.parametrize(
    ("one", "depends"),
    [
        (candidate(), False),
        (candidate(images=True), False),
        (candidate(images=False), True),
        (candidate(Limits(context=100)), True),
        (candidate(Limits(context=1000)), False),
    ],
)
def test_a_search_is_made_only_for_those_whom_it_concerns(one: Candidate, depends: bool) -> None:
    """Messages are searched when somebody cannot take images or seems too small."""
    assert depends_on_content([candidate(), one], Needs(input_tokens=200)) is depends
