"""Messages streams, read into events and written from them.

Source: the Anthropic API reference, "Streaming Messages": one block after the other, numbered without gaps.
"""

from __future__ import annotations

import msgspec

from eggpool.domain import Usage as TokenUsage
from eggpool.errors import WireError
from eggpool.wire import fields, sse
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
from eggpool.wire.messages.passing import KEEPALIVE
from eggpool.wire.messages.reply import (
    Message,
    Part,
    StopDetails,
    call_id_of,
    failed,
    input_of,
    joint,
    part_events,
    reply_id,
    signature_of,
    stop_events,
    stop_word,
    usage_in,
    write_failure,
)
from eggpool.wire.messages.usage import write_final_usage, write_usage
from eggpool.wire.notes import highest, told_error
from eggpool.wire.prompt import Echo

MAX_WAITING_CHARS = 16 * 1024 * 1024
"""How much of later blocks is held back while an earlier one is open."""

_SKIPPED = -1  # stands for the number of a block that no event tells of

_encode = msgspec.json.Encoder().encode


_KINDS = {
    "text_delta": "text",
    "input_json_delta": "tool_use",
    "thinking_delta": "thinking",
    "signature_delta": "thinking",
}
"""The type of block that a type of delta belongs to."""


class _Delta(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None


class _Told(msgspec.Struct):
    type: str = ""
    index: int = 0
    delta: _Delta | None = None
    content_block: Part | None = None
    message: Message | None = None
    usage: msgspec.Raw = msgspec.Raw()


_EVENT = msgspec.json.Decoder(_Told, strict=False)


class StreamReader:
    """Turns a stream's events into those of the pivot."""

    __slots__ = ("_ended", "_inputs", "_kinds", "_next", "_numbers", "_usage")

    def __init__(self) -> None:
        self._kinds: dict[int, str] = {}  # index of an open block -> the type of delta that belongs to it
        self._numbers: dict[int, int] = {}  # the provider's index of an open block -> its number
        self._inputs: dict[int, str] = {}  # index of a call -> arguments that came with its beginning
        self._next = 0
        self._usage: TokenUsage | None = None
        self._ended = False

    def read(self, event: sse.SseEvent) -> list[Event]:
        """The events that one event tells. Raises WireError for what cannot be understood."""
        try:
            told = _EVENT.decode(event.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if event.name == b"error":
                return self._fail(event.data)
            raise WireError("The provider sent an event that is not of a Messages stream.") from None
        match told.type:
            case "content_block_delta":
                return [] if told.delta is None else self._delta(told.index, told.delta)
            case "content_block_start":
                return [] if told.content_block is None else self._begin(told.index, told.content_block)
            case "content_block_stop":
                return self._close(told.index)
            case "message_start":
                return self._start(told.message or Message())
            case "message_delta":
                return self._stop(told.delta or _Delta(), told.usage)
            case "message_stop":
                return self._end()
            case "ping":
                return [Ping()]
            case "error":
                return self._fail(event.data)
            case _:
                return self._fail(event.data) if event.name == b"error" else []

    def finish(self) -> list[Event]:
        """The connection has ended. Without `message_stop` the reply is not whole, so only open blocks are closed."""
        return [] if self._ended else self._close_all()

    def _delta(self, index: int, delta: _Delta) -> list[Event]:
        number = self._numbers.get(index)
        if number == _SKIPPED:
            return []
        kind, known = _KINDS.get(delta.type), self._kinds.get(index)
        if number is not None and known is not None and kind not in (None, known):
            # Some providers put thoughts into blocks of text; what is of another kind is a block of its own.
            return self._close(index) + self._delta(index, delta)
        if kind == "tool_use" and known != kind:
            raise WireError("The provider's reply has arguments without a call.")
        if number is None:
            number = self._number(index)
        if kind is not None:
            self._kinds[index] = kind
        match delta.type:
            case "text_delta":
                return [TextDelta(number, delta.text)] if delta.text else []
            case "input_json_delta":
                if not delta.partial_json:
                    return []
                self._inputs.pop(index, None)
                return [ToolCallDelta(number, delta.partial_json)]
            case "thinking_delta":
                return [ThinkingDelta(number, delta.thinking)] if delta.thinking else []
            case "signature_delta":
                return [ThinkingSealed(number, signature=delta.signature)] if delta.signature else []
            case "citations_delta":
                return [Dropped("citations")]
            case _:
                return [Dropped(delta.type or "content_block_delta")]

    def _begin(self, index: int, part: Part) -> list[Event]:
        """A block begins. What has content gets its number at once, the others with their first content."""
        found = self._close(index)
        self._kinds[index] = part.type
        if part.type == "tool_use":
            arguments = input_of(part)
            if arguments:
                self._inputs[index] = arguments  # counts only if no pieces follow
            return [*found, ToolCallStart(self._number(index), part.id or "", part.name or "")]
        inside = part_events(part, self._next)
        if inside and isinstance(inside[0], Dropped):
            if part.type != "text":
                self._numbers[index] = _SKIPPED
        elif inside:
            self._number(index)
        return found + inside

    def _number(self, index: int) -> int:
        number = self._numbers[index] = self._next
        self._next += 1
        return number

    def _close(self, index: int) -> list[Event]:
        number = self._numbers.pop(index, _SKIPPED)
        self._kinds.pop(index, None)
        if number == _SKIPPED:
            return []
        arguments = self._inputs.pop(index, None)
        return [BlockEnd(number)] if arguments is None else [ToolCallDelta(number, arguments), BlockEnd(number)]

    def _close_all(self) -> list[Event]:
        return [event for index in list(self._numbers) for event in self._close(index)]

    def _start(self, message: Message) -> list[Event]:
        return [Start(message.id or "", message.model or ""), *self._report(message.usage)]

    def _stop(self, delta: _Delta, usage: msgspec.Raw) -> list[Event]:
        found: list[Event] = []
        if delta.stop_reason:
            found = self._close_all()
            found += stop_events(delta.stop_reason, delta.stop_sequence, delta.stop_details, self._next)
            self._next += any(isinstance(event, RefusalDelta) for event in found)
        return found + self._report(usage)

    def _report(self, raw: msgspec.Raw) -> list[Event]:
        """The last report leaves out what the first one told, so both are put together."""
        usage = usage_in(raw)
        if usage is None:
            return []
        self._usage = highest(self._usage, usage) or usage
        return [Usage(self._usage)]

    def _end(self) -> list[Event]:
        found = self.finish()
        if not self._ended:
            found.append(End())
        self._ended = True
        return found

    def _fail(self, data: bytes) -> list[Event]:
        self._ended = True
        return [failed(told_error(fields.decode_object(data)))]


class StreamWriter:
    """Writes a stream for a client of this dialect, one block after the other.

    The beginning waits until it is known whether usage comes with it. What comes of a block while an earlier one is
    open waits until that one is closed.
    """

    __slots__ = (
        "_begun", "_called", "_custom", "_echo", "_ended", "_head", "_index", "_kind", "_last_part", "_open",
        "_refused", "_sealed", "_start", "_started", "_stop", "_usage", "_waiting", "_waiting_chars",
    )  # fmt: skip

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._start = Start("", echo.model)
        self._started = False  # whether the provider's beginning has come
        self._begun = False  # whether the client has got it
        self._ended = False
        self._usage: TokenUsage | None = None
        self._stop = Stop(StopReason.END)
        self._called = False
        self._refused = False
        self._open: int | None = None  # number of the open block
        self._kind = ""  # its type
        self._index = -1  # its place in what the client gets
        self._head = b""  # what stands before the text of its deltas
        self._sealed = False
        self._custom = False
        self._last_part: int | None = None
        self._waiting: dict[int, list[Event]] = {}
        self._waiting_chars = 0

    def write(self, event: Event) -> bytes:
        """What the client gets of an event. Raises WireError where too much of later blocks would have to wait."""
        if type(event) is TextDelta and event.block == self._open and self._kind == "text":
            return self._head + _encode(event.text) + b"}}\n\n"
        if self._ended:
            return b""
        match event:
            case Start():
                self._start, self._started = event, True
            case Usage():
                self._usage = highest(self._usage, event.usage)
            case Stop():
                self._stop = event
            case Dropped():
                pass
            case Ping():
                return self._begin() + KEEPALIVE if self._started else KEEPALIVE
            case Failed():
                self._ended = True
                self._open = None
                return sse.encode(write_failure(event), b"error")
            case End():
                return self._begin() + self._end()
            case _:
                return self._begin() + self._take(event)
        return b""

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        message: dict[str, object] = {
            "id": reply_id(self._start.id),
            "type": "message",
            "role": "assistant",
            "model": self._start.model or self._echo.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": write_usage(self._usage or TokenUsage()),
        }
        return _event(b"message_start", {"message": message})

    def _take(self, event: _BlockEvent) -> bytes:
        if self._open is not None and event.block != self._open:
            self._wait(event)
            return b""
        out = self._put(event)
        while self._open is None and self._waiting:
            block = next(iter(self._waiting))
            for waited in self._waiting.pop(block):
                out += self._put(waited)
        return out

    def _wait(self, event: _BlockEvent) -> None:
        if isinstance(event, TextDelta | ThinkingDelta | RefusalDelta | ToolCallDelta):
            self._waiting_chars += len(event.text)
        if self._waiting_chars > MAX_WAITING_CHARS:
            raise WireError("The provider's reply mixes too much of several blocks.")
        self._waiting.setdefault(event.block, []).append(event)

    def _put(self, event: Event) -> bytes:
        """An event of the open block, or of one that can be opened."""
        match event:
            case TextDelta() | RefusalDelta():
                self._refused = self._refused or isinstance(event, RefusalDelta)
                return self._opened(event.block, "text", {"text": ""}) + self._delta(event.text)
            case ThinkingDelta():
                out = self._opened(event.block, "thinking", {"thinking": "", "signature": ""})
                text = joint(event.part, self._last_part) + event.text
                self._last_part = event.part
                return out + self._delta(text)
            case ThinkingSealed():
                return self._seal(event)
            case ToolCallStart():
                return self._call(event)
            case ToolCallDelta():
                if self._kind != "tool_use" or event.block != self._open:
                    raise WireError("The provider's reply has arguments without a call.")
                return self._delta(_escaped(event.text) if self._custom else event.text)
            case BlockEnd():
                return self._close()
        return b""

    def _opened(self, block: int, kind: str, content: dict[str, object]) -> bytes:
        """Begin a block unless this one is open already."""
        if block == self._open and kind == self._kind:
            return b""
        out = self._close()
        self._open, self._kind = block, kind
        self._index += 1
        self._sealed = self._custom = False
        self._last_part = None
        name, field = _DELTAS.get(kind, (b"", b""))
        self._head = _DELTA % (self._index, name, field)
        return out + _event(b"content_block_start", {"index": self._index, "content_block": {"type": kind, **content}})

    def _delta(self, text: str) -> bytes:
        return self._head + _encode(text) + b"}}\n\n"

    def _seal(self, event: ThinkingSealed) -> bytes:
        if event.redacted is not None:
            return self._opened(event.block, "redacted_thinking", {"data": event.redacted})
        signature = signature_of(event)
        if signature is None:
            return b""
        out = self._opened(event.block, "thinking", {"thinking": "", "signature": ""})
        self._sealed = True
        return out + self._signature(signature)

    def _signature(self, signature: str) -> bytes:
        return _DELTA % (self._index, b"signature_delta", b"signature") + _encode(signature) + b"}}\n\n"

    def _call(self, event: ToolCallStart) -> bytes:
        self._called = True
        content: dict[str, object] = {"id": call_id_of(event, self._start.id), "name": event.name, "input": {}}
        out = self._opened(event.block, "tool_use", content)
        self._custom = event.custom
        return out + self._delta('{"input":"') if event.custom else out

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        out = b""
        if self._kind == "thinking" and not self._sealed:
            out = self._signature("")
        if self._custom:
            out = self._delta('"}')
        self._open = None
        self._kind = ""
        return out + _event(b"content_block_stop", {"index": self._index})

    def _end(self) -> bytes:
        out = self._close()
        for events in list(self._waiting.values()):
            for waited in events:
                out += self._put(waited)
            out += self._close()
        self._waiting.clear()
        self._ended = True
        word = stop_word(self._stop, called=self._called, refused=self._refused)
        delta = {"stop_reason": word, "stop_sequence": self._stop.sequence}
        usage = write_final_usage(self._usage or TokenUsage())
        return out + _event(b"message_delta", {"delta": delta, "usage": usage}) + _event(b"message_stop", {})


_BlockEvent = TextDelta | RefusalDelta | ThinkingDelta | ThinkingSealed | ToolCallStart | ToolCallDelta | BlockEnd

_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
_DELTAS: dict[str, tuple[bytes, bytes]] = {
    "text": (b"text_delta", b"text"),
    "thinking": (b"thinking_delta", b"thinking"),
    "tool_use": (b"input_json_delta", b"partial_json"),
}


def _event(name: bytes, payload: dict[str, object]) -> bytes:
    return sse.encode(_encode({"type": name.decode(), **payload}), name)


def _escaped(text: str) -> str:
    """Text as it stands inside a JSON string."""
    return _encode(text)[1:-1].decode()
