"""Anthropic Messages.

Source: the Anthropic API reference, "Messages", "Streaming Messages", "Errors" and "List Models".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from eggpool.domain import ModelCard
from eggpool.wire import fields, sse
from eggpool.wire.messages.usage import read_usage
from eggpool.wire.notes import NOTHING, ErrorInfo, Note, told_error

STREAM_MARKS = re.compile(rb'"message_start"|"message_delta"|"message_stop"|"type"\s*:\s*"error"|event:\s*error')
"""Matches each event that the observer has to read; all others are passed by unread."""

KEEPALIVE = b'event: ping\ndata: {"type": "ping"}\n\n'

_ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_type(status: int) -> str:
    """Anthropic's name for the kind of error that a status stands for."""
    if status in _ERROR_TYPES:
        return _ERROR_TYPES[status]
    return "invalid_request_error" if status < 500 else "api_error"


def write_error(status: int, message: str, code: str, *, param: str | None = None, request_id: str = "") -> bytes:
    """An error body."""
    return msgspec.json.encode(_error(status, message) | {"request_id": request_id or None})


def write_error_event(status: int, message: str, code: str) -> bytes:
    """An error inside a stream, for a client that has had a 200 already."""
    return sse.encode(msgspec.json.encode(_error(status, message)), b"error")


def read_error(body: bytes) -> ErrorInfo:
    """The error in a body or event."""
    return told_error(fields.decode_first_object(body))


def read_reply(body: bytes) -> Note:
    """What a whole reply means: `content` when it is an answer, `error` when it is an error under a 200."""
    payload = fields.decode_object(body)
    if payload.get("type") == "error" or (payload.get("error") and not payload.get("content")):
        return Note(error=told_error(payload))
    answered = payload.get("type") == "message" or isinstance(payload.get("content"), list)
    return Note(content=answered, terminal=answered, usage=read_usage(payload.get("usage")))


def read_event(event: sse.SseEvent) -> Note:
    """What an event means."""
    payload = fields.decode_object(event.data)
    kind = payload.get("type")
    if kind == "error" or event.name == b"error":
        return Note(error=told_error(payload))
    if kind == "message_start":
        return Note(usage=read_usage(fields.mapping(payload.get("message")).get("usage")))
    if kind == "message_delta":
        return Note(content=True, usage=read_usage(payload.get("usage")))
    if kind == "message_stop":
        return Note(content=True, terminal=True)
    if kind == "content_block_start":
        block = fields.mapping(payload.get("content_block"))
        # Blocks that come whole (results of the provider's own tools, redacted thinking) have no deltas to wait for.
        return NOTHING if block.get("type") in ("text", "thinking", "tool_use") else Note(content=True)
    if kind == "content_block_delta":
        delta = fields.mapping(payload.get("delta"))
        return Note(content=any(delta[field] for field in delta if field != "type"))
    return NOTHING


def read_long_event(head: bytes, tail: bytes | bytearray) -> Note:
    """What an event means of which only the first and the last bytes were kept: those that end a reply are short."""
    return Note(content=True)


def models_page(cards: Sequence[ModelCard]) -> dict[str, object]:
    """`GET /v1/models` for a client that sends `anthropic-version`."""
    return {
        "data": [model_entry(card) for card in cards],
        "has_more": False,
        "first_id": cards[0].id if cards else None,
        "last_id": cards[-1].id if cards else None,
    }


def model_entry(card: ModelCard) -> dict[str, object]:
    """One model."""
    entry: dict[str, object] = {
        "type": "model",
        "id": card.id,
        "display_name": card.display_name,
        "created_at": datetime.fromtimestamp(card.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if card.limits.input or card.limits.context:
        entry["max_input_tokens"] = card.limits.input or card.limits.context
    if card.limits.output:
        entry["max_tokens"] = card.limits.output
    return entry


def _error(status: int, message: str) -> dict[str, object]:
    return {"type": "error", "error": {"type": error_type(status), "message": message}}
