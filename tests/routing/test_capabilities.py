"""What a candidate lacks: only what is known, and only what is asked for."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from eggpool.domain import AccountLabel, Capabilities, Dialect, Limits, Needs
from eggpool.routing.capabilities import asks_for_images, lacks, surely_too_long
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


def test_images_are_looked_for_only_when_somebody_cannot_take_them() -> None:
    """The search takes time in proportion to the request."""
    assert not asks_for_images([candidate(), candidate(images=True)])
    assert asks_for_images([candidate(), candidate(images=False)])


@pytest.mark.parametrize(
    ("candidates", "limit"),
    [
        pytest.param([candidate(Limits(context=100))], 100, id="beyond the only window"),
        pytest.param([candidate(Limits(context=100)), candidate(Limits(context=150))], 150, id="beyond both"),
        pytest.param(
            [candidate(Limits(context=100)), candidate(Limits(context=200))], None, id="not surely beyond one"
        ),
        pytest.param([candidate(Limits(context=100)), candidate()], None, id="one that nobody knows"),
        pytest.param([candidate(Limits(context=900, input=120))], 120, id="the input has a bound of its own"),
        pytest.param([replace(candidate(Limits(context=100)), enforces_limits=False)], None, id="not enforced"),
        pytest.param([], None, id="nobody"),
    ],
)
def test_only_what_is_surely_too_long_for_all(candidates: list[Candidate], limit: int | None) -> None:
    """A guess refuses only with a margin, and only what nobody can take."""
    assert surely_too_long(candidates, 250, 1.5) == limit
