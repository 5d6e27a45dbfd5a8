"""What a request needs of a model, from a glance at its bytes.

Nothing is decoded but a few small fields. `glance` looks at the top level only; `look_inside` searches the messages,
which takes time in proportion to the body, for those whom its answer concerns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec.structs import replace

from eggpool.domain import Needs
from eggpool.wire import fields
from eggpool.wire.envelope import Envelope

BYTES_PER_TOKEN = 4  # of prose and code in JSON, roughly
TOKENS_PER_ATTACHMENT = 1_000  # an image of usual size, whatever its bytes

_OUTPUT_FIELDS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_TOOL_FIELDS = ("tools", "functions")
_CONTENT_FIELDS = ("messages", "input")

_FILLED = re.compile(rb"\[[ \t\n\r]*+[^\] \t\n\r]")
_IMAGE = re.compile(rb'"type"[ \t\n\r]*+:[ \t\n\r]*+"(?:image|image_url|input_image)"')
_ENCODED = (
    # How attached bytes begin: a word that is found fast, and all that has to stand there.
    (b";base64,", re.compile(rb";base64,")),
    (b'"data"', re.compile(rb'"data"[ \t\n\r]*+:[ \t\n\r]*+"')),
)
_SHORTEST_ATTACHMENT = 1024


def glance(envelope: Envelope) -> Needs:
    """The needs that the top level tells; images are not searched for, and count by their bytes. Never raises."""
    body, places = envelope.body, envelope.places
    return Needs(
        tools=any(_FILLED.match(body, *places[name]) is not None for name in _TOOL_FIELDS if name in places),
        input_tokens=len(body) // BYTES_PER_TOKEN,
        max_output_tokens=next((asked for name in _OUTPUT_FIELDS if (asked := _count(envelope, name))), None),
    )


def look_inside(envelope: Envelope, needs: Needs) -> Needs:
    """The same with what only the messages tell: whether there are images, and the length without attached bytes."""
    body = envelope.body
    images = False
    attached = attachments = 0
    for start, end in (envelope.places[name] for name in _CONTENT_FIELDS if name in envelope.places):
        images = images or _IMAGE.search(body, start, end) is not None
        for length in _attachments(body, start, end):
            attached += length
            attachments += 1
    tokens = max(len(body) - attached, 0) // BYTES_PER_TOKEN + attachments * TOKENS_PER_ATTACHMENT
    return replace(needs, images=images, input_tokens=min(tokens, needs.input_tokens))


def _attachments(body: bytes, start: int, end: int) -> Iterator[int]:
    """The length of each attachment between two places."""
    for word, beginning in _ENCODED:
        at = body.find(word, start, end)
        while at >= 0:
            at += len(word)
            begin = beginning.match(body, at - len(word), end)
            if begin is not None:
                at = body.find(b'"', begin.end(), end)
                if at < 0:
                    break
                if at - begin.end() >= _SHORTEST_ATTACHMENT:
                    yield at - begin.end()
            at = body.find(word, at, end)


def _count(envelope: Envelope, field: str) -> int:
    start, end = envelope.places.get(field, (0, 0))
    return fields.count(fields.decode(envelope.body[start:end])) if 0 < end - start <= 32 else 0
