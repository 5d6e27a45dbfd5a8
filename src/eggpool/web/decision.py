"""`x-eggpool-decision`: why a request went where it went, in a header of its answer, for a client that asks for it."""

from __future__ import annotations

import json

from eggpool.engine.dispatch import Exchange
from eggpool.web.replies import Headers

NAME = b"x-eggpool-decision"
MAX_BYTES = 600

_ON = frozenset({b"1", b"true", b"yes"})


def header(exchange: Exchange) -> Headers:
    """The header, or none when the request's own headers do not ask for it with `x-eggpool-decision: 1`."""
    if exchange.inbound.named.get(NAME, b"").strip().lower() not in _ON:
        return []
    return [(NAME, shown(exchange.decision))]


def shown(decision: str) -> bytes:
    """A decision as JSON in ASCII; one that is too long for a header is told by its length only."""
    text = json.dumps(json.loads(decision), separators=(",", ":"))
    return (text if len(text) <= MAX_BYTES else f'{{"too_long":{len(text)}}}').encode("ascii")
