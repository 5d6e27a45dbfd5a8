"""What the scenarios ask for: one short question in each dialect, plain or streamed."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import msgspec

from eggpool.domain import Dialect
from eggpool.scripted import chat_stream_events, messages_stream_events, responses_stream_events

CHAT, MESSAGES, RESPONSES = Dialect.CHAT, Dialect.MESSAGES, Dialect.RESPONSES
PATHS = {CHAT: "/v1/chat/completions", MESSAGES: "/v1/messages", RESPONSES: "/v1/responses"}
MODEL = "scripted-large"
WORDS = "say three words"
STREAM_EVENTS = {CHAT: chat_stream_events, MESSAGES: messages_stream_events, RESPONSES: responses_stream_events}
_NUMBERS = count(1)
HELD_BACK = {CHAT: 1, MESSAGES: 3, RESPONSES: 4}
"""How many events of a good stream come before its first word."""


def question(dialect: Dialect = CHAT, *, stream: bool = False, model: str = MODEL, words: str = WORDS) -> bytes:
    """A request body."""
    asked: dict[str, Any] = {"model": model}
    if dialect is RESPONSES:
        asked["input"] = words
    else:
        asked["messages"] = [{"role": "user", "content": words}]
    if dialect is MESSAGES:
        asked["max_tokens"] = 999
    if stream:
        asked["stream"] = True
    return json.dumps(asked).encode()


def opening(dialect: Dialect = CHAT, *, stream: bool = False, model: str = MODEL) -> bytes:
    """A request body that begins a conversation of its own, so that no account has its prompt cached."""
    return question(dialect, stream=stream, model=model, words=f"question {next(_NUMBERS)}")


def text_of(dialect: Dialect, body: bytes) -> str:
    """The text in a plain reply or a stream."""
    if not body.startswith(b"{"):
        return "".join(_delta(dialect, payload) for payload in payloads(body))
    reply = msgspec.json.decode(body)
    if dialect is CHAT:
        return str(reply["choices"][0]["message"]["content"])
    if dialect is MESSAGES:
        return str(reply["content"][0]["text"])
    return str(reply["output"][0]["content"][0]["text"])


def payloads(stream: bytes) -> list[Any]:
    """The JSON objects of a stream's events, in order."""
    lines = [line.removeprefix(b"data: ") for line in stream.splitlines() if line.startswith(b"data: ")]
    return [msgspec.json.decode(line) for line in lines if line != b"[DONE]"]


def _delta(dialect: Dialect, payload: Any) -> str:
    if dialect is CHAT:
        return "".join(choice["delta"].get("content") or "" for choice in payload.get("choices", ()))
    if dialect is MESSAGES:
        return str(payload["delta"].get("text", "")) if payload["type"] == "content_block_delta" else ""
    return str(payload["delta"]) if payload["type"] == "response.output_text.delta" else ""
