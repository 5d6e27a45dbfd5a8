"""OpenAI Chat Completions, and the endpoints beside it that share its errors and its usage block.

Source: the OpenAI API reference, "Chat", "Embeddings", "Models" and "Errors"; for usage also the pages of OpenRouter
(`usage.cost`), DeepSeek (`prompt_cache_hit_tokens`), Moonshot (`cached_tokens`, usage inside the last choice) and Groq
(`x_groq.usage`); for errors those of MiniMax (`base_resp`), Gemini (the object inside a list) and vLLM
(no outer object).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from eggpool.domain import ModelCard, Usage
from eggpool.wire import fields, sse
from eggpool.wire.notes import NOTHING, ErrorInfo, Note, told_error, usage_of

STREAM_MARKS = re.compile(
    # What begins with the same byte stands together: an event has many quotes, and each is tried once so.
    rb'"(?:usage"\s*:\s*\{|finish_reason"\s*:\s*"|error"\s*:\s*[{"]|object"\s*:\s*"error"|base_resp"'
    rb'|index"\s*:\s*[1-9])|\[DONE\]|event:\s*error'
)
"""Matches each event that the observer has to read; all others are passed by unread."""

KEEPALIVE = b": keep-alive\n\n"

_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_CACHE_HITS = frozenset({"prompt_cache_hit_tokens", "cached_tokens"})
_DONE = b"[DONE]"
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')


def error_type(status: int) -> str:
    """OpenAI's name for the kind of error that a status stands for."""
    if status in _ERROR_TYPES:
        return _ERROR_TYPES[status]
    return "invalid_request_error" if status < 500 else "server_error"


def write_error(status: int, message: str, code: str, *, param: str | None = None, request_id: str = "") -> bytes:
    """An error body."""
    return msgspec.json.encode(_error(status, message, code, param))


def write_error_event(status: int, message: str, code: str) -> bytes:
    """An error inside a stream, for a client that has had a 200 already."""
    return sse.encode(msgspec.json.encode(_error(status, message, code, None)))


def read_error(body: bytes) -> ErrorInfo:
    """The error in a body or event."""
    payload = fields.decode_first_object(body)
    return told_failure(payload) or told_error(payload)


def read_reply(body: bytes) -> Note:
    """What a whole reply means: `content` when it is an answer, `error` when it is an error under a 200."""
    payload = fields.decode_object(body)
    usage = read_usage(payload.get("usage"))
    failure = None if payload.get("choices") else told_failure(payload)
    answered = failure is None and isinstance(payload.get("choices"), list)
    return Note(content=answered, terminal=answered, usage=usage, error=failure)


def read_event(event: sse.SseEvent) -> Note:
    """What an event means."""
    if event.data.strip() == _DONE:
        return Note(terminal=True)
    payload = fields.decode_object(event.data)
    failure = told_failure(payload)
    if failure is None and event.name == b"error":
        failure = told_error(payload)
    if failure is not None:
        return Note(error=failure)
    choices = fields.items(payload.get("choices"))
    usage = read_usage(payload.get("usage")) or read_usage(fields.mapping(payload.get("x_groq")).get("usage"))
    if not choices:
        return Note(usage=usage, usage_only=True) if usage else NOTHING
    content = finished = several = False
    for item in choices:
        choice = fields.mapping(item)
        delta = fields.mapping(choice.get("delta")) or fields.mapping(choice.get("message"))
        finished = finished or bool(choice.get("finish_reason"))
        several = several or fields.count(choice.get("index")) > 0
        content = content or bool(choice.get("text")) or any(delta[field] for field in delta if field != "role")
        usage = usage or read_usage(choice.get("usage"))
    return Note(content=content or finished, finished=finished, several=several, usage=usage)


def read_long_event(head: bytes, tail: bytes | bytearray) -> Note:
    """What an event means of which only the first and the last bytes were kept."""
    return Note(content=True, finished=bool(_FINISHED.search(head) or _FINISHED.search(tail)))


def write_count(tokens: int) -> bytes:
    """The answer to a question for the number of input tokens."""
    return msgspec.json.encode({"input_tokens": tokens})


def models_page(cards: Sequence[ModelCard]) -> dict[str, object]:
    """`GET /v1/models`."""
    return {"object": "list", "data": [model_entry(card) for card in cards]}


def model_entry(card: ModelCard) -> dict[str, object]:
    """One model: OpenAI's fields, the pool's own block, and the limits under the names that clients look for."""
    limits = {"context": card.limits.context, "input": card.limits.input, "output": card.limits.output}
    block: dict[str, object] = {"base_model_id": card.base_model}
    if card.collapsed:
        block |= {"providers": list(card.providers), "routing_priority_max": card.routing_priority}
    else:
        block |= {"provider_id": card.providers[0], "routing_priority": card.routing_priority}
    block |= {"limits": limits, "dialects": [dialect.value for dialect in card.dialects]}
    if card.price is not None:
        block["pricing"] = {
            "unit": "nanodollars per million tokens",
            "input": card.price.input,
            "output": card.price.output,
            "cache_read": card.price.cache_read,
            "cache_write": card.price.cache_write,
        }
    if card.token_estimate_error is not None:
        block["token_estimate_error"] = round(card.token_estimate_error, 4)
    entry: dict[str, object] = {
        "id": card.id,
        "object": "model",
        "created": card.created,
        "owned_by": card.owned_by,
        "name": card.display_name,
        "eggpool": block,
    }
    if card.limits.context is not None:
        entry["context_length"] = card.limits.context
    if card.limits.output is not None:
        entry["max_output_tokens"] = card.limits.output
    return entry


def _error(status: int, message: str, code: str, param: str | None) -> dict[str, object]:
    return {"error": {"message": message, "type": error_type(status), "param": param, "code": code}}


def told_failure(payload: dict[str, object]) -> ErrorInfo | None:
    """The error that a payload tells, None when it tells none."""
    if payload.get("error") or payload.get("object") == "error":
        return told_error(payload)
    outcome = fields.mapping(payload.get("base_resp"))
    if fields.count(outcome.get("status_code")):
        return ErrorInfo(
            code=fields.text(outcome.get("status_code")) or "", message=fields.text(outcome.get("status_msg")) or ""
        )
    return None


def read_usage(value: object) -> Usage | None:
    """The usage block of a reply, None when there is none."""
    block = fields.mapping(value)
    if not block:
        return None
    # The endpoints for images and speech say input and output, as Responses does.
    prompt = fields.count(block.get("prompt_tokens")) or fields.count(block.get("input_tokens"))
    completion = fields.count(block.get("completion_tokens")) or fields.count(block.get("output_tokens"))
    read = write = reasoning = 0
    if not _CACHE_HITS.isdisjoint(block):
        read = max(fields.count(block.get(name)) for name in _CACHE_HITS)
    if details := fields.mapping(block.get("prompt_tokens_details")):
        read = max(read, fields.count(details.get("cached_tokens")))
        write = fields.count(details.get("cache_write_tokens"))
    if details := fields.mapping(block.get("completion_tokens_details")):
        reasoning = fields.count(details.get("reasoning_tokens"))
        if reasoning and fields.count(block.get("total_tokens")) == prompt + completion + reasoning:
            completion += reasoning  # xAI and Gemini count reasoning beside the completion, not inside it
    return usage_of(
        input_tokens=prompt,
        output_tokens=completion,
        cache_read=read,
        cache_write=write,
        reasoning=reasoning,
        cost_nanodollars=fields.nanodollars(block.get("cost")),
    )
