"""OpenAI Responses: what is read of a reply that passes through unchanged, and the shape of errors.

Source: the OpenAI API reference, "Responses" and "Streaming events". Errors and model lists are those of Chat.
"""

from __future__ import annotations

import re

import msgspec

from eggpool.domain import Usage
from eggpool.wire import chat, fields, sse
from eggpool.wire.notes import NOTHING, ErrorInfo, Note, told_error, usage_of

STREAM_MARKS = re.compile(
    rb'"response\.(?:created|completed|incomplete|failed)"|"type"\s*:\s*"error"|event:\s*(?:error|response\.failed)'
)
"""Matches each event that the observer has to read; all others are passed by unread."""

KEEPALIVE = chat.KEEPALIVE

error_type = chat.error_type
write_error = chat.write_error
read_error = chat.read_error
models_page = chat.models_page
model_entry = chat.model_entry

_KIND = re.compile(rb'(?:^event: ?|"type"\s*:\s*")([a-z_.]+)')
_TERMINAL = frozenset({"response.completed", "response.incomplete"})
_NO_CONTENT = frozenset(
    {
        "response.created",
        "response.in_progress",
        "response.queued",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_summary_part.added",
        "codex.rate_limits",
        "keepalive",
    }
)


def write_error_event(status: int, message: str, code: str) -> bytes:
    """An error inside a stream, for a client that has had a 200 already."""
    payload = {"type": "error", "code": code, "message": message, "param": None, "sequence_number": 0}
    return sse.encode(msgspec.json.encode(payload), b"error")


def read_reply(body: bytes) -> Note:
    """What a whole reply means: `content` when it is an answer, `error` when it is an error under a 200."""
    payload = fields.decode_object(body)
    usage = read_usage(payload.get("usage"))
    if payload.get("status") == "failed" or (payload.get("error") and "output" not in payload):
        return Note(error=told_failure(payload), usage=usage)
    answered = payload.get("object") == "response" or isinstance(payload.get("output"), list)
    return Note(content=answered, terminal=answered, usage=usage, reply_id=_id(payload))


def read_event(event: sse.SseEvent) -> Note:
    """What an event means."""
    payload = fields.decode_object(event.data)
    kind = fields.text(payload.get("type")) or event.name.decode("ascii", "replace")
    if kind == "error":
        return Note(error=told_error(payload))
    if not payload:
        return NOTHING  # a name alone, or before data that nobody can read, ends nothing
    response = fields.mapping(payload.get("response"))
    if kind == "response.failed":
        return Note(error=told_failure(response), usage=read_usage(response.get("usage")))
    if kind in _TERMINAL:
        return Note(content=True, terminal=True, usage=read_usage(response.get("usage")), reply_id=_id(response))
    if kind == "response.created":
        return Note(reply_id=_id(response))
    if kind in _NO_CONTENT or payload.get("delta") == "":
        return NOTHING
    return Note(content=True)


def read_long_event(head: bytes, tail: bytes | bytearray) -> Note:
    """What an event means of which only the first and the last bytes were kept."""
    kind = _KIND.search(head)
    told = kind[1].decode("ascii") if kind else ""
    error = ErrorInfo(type=told) if told == "response.failed" else None
    return Note(content=True, terminal=told in _TERMINAL, error=error)


def _id(response: dict[str, object]) -> str | None:
    return fields.text(response.get("id"))


def told_failure(response: dict[str, object]) -> ErrorInfo:
    inner = fields.mapping(response.get("error"))
    return ErrorInfo(
        type="response.failed",
        code=fields.text(inner.get("code")) or "",
        message=fields.text(inner.get("message")) or "",
    )


def read_usage(value: object) -> Usage | None:
    block = fields.mapping(value)
    if not block:
        return None
    input_details = fields.mapping(block.get("input_tokens_details"))
    output_details = fields.mapping(block.get("output_tokens_details"))
    return usage_of(
        input_tokens=fields.count(block.get("input_tokens")),
        output_tokens=fields.count(block.get("output_tokens")),
        cache_read=fields.count(input_details.get("cached_tokens")),
        cache_write=fields.count(input_details.get("cache_write_tokens")),
        reasoning=fields.count(output_details.get("reasoning_tokens")),
        cost_nanodollars=fields.nanodollars(block.get("cost")),
    )
