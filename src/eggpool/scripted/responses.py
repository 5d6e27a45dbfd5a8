"""The replies of a good provider in Responses, byte for byte.

Shapes: https://platform.openai.com/docs/api-reference/responses and .../responses-streaming
"""

from __future__ import annotations

from typing import Any

import msgspec

from eggpool.domain import Dialect, Usage
from eggpool.scripted import chat
from eggpool.scripted.answer import CREATED_AT_S, SEAL, Answer, Question, answer_to

_SEALED = "reasoning.encrypted_content"


def usage_block(usage: Usage) -> dict[str, Any]:
    """Token counts as this dialect writes them."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def error_body(status: int, message: str) -> bytes:
    """An error as this dialect tells it: as Chat Completions do."""
    return chat.error_body(status, message)


def error_event(message: str) -> bytes:
    """An error inside a stream: the response has failed."""
    response = {
        "id": "resp_failed",
        "object": "response",
        "created_at": CREATED_AT_S,
        "status": "failed",
        "error": {"code": "server_is_overloaded", "message": message},
        "output": [],
    }
    return _event(0, "response.failed", response=response)


def _event(number: int, kind: str, **fields: Any) -> bytes:
    payload = {"type": kind, "sequence_number": number, **fields}
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(payload))


def response_id(question: Question) -> str:
    """The id under which the reply can be fetched again."""
    return f"resp_{question.digest}"


def _output(question: Question, answer: Answer) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if answer.thinking:
        summary = [{"type": "summary_text", "text": answer.thinking}]
        head = {"id": f"rs_{question.digest}", "type": "reasoning", "summary": summary}
        sealed = {"encrypted_content": SEAL} if _SEALED in (question.payload.get("include") or ()) else {}
        items.append(head | sealed)
    if answer.text:
        part = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
        head = {"id": f"msg_{question.digest}", "type": "message", "status": "completed", "role": "assistant"}
        items.append(head | {"content": [part]})
    for place, call in enumerate(answer.tool_calls):
        head = {"id": f"fc_{question.digest[:12]}{place}", "type": "function_call", "status": "completed"}
        named = {"call_id": f"call_{question.digest[:12]}{place}", "name": call.name}
        items.append(head | named | {"arguments": call.arguments})
    return items


def _response(question: Question, answer: Answer, *, status: str) -> dict[str, Any]:
    ended = status != "in_progress"
    asked = question.payload
    return {
        "id": response_id(question),
        "object": "response",
        "created_at": CREATED_AT_S,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": asked.get("max_output_tokens"),
        "model": question.model,
        "output": _output(question, answer) if ended else [],
        "parallel_tool_calls": True,
        "previous_response_id": asked.get("previous_response_id"),
        "store": asked.get("store", True),
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": asked.get("tool_choice", "auto"),
        "tools": asked.get("tools", []),
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage_block(answer.usage) if ended else None,
        "metadata": asked.get("metadata", {}),
    }


def _final_status(answer: Answer) -> str:
    return "incomplete" if answer.stop == "length" else "completed"


def reply(question: Question, answer: Answer) -> bytes:
    """A plain reply."""
    return msgspec.json.encode(_response(question, answer, status=_final_status(answer)))


def stream_events(question: Question, answer: Answer) -> tuple[bytes, ...]:
    """A streamed reply; `sequence_number` counts its events from 0."""
    begun = _response(question, answer, status="in_progress")
    told: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
    ]
    for index, item in enumerate(_output(question, answer)):
        if item["type"] == "message":
            told += _message_events(index, item, answer)
        elif item["type"] == "reasoning":
            told += _thinking_events(index, item)
        else:
            told += _call_events(index, item)
    final = _final_status(answer)
    told.append((f"response.{final}", {"response": _response(question, answer, status=final)}))
    return tuple(_event(number, kind, **fields) for number, (kind, fields) in enumerate(told))


def _message_events(index: int, item: dict[str, Any], answer: Answer) -> list[tuple[str, dict[str, Any]]]:
    at = {"item_id": item["id"], "output_index": index, "content_index": 0}
    part = item["content"][0]
    opening = item | {"status": "in_progress", "content": []}
    return [
        ("response.output_item.added", {"output_index": index, "item": opening}),
        ("response.content_part.added", at | {"part": part | {"text": ""}}),
        *[("response.output_text.delta", at | {"delta": delta, "logprobs": []}) for delta in answer.deltas],
        ("response.output_text.done", at | {"text": answer.text, "logprobs": []}),
        ("response.content_part.done", at | {"part": part}),
        ("response.output_item.done", {"output_index": index, "item": item}),
    ]


def _thinking_events(index: int, item: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    at = {"item_id": item["id"], "output_index": index, "summary_index": 0}
    part = item["summary"][0]
    return [
        ("response.output_item.added", {"output_index": index, "item": item | {"summary": []}}),
        ("response.reasoning_summary_part.added", at | {"part": part | {"text": ""}}),
        ("response.reasoning_summary_text.delta", at | {"delta": part["text"]}),
        ("response.reasoning_summary_text.done", at | {"text": part["text"]}),
        ("response.reasoning_summary_part.done", at | {"part": part}),
        ("response.output_item.done", {"output_index": index, "item": item}),
    ]


def _call_events(index: int, item: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    at = {"item_id": item["id"], "output_index": index}
    arguments = item["arguments"]
    middle = len(arguments) // 2
    opening = item | {"status": "in_progress", "arguments": ""}
    return [
        ("response.output_item.added", {"output_index": index, "item": opening}),
        *[
            ("response.function_call_arguments.delta", at | {"delta": piece})
            for piece in (arguments[:middle], arguments[middle:])
        ],
        ("response.function_call_arguments.done", at | {"arguments": arguments}),
        ("response.output_item.done", {"output_index": index, "item": item}),
    ]


def responses_reply(body: bytes, answer: Answer | None = None) -> bytes:
    """The plain reply that the good provider sends to a request body."""
    question = Question.read(Dialect.RESPONSES, body)
    return reply(question, answer or answer_to(question))


def responses_stream_events(body: bytes, answer: Answer | None = None) -> tuple[bytes, ...]:
    """The events that the good provider sends to a request body, whatever its `stream` says."""
    question = Question.read(Dialect.RESPONSES, body)
    return stream_events(question, answer or answer_to(question))
