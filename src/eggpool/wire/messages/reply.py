"""Whole Messages replies, read into events and written from them, and what streams share with them.

Source: the Anthropic API reference, "Create a Message" (response), "Stop reasons" and "Errors".
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from eggpool.domain import Usage as TokenUsage
from eggpool.errors import WireError
from eggpool.wire import bridge, fields
from eggpool.wire.events import (
    BlockEnd,
    Dropped,
    End,
    Event,
    Failed,
    Ping,
    RefusalDelta,
    Start,
    Stop,
    StopReason,
    TextDelta,
    ThinkingDelta,
    ThinkingSealed,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from eggpool.wire.messages.usage import read_usage, write_usage
from eggpool.wire.notes import ErrorInfo, highest, told_error
from eggpool.wire.prompt import Echo

REASONS: dict[str, StopReason] = {
    "end_turn": StopReason.END,
    "stop_sequence": StopReason.STOP_SEQUENCE,
    "max_tokens": StopReason.MAX_TOKENS,
    "tool_use": StopReason.TOOL_USE,
    "pause_turn": StopReason.PAUSE,
    "compaction": StopReason.PAUSE,
    "refusal": StopReason.REFUSAL,
    "model_context_window_exceeded": StopReason.CONTEXT_FULL,
}
"""What the reasons mean; one that nobody knows is taken for a plain end."""

STOP_WORDS: dict[StopReason, str] = {
    StopReason.END: "end_turn",
    StopReason.STOP_SEQUENCE: "stop_sequence",
    StopReason.MAX_TOKENS: "max_tokens",
    StopReason.TOOL_USE: "tool_use",
    StopReason.PAUSE: "pause_turn",
    StopReason.REFUSAL: "refusal",
    StopReason.CONTENT_FILTER: "refusal",
    StopReason.CONTEXT_FULL: "model_context_window_exceeded",
}

ERROR_TYPES: dict[str, str] = {
    "server_error": "api_error",
    "server_is_overloaded": "overloaded_error",
    "slow_down": "overloaded_error",
    "overloaded": "overloaded_error",
    "rate_limit_exceeded": "rate_limit_error",
    "insufficient_quota": "rate_limit_error",
    "invalid_prompt": "invalid_request_error",
    "context_length_exceeded": "invalid_request_error",
    "content_filter": "invalid_request_error",
    "invalid_api_key": "authentication_error",
    "model_not_found": "not_found_error",
}
"""This dialect's types for the codes and types of errors that other dialects tell inside a reply."""

_OWN_ERROR_TYPES = frozenset(
    {
        "api_error", "authentication_error", "billing_error", "invalid_request_error", "not_found_error",
        "overloaded_error", "permission_error", "rate_limit_error", "request_too_large", "timeout_error",
    }
)  # fmt: skip

_TOO_LONG = "prompt is too long"


class Part(msgspec.Struct):
    """A content block of any type; each type uses some of the fields."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()
    citations: msgspec.Raw = msgspec.Raw()


class StopDetails(msgspec.Struct):
    """What the provider adds to a refusal."""

    explanation: str | None = None


class Message(msgspec.Struct):
    """A reply, or the beginning of one."""

    id: str | None = None
    type: str | None = None
    model: str | None = None
    content: list[Part] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None
    usage: msgspec.Raw = msgspec.Raw()


_MESSAGE = msgspec.json.Decoder(Message, strict=False)
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def reply_events(body: bytes) -> list[Event]:
    """A whole reply as events. Raises WireError for what is no reply."""
    try:
        message = _MESSAGE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise WireError("The provider's reply is not a message.") from None
    if message.type == "error":
        return [failed(told_error(fields.decode_object(body)))]
    if message.content is None:
        raise WireError("The provider's reply has no content in it.")
    events: list[Event] = [Start(message.id or "", message.model or "")]
    number = 0
    for part in message.content:
        found = part_events(part, number)
        events += found
        if found and not isinstance(found[0], Dropped):
            events.append(BlockEnd(number))
            number += 1
    events += stop_events(message.stop_reason or "end_turn", message.stop_sequence, message.stop_details, number)
    usage = usage_in(message.usage)
    if usage is not None:
        events.append(Usage(usage))
    return [*events, End()]


def part_events(part: Part, number: int) -> list[Event]:
    """The events of a content block that came whole, without its end; none of one that is empty."""
    found: list[Event] = []
    match part.type:
        case "text":
            if part.text:
                found.append(TextDelta(number, part.text))
            if bytes(part.citations) not in (b"", b"null", b"[]"):
                found.append(Dropped("citations"))
        case "thinking":
            if part.thinking:
                found.append(ThinkingDelta(number, part.thinking))
            if part.signature:
                found.append(ThinkingSealed(number, signature=part.signature))
        case "redacted_thinking":
            found.append(ThinkingSealed(number, redacted=part.data or ""))
        case "tool_use":
            found.append(ToolCallStart(number, part.id or "", part.name or ""))
            arguments = input_of(part)
            if arguments:
                found.append(ToolCallDelta(number, arguments))
        case _:
            found.append(Dropped(part.type or "content_block"))
    return found


def input_of(part: Part) -> str:
    """The arguments of a call that came whole, empty when there are none. Raises WireError where they are not UTF-8."""
    try:
        text = bytes(part.input).decode()
    except UnicodeDecodeError:
        raise WireError("The provider's reply is not UTF-8 text.") from None
    return "" if text in ("null", "{}", '""') else text


def stop_events(told: str, sequence: str | None, details: StopDetails | None, number: int) -> list[Event]:
    """Why a reply ends; the explanation of a refusal is a block of its own, with this number."""
    found: list[Event] = []
    if details is not None and details.explanation:
        found += [RefusalDelta(number, details.explanation), BlockEnd(number)]
    return [*found, Stop(REASONS.get(told, StopReason.END), sequence)]


def usage_in(raw: msgspec.Raw) -> TokenUsage | None:
    """The token counts in a usage block."""
    return read_usage(fields.decode_object(raw))


def failed(told: ErrorInfo) -> Failed:
    """An error as an event."""
    return Failed(told.type, told.code, told.message)


def write_failure(event: Failed) -> bytes:
    """The body that tells an error; agents look for their own provider's words to know that they should compact."""
    kind = ERROR_TYPES.get(event.code) or ERROR_TYPES.get(event.type)
    kind = kind or (event.type if event.type in _OWN_ERROR_TYPES else "api_error")
    message = event.message
    if event.code == "context_length_exceeded" and _TOO_LONG not in message.lower():
        message = f"{_TOO_LONG}: {message}"
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})


def reply_id(told: str) -> str:
    """The id of a reply, in the form that clients of this dialect know."""
    return told if told.startswith("msg_") else f"msg_{told or 0}"


def call_id_of(start: ToolCallStart, told: str) -> str:
    """The id of a call; made from the reply's where the provider gave none."""
    return start.id or f"toolu_{told}_{start.block}"


def stop_word(stop: Stop, *, called: bool) -> str:
    """Why a reply ended. Whether the client has to run tools is seen from the calls: providers do not always say so."""
    reason = stop.reason
    if reason is StopReason.END and called:
        reason = StopReason.TOOL_USE
    if reason is StopReason.TOOL_USE and not called:
        reason = StopReason.END
    return STOP_WORDS[reason]


def joint(part: int, last: int | None) -> str:
    """What stands between two parts of a summary of thoughts."""
    return "\n\n" if last is not None and part != last else ""


def write_reply(events: Iterable[Event], echo: Echo) -> bytes:
    """A whole reply from its events; an error's body when it broke."""
    reply = _Collected(echo)
    for event in events:
        if isinstance(event, Failed):
            return write_failure(event)
        reply.take(event)
    return reply.body()


class _Block:
    """A content block, put together from its events."""

    __slots__ = ("call", "last_part", "pieces", "redacted", "signature", "type")

    def __init__(self) -> None:
        self.type = ""
        self.pieces: list[str] = []
        self.signature = ""
        self.redacted: str | None = None
        self.last_part: int | None = None
        self.call: ToolCallStart | None = None


class _Collected:
    """A whole reply, put together from its events."""

    def __init__(self, echo: Echo) -> None:
        self._start = Start("", echo.model)
        self._echo = echo
        self._blocks: dict[int, _Block] = {}
        self._stop = Stop(StopReason.END)
        self._usage: TokenUsage | None = None

    def take(self, event: Event) -> None:
        """The next event."""
        match event:
            case Start():
                self._start = event
            case TextDelta() | RefusalDelta():
                self._block(event.block, "text").pieces.append(event.text)
            case ThinkingDelta():
                block = self._block(event.block, "thinking")
                block.pieces.append(joint(event.part, block.last_part) + event.text)
                block.last_part = event.part
            case ThinkingSealed():
                self._seal(event)
            case ToolCallStart():
                self._block(event.block, "tool_use").call = event
            case ToolCallDelta():
                self._block(event.block, "tool_use").pieces.append(event.text)
            case Usage():
                self._usage = highest(self._usage, event.usage)
            case Stop():
                self._stop = event
            case BlockEnd() | Dropped() | Ping() | End() | Failed():
                pass

    def _block(self, number: int, kind: str) -> _Block:
        block = self._blocks.setdefault(number, _Block())
        block.type = block.type or kind
        return block

    def _seal(self, event: ThinkingSealed) -> None:
        """What another dialect sealed has no place here; only the thoughts themselves are told."""
        if event.redacted is not None:
            self._block(event.block, "redacted_thinking").redacted = event.redacted
        elif event.signature is not None:
            self._block(event.block, "thinking").signature = event.signature

    def body(self) -> bytes:
        """The JSON body."""
        called = any(block.type == "tool_use" for block in self._blocks.values())
        payload = {
            "id": reply_id(self._start.id),
            "type": "message",
            "role": "assistant",
            "model": self._start.model or self._echo.model,
            "content": [self._write(block) for block in self._blocks.values()],
            "stop_reason": stop_word(self._stop, called=called),
            "stop_sequence": self._stop.sequence,
            "usage": write_usage(self._usage or TokenUsage()),
        }
        return msgspec.json.encode(payload)

    def _write(self, block: _Block) -> dict[str, object]:
        text = "".join(block.pieces)
        match block.type:
            case "thinking":
                return {"type": "thinking", "thinking": text, "signature": block.signature}
            case "redacted_thinking":
                return {"type": "redacted_thinking", "data": block.redacted}
            case "tool_use":
                call = block.call or ToolCallStart(0, "", "")
                arguments = bridge.wrap(text) if call.custom else text
                call_id = call_id_of(call, self._start.id)
                return {"type": "tool_use", "id": call_id, "name": call.name, "input": _object(arguments)}
            case _:
                return {"type": "text", "text": text}


def _object(arguments: str) -> object:
    """The arguments of a call. What is no object, such as JSON cut short, is told as the API's guide proposes.

    Source: "Fine-grained tool streaming", handling invalid JSON.
    """
    if not arguments.strip():
        return {}
    try:
        _OBJECT.decode(arguments)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {"INVALID_JSON": arguments}
    return msgspec.Raw(arguments.encode())
