"""What a candidate is known to lack for a request. Whether that rules it out is the plan's to say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from eggpool.domain import Needs
from eggpool.routing.catalog import Candidate

Lack = Literal["lacks_images", "lacks_tools", "lacks_context", "lacks_output"]

SURELY = 1.5
"""Input counts are made from bytes; deeply indented code may have a third fewer tokens than they say."""


def _lacks_images(candidate: Candidate, needs: Needs) -> bool:
    return needs.images and candidate.capabilities.images is False


def _lacks_tools(candidate: Candidate, needs: Needs) -> bool:
    return needs.tools and candidate.capabilities.tools is False


def _lacks_context(candidate: Candidate, needs: Needs) -> bool:
    bounds = (candidate.limits.context, candidate.limits.input)
    return any(bound is not None and needs.input_tokens > bound * SURELY for bound in bounds)


def _lacks_output(candidate: Candidate, needs: Needs) -> bool:
    bound = candidate.limits.output
    return bound is not None and needs.max_output_tokens is not None and needs.max_output_tokens > bound


_QUESTIONS: dict[Lack, Callable[[Candidate, Needs], bool]] = {
    "lacks_images": _lacks_images,
    "lacks_tools": _lacks_tools,
    "lacks_context": _lacks_context,
    "lacks_output": _lacks_output,
}


def lacks(candidate: Candidate, needs: Needs) -> Lack | None:
    """The first thing that `candidate` is known to lack; None when it has everything, or nobody says."""
    return next((reason for reason, question in _QUESTIONS.items() if question(candidate, needs)), None)


def asks_for_images(candidates: Iterable[Candidate]) -> bool:
    """Whether it is worth while to search a request for images: somebody cannot take them."""
    return any(candidate.capabilities.images is False for candidate in candidates)


def surely_too_long(candidates: Iterable[Candidate], input_tokens: int, margin: float) -> int | None:
    """The largest window, when the input is longer than that of every candidate by more than `margin`; else None.

    A candidate whose window nobody knows, or whose limit the user does not want enforced, takes anything.
    """
    largest = 0
    for candidate in candidates:
        limits = candidate.limits
        bound = min((one for one in (limits.context, limits.input) if one is not None), default=None)
        if bound is None or not candidate.enforces_limits or input_tokens <= bound * margin:
            return None
        largest = max(largest, bound)
    return largest or None
