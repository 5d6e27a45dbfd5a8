"""The replies of a good provider in Chat Completions, byte for byte.

Shapes: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from typing import Any

import msgspec

from eggpool.domain import Dialect, Usage
from eggpool.scripted.answer import CREATED_AT_S, Answer, Question, answer_to

STOPS = {"end": "stop", "tools": "tool_calls", "length": "length"}
ERROR_TYPES = {400: "invalid_request_error", 401: "invalid_request_error", 403: "permission_error"} | {
    404: "invalid_request_error",
    429: "rate_limit_error",
}
ERROR_CODES = {401: "invalid_api_key", 402: "insufficient_quota", 404: "model_not_found", 429: "rate_limit_exceeded"}
DONE = b"data: [DONE]\n\n"


def event(payload: Any) -> bytes:
    """One unnamed Server-Sent Event."""
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


def usage_block(usage: Usage) -> dict[str, Any]:
    """Token counts as this dialect writes them."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": 0},
    }


def error_body(status: int, message: str) -> bytes:
    """An error as this dialect tells it."""
    kind = ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return msgspec.json.encode(
        {"error": {"message": message, "type": kind, "param": None, "code": ERROR_CODES.get(status)}}
    )


def error_event(message: str) -> bytes:
    """An error inside a stream, as many providers of this dialect tell it."""
    return event({"error": {"message": message, "type": "server_error", "param": None, "code": 503}})


def _calls(question: Question, answer: Answer) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{question.digest[:12]}{place}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for place, call in enumerate(answer.tool_calls)
    ]


def reply(question: Question, answer: Answer) -> bytes:
    """A plain reply."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if answer.thinking:
        message["reasoning_content"] = answer.thinking
    if answer.tool_calls:
        message["tool_calls"] = _calls(question, answer)
    return msgspec.json.encode(
        {
            "id": f"chatcmpl-{question.digest}",
            "object": "chat.completion",
            "created": CREATED_AT_S,
            "model": question.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": STOPS[answer.stop]}],
            "usage": usage_block(answer.usage),
            "system_fingerprint": "fp_scripted",
        }
    )


def deltas(question: Question, answer: Answer) -> list[dict[str, Any]]:
    """What the chunks of a stream say, one after another: the role, the text, the tool calls."""
    said: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if answer.thinking:
        said.append({"reasoning_content": answer.thinking})
    said += [{"content": delta} for delta in answer.deltas]
    for place, call in enumerate(_calls(question, answer)):
        arguments = call["function"]["arguments"]
        middle = len(arguments) // 2
        opening = call | {"function": {"name": call["function"]["name"], "arguments": ""}}
        said.append({"tool_calls": [{"index": place, **opening}]})
        said += [
            {"tool_calls": [{"index": place, "function": {"arguments": piece}}]}
            for piece in (arguments[:middle], arguments[middle:])
        ]
    return said


def chunk(question: Question, choices: list[dict[str, Any]], **more: Any) -> bytes:
    """One chunk of a stream."""
    return event(
        {
            "id": f"chatcmpl-{question.digest}",
            "object": "chat.completion.chunk",
            "created": CREATED_AT_S,
            "model": question.model,
            "system_fingerprint": "fp_scripted",
            "choices": choices,
            **more,
        }
    )


def stream_events(question: Question, answer: Answer) -> tuple[bytes, ...]:
    """A streamed reply; the usage chunk only when `stream_options.include_usage` asks for it."""
    asked = (question.payload.get("stream_options") or {}).get("include_usage") is True
    more: dict[str, Any] = {"usage": None} if asked else {}
    events = [
        chunk(question, [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}], **more)
        for delta in deltas(question, answer)
    ]
    finish = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": STOPS[answer.stop]}
    events.append(chunk(question, [finish], **more))
    if asked:
        events.append(chunk(question, [], usage=usage_block(answer.usage)))
    return (*events, DONE)


def stream_events_counting(question: Question, answer: Answer) -> tuple[bytes, ...]:
    """A streamed reply in which every chunk carries the usage so far, as some providers do."""
    said = deltas(question, answer)
    events = []
    for place, delta in enumerate(said):
        so_far = answer.usage.output_tokens * place // max(1, len(said) - 1)
        usage = usage_block(Usage(input_tokens=answer.usage.input_tokens, output_tokens=so_far))
        events.append(chunk(question, [{"index": 0, "delta": delta, "finish_reason": None}], usage=usage))
    finish = {"index": 0, "delta": {}, "finish_reason": STOPS[answer.stop]}
    return (*events, chunk(question, [finish], usage=usage_block(answer.usage)), DONE)


def chat_reply(body: bytes, answer: Answer | None = None) -> bytes:
    """The plain reply that the good provider sends to a request body."""
    question = Question.read(Dialect.CHAT, body)
    return reply(question, answer or answer_to(question))


def chat_stream_events(body: bytes, answer: Answer | None = None) -> tuple[bytes, ...]:
    """The events that the good provider sends to a request body, whatever its `stream` says."""
    question = Question.read(Dialect.CHAT, body)
    return stream_events(question, answer or answer_to(question))
