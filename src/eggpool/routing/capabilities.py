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


def depends_on_content(candidates: Iterable[Candidate], needs: Needs) -> bool:
    """Whether it is worth while to search a request for images: somebody cannot take them, or it seems too long."""
    return any(candidate.capabilities.images is False or _lacks_context(candidate, needs) for candidate in candidates)
