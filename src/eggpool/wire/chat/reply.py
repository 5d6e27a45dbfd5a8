"""Whole Chat Completions replies, read into events and written from them, and what streams share with them.

Source: the OpenAI API reference, "The chat completion object".
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from eggpool.domain import Usage as TokenUsage
from eggpool.errors import WireError
from eggpool.wire import bridge, fields
from eggpool.wire.chat.passing import read_usage
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
from eggpool.wire.members import is_told
from eggpool.wire.notes import highest
from eggpool.wire.prompt import Echo

REASONS: dict[str, StopReason] = {
    "stop": StopReason.END,
    "eos": StopReason.END,
    "length": StopReason.MAX_TOKENS,
    "model_length": StopReason.CONTEXT_FULL,
    "tool_calls": StopReason.TOOL_USE,
    "function_call": StopReason.TOOL_USE,
    "content_filter": StopReason.CONTENT_FILTER,
    "sensitive": StopReason.CONTENT_FILTER,
    "refusal": StopReason.REFUSAL,
}
"""What the reasons mean; one that nobody knows is taken for a plain end."""

BROKEN = frozenset({"error", "network_error", "insufficient_system_resource"})
"""Reasons that say that the answer broke (OpenRouter, Z.ai, DeepSeek)."""

FINISH: dict[StopReason, str] = {
    StopReason.END: "stop",
    StopReason.STOP_SEQUENCE: "stop",
    StopReason.MAX_TOKENS: "length",
    StopReason.CONTEXT_FULL: "length",
    StopReason.TOOL_USE: "tool_calls",
    StopReason.REFUSAL: "content_filter",
    StopReason.CONTENT_FILTER: "content_filter",
    StopReason.PAUSE: "stop",
}


class CalledFunction(msgspec.Struct):
    """A function's name and arguments, or a piece of them."""

    name: str | None = None
    arguments: str | dict[str, object] | None = None


class CalledCustom(msgspec.Struct):
    """A custom tool's name and input, or a piece of it."""

    name: str | None = None
    input: str | None = None


class Call(msgspec.Struct):
    """A tool call, or a piece of one."""

    index: int | None = None
    id: str | None = None
    function: CalledFunction | None = None
    custom: CalledCustom | None = None


class Message(msgspec.Struct):
    """What the model said, whole or the next piece of it."""

    content: str | list[dict[str, object]] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Call] | None = None
    function_call: CalledFunction | None = None
    annotations: list[msgspec.Raw] | None = None
    audio: msgspec.Raw = msgspec.Raw()


class Logprobs(msgspec.Struct):
    """The probabilities of the words of this choice."""

    content: msgspec.Raw = msgspec.Raw()


class Choice(msgspec.Struct):
    """One answer, or the next piece of it."""

    index: int = 0
    delta: Message | None = None
    message: Message | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Completion(msgspec.Struct):
    """A whole reply, or a chunk of a stream."""

    id: str | None = None
    model: str | None = None
    created: float | None = None
    choices: list[Choice] | None = None
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    x_groq: msgspec.Raw = msgspec.Raw()


COMPLETION = msgspec.json.Decoder(Completion, strict=False)


class Reader:
    """Turns the pieces of one answer into events; a whole answer is one piece."""

    __slots__ = ("_ids", "_kind", "_next", "_place", "_started", "stopped")

    def __init__(self) -> None:
        self._started = False
        self._next = 0  # the number of the next block
        self._kind: str | None = None  # of the open block
        self._place = 0  # of the open tool call
        self._ids: dict[int, str] = {}  # of the last call that began at each place
        self.stopped = False

    def start(self, completion: Completion) -> list[Event]:
        """The beginning, once."""
        if self._started:
            return []
        self._started = True
        return [Start(completion.id or "", completion.model or "", int(completion.created or 0))]

    def take(self, message: Message, logprobs: Logprobs | None = None) -> list[Event]:
        """The events of a piece, in the order in which a model has them. Raises WireError."""
        found: list[Event] = []
        thoughts = message.reasoning_content or message.reasoning
        text = message.content
        if isinstance(text, list):
            thoughts, text = _parts(text, thoughts or "", found)
        if thoughts:
            found.append(ThinkingDelta(self._block("thinking", found), thoughts))
        if text:
            # Written anew: as it came it may hold line ends, which would break an event.
            told = None
            if logprobs is not None and is_told(logprobs.content):
                told = msgspec.json.encode(msgspec.json.decode(logprobs.content))
            found.append(TextDelta(self._block("text", found), text, told))
        if message.refusal:
            found.append(RefusalDelta(self._block("refusal", found), message.refusal))
        for call in message.tool_calls or ():
            self._call(call, found)
        if message.function_call is not None:
            self._call(Call(0, None, message.function_call), found)
        if message.annotations:
            found.append(Dropped("annotations"))
        if is_told(message.audio):
            found.append(Dropped("audio"))
        return found

    def stop(self, told: str) -> list[Event]:
        """The answer is finished for this reason."""
        if self.stopped:
            return []
        self.stopped = True
        if told in BROKEN:
            return [Failed("upstream_error", told, f"The provider ended its reply with the reason {told}.")]
        reason = REASONS.get(told, StopReason.END)
        if reason is StopReason.END and self._ids:
            reason = StopReason.TOOL_USE  # some providers say stop when the model waits for its tools
        return [*self.close(), Stop(reason)]

    def close(self) -> list[Event]:
        """Nothing more comes in the open block."""
        if self._kind is None:
            return []
        self._kind = None
        return [BlockEnd(self._next - 1)]

    def _block(self, kind: str, found: list[Event]) -> int:
        """The block that a piece of this kind belongs to; a new one when another kind is open."""
        if self._kind != kind:
            found += self.close()
            self._kind = kind
            self._next += 1
        return self._next - 1

    def _call(self, call: Call, found: list[Event]) -> None:
        """A piece of a tool call. One begins at a new place, and where another id comes to a place that had one."""
        name, arguments = _called(call)
        place = call.index
        if place is None:
            place = len(self._ids) if call.id or not self._ids else self._place
        if place not in self._ids or (call.id and name and call.id != self._ids[place]):
            found += self.close()
            self._ids[place] = call.id or ""
            self._place = place
            block = self._block("tool", found)
            found.append(ToolCallStart(block, call.id or "", name or "", custom=call.custom is not None))
        elif self._kind != "tool" or place != self._place:
            raise WireError("The provider mixes up the pieces of its tool calls.")
        if arguments:
            found.append(ToolCallDelta(self._next - 1, arguments))


def _called(call: Call) -> tuple[str | None, str | None]:
    """The name and the arguments in a piece of a call."""
    if call.custom is not None:
        return call.custom.name, call.custom.input
    if call.function is None:
        return None, None
    arguments = call.function.arguments
    if arguments is not None and not isinstance(arguments, str):
        arguments = msgspec.json.encode(arguments).decode()
    return call.function.name, arguments


def _parts(parts: list[dict[str, object]], thoughts: str, found: list[Event]) -> tuple[str, str]:
    """The thoughts and the words of a message in parts (Mistral sends its thoughts so)."""
    words = ""
    for part in parts:
        kind = fields.text(part.get("type"))
        if kind == "thinking":
            inner = part.get("thinking")
            thoughts += fields.text(inner) or "".join(
                fields.text(fields.mapping(one).get("text")) or "" for one in fields.items(inner)
            )
        elif kind in ("text", "output_text"):
            words += fields.text(part.get("text")) or ""
        else:
            found.append(Dropped(kind or "part"))
    return thoughts, words


def reply_events(body: bytes) -> list[Event]:
    """A whole reply as events. Raises WireError for what is no reply."""
    try:
        completion = COMPLETION.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise WireError("The provider's reply is not a chat completion.") from None
    if not completion.choices or completion.choices[0].message is None:
        raise WireError("The provider's reply has no answer in it.")
    reader = Reader()
    choice, message = completion.choices[0], completion.choices[0].message
    for place, call in enumerate(message.tool_calls or ()):
        call.index = place
    events = [*reader.start(completion), *reader.take(message, choice.logprobs)]
    events += reader.stop(choice.finish_reason or "stop")
    return [*events, *usage_events(completion), End()]


def usage_events(completion: Completion) -> list[Event]:
    """What a reply or a chunk tells about tokens."""
    for raw in (completion.usage, completion.x_groq):
        if is_told(raw):
            block = fields.decode_object(raw)
            usage = read_usage(block.get("usage") if raw is completion.x_groq else block)
            if usage is not None:
                return [Usage(usage)]
    return []


def write_reply(events: Iterable[Event], echo: Echo) -> bytes:
    """A whole reply from its events."""
    reply = Collected(echo)
    for event in events:
        reply.take(event)
    return reply.body()


class Collected:
    """A whole reply, put together from its events."""

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._start = Start("", echo.model)
        self._words: list[str] = []
        self._refusal: list[str] = []
        self._thoughts: list[str] = []
        self._logprobs: list[object] = []
        self._calls: dict[int, tuple[ToolCallStart, list[str]]] = {}
        self._stop = StopReason.END
        self._usage: TokenUsage | None = None

    def take(self, event: Event) -> None:
        """The next event."""
        match event:
            case Start():
                self._start = event
            case TextDelta():
                self._words.append(event.text)
                if event.logprobs is not None:
                    self._logprobs += fields.items(msgspec.json.decode(event.logprobs))
            case RefusalDelta():
                self._refusal.append(event.text)
            case ThinkingDelta():
                self._thoughts.append(event.text)
            case ToolCallStart():
                self._calls[event.block] = (event, [])
            case ToolCallDelta():
                self._calls[event.block][1].append(event.text)
            case Usage():
                self._usage = highest(self._usage, event.usage)
            case Stop():
                self._stop = event.reason
            case ThinkingSealed() | BlockEnd() | Dropped() | Ping() | Failed() | End():
                pass

    def body(self) -> bytes:
        """The JSON body."""
        message: dict[str, object] = {
            "role": "assistant",
            "content": "".join(self._words) if self._words else None,
            "refusal": "".join(self._refusal) if self._refusal else None,
        }
        if self._thoughts:
            message["reasoning_content"] = "".join(self._thoughts)
        if self._calls:
            message["tool_calls"] = [
                self._call(place, start, "".join(pieces)) for place, (start, pieces) in enumerate(self._calls.values())
            ]
        reason = finish_of(self._stop, refused=bool(self._refusal))
        logprobs = {"content": self._logprobs, "refusal": None} if self._logprobs else None
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": reason}
        payload = {
            "id": reply_id(self._start.id),
            "object": "chat.completion",
            "created": self._start.created_s or self._echo.now_s,
            "model": self._start.model or self._echo.model,
            "choices": [choice],
        }
        if self._usage is not None:
            payload["usage"] = write_usage(self._usage)
        return msgspec.json.encode(payload)

    def _call(self, place: int, start: ToolCallStart, arguments: str) -> dict[str, object]:
        call_id = call_id_of(start, self._start.id)
        tool = self._echo.tools.get(start.name)
        if tool is not None and tool.custom:
            given = arguments if start.custom else bridge.unwrap(arguments)
            return {"id": call_id, "type": "custom", "custom": {"name": start.name, "input": given}}
        function = {"name": start.name, "arguments": arguments or "{}"}
        return {"id": call_id, "type": "function", "function": function}


def finish_of(reason: StopReason, *, refused: bool) -> str:
    """The word for why a reply ended. A model that says why it refuses has said all: its words tell of the refusal."""
    return FINISH[StopReason.END if refused and reason is StopReason.REFUSAL else reason]


def reply_id(told: str) -> str:
    """The id of a reply, in the form that clients of this dialect know."""
    return told if told.startswith("chatcmpl-") else f"chatcmpl-{told or 0}"


def call_id_of(start: ToolCallStart, told: str) -> str:
    """The id of a call; made from the reply's where the provider gave none."""
    return start.id or f"call_{told}_{start.block}"


def write_usage(usage: TokenUsage) -> dict[str, object]:
    """The usage block; what was written to a cache stands under the name that OpenRouter gave it."""
    details = {"cached_tokens": usage.cache_read_tokens, "audio_tokens": 0}
    if usage.cache_write_tokens:
        details["cache_write_tokens"] = usage.cache_write_tokens
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": 0},
    }
