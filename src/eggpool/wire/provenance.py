"""Content that only its maker can read: thinking with a signature, encrypted reasoning.

An account of another organisation cannot verify it and refuses the whole request. What may live here: which items those
are, and a request without them. What may not: when they are taken out.

Sources: Anthropic, "Extended thinking" (thinking blocks of earlier turns may be left out; consecutive messages of one
role are combined); OpenAI, "Reasoning models" (reasoning items are opaque and optional in the input).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from eggpool.domain import Dialect
from eggpool.errors import BadRequest
from eggpool.wire import envelope as envelopes
from eggpool.wire.envelope import Envelope

_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Typed(msgspec.Struct):
    """The one member that tells what an item is."""

    type: str = ""


_TYPED = msgspec.json.Decoder(_Typed)

_THINKING = frozenset({"thinking", "redacted_thinking"})
# Not `compaction`: it is encrypted too, but stands for the conversation itself.
_REASONING = frozenset({"reasoning"})


def without(envelope: Envelope, dialect: Dialect) -> Envelope | None:
    """The request without what only its maker can read; None when it holds nothing of that kind.

    Everything else stays: values byte for byte, and each message that holds none of it with its white space. A message
    of nothing else goes as a whole, because an empty one is refused.
    """
    rule = _RULES.get(dialect)
    if rule is None:
        return None
    field, remaining = rule
    raw = envelope.raw(field)
    if raw is None:
        return None
    try:
        items = _LIST.decode(raw)
        left = remaining(items)
        if left is None:
            return None
        start, end = envelope.places[field]
        body = envelope.body[:start] + msgspec.json.encode(left) + envelope.body[end:]
        return envelopes.read(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadRequest):
        return None  # not of the dialect's shape; the provider has judged it already


def _messages_without_thinking(messages: Sequence[msgspec.Raw]) -> list[msgspec.Raw] | None:
    left: list[msgspec.Raw] = []
    changed = False
    for message in messages:
        members = _MEMBERS.decode(message)
        content = members.get("content")
        if content is None or not bytes(content).startswith(b"["):
            left.append(message)
            continue
        blocks = _LIST.decode(content)
        kept = _others(blocks, _THINKING)
        if len(kept) == len(blocks):
            left.append(message)
            continue
        changed = True
        if kept:
            members["content"] = msgspec.Raw(msgspec.json.encode(kept))
            left.append(msgspec.Raw(msgspec.json.encode(members)))
    return left if changed else None


def _input_without_reasoning(items: Sequence[msgspec.Raw]) -> list[msgspec.Raw] | None:
    kept = _others(items, _REASONING)
    return kept if len(kept) < len(items) else None


def _others(items: Sequence[msgspec.Raw], types: frozenset[str]) -> list[msgspec.Raw]:
    return [item for item in items if _TYPED.decode(item).type not in types]


_RULES: dict[Dialect, tuple[str, Callable[[Sequence[msgspec.Raw]], list[msgspec.Raw] | None]]] = {
    Dialect.MESSAGES: ("messages", _messages_without_thinking),
    Dialect.RESPONSES: ("input", _input_without_reasoning),
}
