"""The replies of a good provider in Messages, byte for byte.

Shapes: https://docs.anthropic.com/en/api/messages and https://docs.anthropic.com/en/api/messages-streaming
"""

from __future__ import annotations

from typing import Any

import msgspec

from eggpool.domain import Dialect, Usage
from eggpool.scripted.answer import SEAL, Answer, Question, answer_to

STOPS = {"end": "end_turn", "tools": "tool_use", "length": "max_tokens"}
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
PING = b'event: ping\ndata: {"type":"ping"}\n\n'


def event(payload: dict[str, Any]) -> bytes:
    """One Server-Sent Event, named by its `type`."""
    return b"event: %b\ndata: %b\n\n" % (payload["type"].encode(), msgspec.json.encode(payload))


def usage_block(usage: Usage) -> dict[str, Any]:
    """Token counts as this dialect writes them: what came from or went to the cache is not in `input_tokens`."""
    return {
        "input_tokens": usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_tokens - usage.cache_write_1h_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        },
        "output_tokens": usage.output_tokens,
        "service_tier": "standard",
    }


def error_payload(status: int, message: str) -> dict[str, Any]:
    """An error as this dialect tells it, by status or in a stream."""
    kind = ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_scripted"}


def error_body(status: int, message: str) -> bytes:
    """An error as the body of a reply."""
    return msgspec.json.encode(error_payload(status, message))


def error_event(message: str) -> bytes:
    """An error inside a stream."""
    return event(error_payload(529, message))


def _blocks(question: Question, answer: Answer) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.thinking:
        blocks.append({"type": "thinking", "thinking": answer.thinking, "signature": SEAL})
    if answer.text:
        blocks.append({"type": "text", "text": answer.text})
    for place, call in enumerate(answer.tool_calls):
        block = {"type": "tool_use", "id": f"toolu_{question.digest[:12]}{place}", "name": call.name}
        blocks.append(block | {"input": msgspec.json.decode(call.arguments)})
    return blocks


def _message(question: Question, content: list[dict[str, Any]], stop: str | None, usage: Usage) -> dict[str, Any]:
    return {
        "id": f"msg_{question.digest}",
        "type": "message",
        "role": "assistant",
        "model": question.model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage_block(usage),
    }


def reply(question: Question, answer: Answer) -> bytes:
    """A plain reply."""
    return msgspec.json.encode(
        _message(question, _blocks(question, answer), STOPS[answer.stop], answer.usage),
    )


def stream_events(question: Question, answer: Answer, *, reports: tuple[int, ...] = ()) -> tuple[bytes, ...]:
    """A streamed reply. `reports` are further `message_delta` events with output counts so far, before the last."""
    begun = msgspec.structs.replace(answer.usage, output_tokens=min(1, answer.usage.output_tokens))
    events = [event({"type": "message_start", "message": _message(question, [], None, begun)})]
    for index, block in enumerate(_blocks(question, answer)):
        events += _block_events(index, block, answer)
    events += [_message_delta(None, count) for count in reports]
    events.append(_message_delta(STOPS[answer.stop], answer.usage.output_tokens))
    events.append(event({"type": "message_stop"}))
    return tuple(events)


def _message_delta(stop: str | None, output_tokens: int) -> bytes:
    delta = {"stop_reason": stop, "stop_sequence": None}
    return event({"type": "message_delta", "delta": delta, "usage": {"output_tokens": output_tokens}})


def _block_events(index: int, block: dict[str, Any], answer: Answer) -> list[bytes]:
    if block["type"] == "text":
        opening = block | {"text": ""}
        deltas = [{"type": "text_delta", "text": delta} for delta in answer.deltas]
    elif block["type"] == "thinking":
        opening = block | {"thinking": "", "signature": ""}
        deltas = [{"type": "thinking_delta", "thinking": block["thinking"]}]
        deltas.append({"type": "signature_delta", "signature": SEAL})
    else:
        opening = block | {"input": {}}
        arguments = msgspec.json.encode(block["input"]).decode()
        middle = len(arguments) // 2
        pieces = ("", arguments[:middle], arguments[middle:])
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    events = [event({"type": "content_block_start", "index": index, "content_block": opening})]
    if index == 0:
        events.append(PING)
    events += [event({"type": "content_block_delta", "index": index, "delta": delta}) for delta in deltas]
    return [*events, event({"type": "content_block_stop", "index": index})]


def messages_reply(body: bytes, answer: Answer | None = None) -> bytes:
    """The plain reply that the good provider sends to a request body."""
    question = Question.read(Dialect.MESSAGES, body)
    return reply(question, answer or answer_to(question))


def messages_stream_events(body: bytes, answer: Answer | None = None) -> tuple[bytes, ...]:
    """The events that the good provider sends to a request body, whatever its `stream` says."""
    question = Question.read(Dialect.MESSAGES, body)
    return stream_events(question, answer or answer_to(question))
