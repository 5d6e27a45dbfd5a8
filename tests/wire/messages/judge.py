"""The official SDK as the judge of what is written for an Anthropic endpoint or client."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from anthropic.types.message_create_params import MessageCreateParamsBase
from pydantic import TypeAdapter

from eggpool.wire import sse

GOLDEN = Path(__file__).parent.parent.parent / "golden" / "messages"

_REQUEST: TypeAdapter[Any] = TypeAdapter(MessageCreateParamsBase)
_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
_SDK_LEFT_OUT = {"temperature", "top_k", "top_p", "stream", "context_management", "mcp_servers"}
"""Fields of the API that this release of the SDK does not type, or types elsewhere."""


def raw_of(value: Any) -> msgspec.Raw:
    """A value as raw JSON."""
    return msgspec.Raw(msgspec.json.encode(value))


def judged_request(body: bytes) -> dict[str, Any]:
    """A request body as the SDK's types understand it: nothing is wrong in it, and nothing unknown to them."""
    payload: dict[str, Any] = json.loads(body)
    typed = {name: value for name, value in payload.items() if name not in _SDK_LEFT_OUT}
    assert _known(_REQUEST.validate_python(typed)) == typed
    return payload


def _known(value: Any) -> Any:
    """What the types know of a value; their iterables are only judged while they are read."""
    if isinstance(value, Mapping):
        return {name: _known(inner) for name, inner in value.items()}
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return value
    return [_known(inner) for inner in value]


def judged_reply(body: bytes) -> Message:
    """A reply as the SDK understands it."""
    return Message.model_validate_json(body, strict=True)


def judged_stream(stream: bytes) -> Message:
    """The message that the SDK puts together from a stream; the order of the events is judged too."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    open_block: int | None = None
    blocks = 0
    names = []
    for event in sse.events(stream):
        payload = json.loads(event.data)
        assert payload["type"] == event.name.decode()
        names.append(payload["type"])
        if payload["type"] == "ping":
            continue
        told = _EVENT.validate_python(payload)
        match told.type:
            case "content_block_start":
                assert open_block is None
                assert told.index == blocks
                open_block, blocks = told.index, blocks + 1
            case "content_block_delta":
                assert told.index == open_block
            case "content_block_stop":
                assert told.index == open_block
                open_block = None
            case "message_delta":
                assert open_block is None
        snapshot = accumulate_event(event=told, current_snapshot=snapshot, json_bufs=buffers)
    kinds = [name for name in names if name != "ping"]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("message_start") == kinds.count("message_delta") == kinds.count("message_stop") == 1
    return Message.model_validate(snapshot.to_dict())
