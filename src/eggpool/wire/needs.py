"""What a request needs of a model, from a glance at its bytes.

Nothing is decoded but a few small fields. `glance` looks at the top level only; `has_images` searches the messages,
which takes time in proportion to the body, for those whom its answer concerns. How long a request is, `counting` says.
"""

from __future__ import annotations

import re

from eggpool.domain import Needs
from eggpool.wire import fields
from eggpool.wire.envelope import Envelope

_OUTPUT_FIELDS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_TOOL_FIELDS = ("tools", "functions")
_CONTENT_FIELDS = ("messages", "input")

_FILLED = re.compile(rb"\[[ \t\n\r]*+[^\] \t\n\r]")
_IMAGE = re.compile(rb'"type"[ \t\n\r]*+:[ \t\n\r]*+"(?:image|image_url|input_image)"')


def glance(envelope: Envelope, input_tokens: int) -> Needs:
    """The needs that the top level tells, for a request of about so many tokens. Never raises."""
    body, places = envelope.body, envelope.places
    return Needs(
        tools=any(_FILLED.match(body, *places[name]) is not None for name in _TOOL_FIELDS if name in places),
        input_tokens=input_tokens,
        max_output_tokens=next((asked for name in _OUTPUT_FIELDS if (asked := _count(envelope, name))), None),
    )


def has_images(envelope: Envelope) -> bool:
    """Whether there is an image among the messages."""
    places = [envelope.places[name] for name in _CONTENT_FIELDS if name in envelope.places]
    return any(_IMAGE.search(envelope.body, start, end) is not None for start, end in places)


def _count(envelope: Envelope, field: str) -> int:
    start, end = envelope.places.get(field, (0, 0))
    return fields.count(fields.decode(envelope.body[start:end])) if 0 < end - start <= 32 else 0
