"""In which dialect an account is spoken to: the client's own where it can be, else one that a translation leads to.

What a model is served in comes from the configuration and from lists; where those leave several, answers teach: a
provider that refuses an endpoint for a model is asked in its other dialects for a while. The guess by a model's name
only orders the tries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from eggpool.domain import Dialect
from eggpool.routing.catalog import Candidate

Surface = tuple[str, str, Dialect]
"""A provider, its name for a model, and a dialect."""

REFUSED_FOR_S = 24 * 3600.0  # an endpoint that was refused for a model is not asked again for so long

# Chat before Responses: it is what most providers speak best. Messages' models are told by their names.
_ORDER = (Dialect.CHAT, Dialect.RESPONSES, Dialect.MESSAGES)
_ORDER_OF_MESSAGES_MODELS = (Dialect.MESSAGES, Dialect.CHAT, Dialect.RESPONSES)
_MESSAGES_MODELS = re.compile(r"(?:.*/)?(?:claude|minimax|qwen3)", re.IGNORECASE)


def spoken(
    candidate: Candidate, wanted: Dialect, *, translates: bool, refused: Mapping[Surface, float], now: float
) -> Dialect | None:
    """The dialect in which to ask; None when there is none.

    `refused` holds until when a surface is avoided; where all are, none is: it may have been a passing fault.
    """
    dialects = candidate.dialects
    if refused and translates:
        provider, model = candidate.provider, candidate.model
        dialects = frozenset(one for one in dialects if refused.get((provider, model, one), 0.0) <= now) or dialects
    if wanted in dialects:
        return wanted
    if not translates:
        return None
    order = _ORDER_OF_MESSAGES_MODELS if _MESSAGES_MODELS.match(candidate.model) else _ORDER
    return next((one for one in order if one in dialects), None)
