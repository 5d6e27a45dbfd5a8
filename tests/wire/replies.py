"""Streams as good providers of each dialect send them, event by event, for the tests of observing and relaying."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from eggpool.domain import Dialect
from eggpool.wire.relay import StreamRelay


def data(payload: Any, name: str = "") -> bytes:
    """One event."""
    prefix = f"event: {name}\n" if name else ""
    return f"{prefix}data: {json.dumps(payload)}\n\n".encode()


def chat(delta: Any = None, finish: str | None = None, **more: Any) -> bytes:
    """One chunk of a Chat stream."""
    return data({"id": "c1", "choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **more})


def named(kind: str, **fields: Any) -> bytes:
    """One event of a Messages or Responses stream, whose name is its type."""
    return data({"type": kind, **fields}, kind)


CHAT_USAGE = data({"id": "c1", "choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7}})
DONE = b"data: [DONE]\n\n"
CHAT = (
    b": thinking\n\n",
    chat({"role": "assistant", "content": ""}),
    chat({"content": "Hel"}),
    chat({"content": 'lo "usage": {} [DONE]'}),
    chat({}, "stop"),
    CHAT_USAGE,
    DONE,
)
MESSAGES = (
    named("message_start", message={"id": "m1", "usage": {"input_tokens": 11, "output_tokens": 1}}),
    named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    named("ping"),
    named("content_block_delta", index=0, delta={"type": "text_delta", "text": ""}),
    named("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"}),
    named("content_block_stop", index=0),
    named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 7}),
    named("message_stop"),
)
RESPONSES = (
    named("response.created", response={"id": "r1", "status": "in_progress"}),
    named("response.in_progress", response={"id": "r1"}),
    named("response.output_item.added", item={"type": "message"}),
    named("response.content_part.added", part={"type": "output_text", "text": ""}),
    named("response.output_text.delta", delta=""),
    named("response.output_text.delta", delta="Hello"),
    named("response.completed", response={"id": "r1", "usage": {"input_tokens": 11, "output_tokens": 7}}),
)
STREAMS = {Dialect.CHAT: CHAT, Dialect.MESSAGES: MESSAGES, Dialect.RESPONSES: RESPONSES}
FIRST_CONTENT = {Dialect.CHAT: 2, Dialect.MESSAGES: 4, Dialect.RESPONSES: 5}
LAST_WORD = {Dialect.CHAT: 4, Dialect.MESSAGES: 7, Dialect.RESPONSES: 6}


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """A stream cut at these places; places beyond its end are cut off."""
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:end] for start, end in pairwise(places)]


def through(relay: StreamRelay, chunks: list[bytes]) -> bytes:
    """All that a client gets."""
    return b"".join([*map(relay.feed, chunks), relay.finish()])
