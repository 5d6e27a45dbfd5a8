"""Chat Completions streams, read into events and written from them.

Source: the OpenAI API reference, "The chat completion chunk object"; for usage in every chunk and `x_groq` the pages of
Groq and xAI.
"""

from __future__ import annotations

import msgspec

from eggpool.domain import Usage as TokenUsage
from eggpool.errors import WireError
from eggpool.wire import bridge, fields, sse
from eggpool.wire.chat.passing import KEEPALIVE, told_failure, write_error_event
from eggpool.wire.chat.reply import (
    COMPLETION,
    Reader,
    call_id_of,
    finish_of,
    reply_id,
    usage_events,
    write_usage,
)
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
from eggpool.wire.notes import highest, told_error
from eggpool.wire.prompt import Echo

_DONE = b"[DONE]"
_INPUT = b'"custom":{"input":'
_encode = msgspec.json.Encoder().encode


class StreamReader:
    """Turns a stream's events into those of the pivot."""

    __slots__ = ("_ended", "_reader")

    def __init__(self) -> None:
        self._reader = Reader()
        self._ended = False

    def read(self, event: sse.SseEvent) -> list[Event]:
        """The events of one chunk. Raises WireError for what cannot be understood."""
        data = event.data
        if data.strip() == _DONE:
            return self._end()
        try:
            chunk = COMPLETION.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise WireError("The provider sent a chunk that is not a chat completion chunk.") from None
        if is_told(chunk.error) or not chunk.choices:
            payload = fields.decode_object(data)
            told = told_failure(payload) or (told_error(payload) if event.name == b"error" else None)
            if told is not None:
                self._ended = True
                return [Failed(told.type, told.code, told.message)]
            if not chunk.choices:
                return usage_events(chunk)
        reader = self._reader
        events: list[Event] = reader.start(chunk)
        choice = chunk.choices[0]
        if choice.index:
            return events  # further answers were not asked for
        message = choice.delta or choice.message
        if message is not None:
            events += reader.take(message, choice.logprobs)
        if choice.finish_reason:
            events += reader.stop(choice.finish_reason)
        return events + usage_events(chunk)

    def finish(self) -> list[Event]:
        """The connection has ended: that is the end of the reply when it had been finished before."""
        return self._end() if self._reader.stopped else []

    def _end(self) -> list[Event]:
        if self._ended:
            return []
        self._ended = True
        if not self._reader.stopped:
            return [*self._reader.stop("stop"), End()]
        return [End()]


class StreamWriter:
    """Writes a stream for a client of this dialect: role first, finish and usage last, then the end marker."""

    __slots__ = ("_after", "_before", "_calls", "_custom", "_echo", "_refused", "_start", "_stop", "_usage")

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._start = Start("", echo.model)
        self._before = b""
        self._after = b'},"finish_reason":null}]'
        self._after += b',"usage":null}\n\n' if echo.include_usage else b"}\n\n"
        self._calls: dict[int, int] = {}  # block -> place among the calls
        self._custom: dict[int, bridge.Unwrapper | None] = {}  # blocks of custom tools
        self._stop = StopReason.END
        self._refused = False
        self._usage: TokenUsage | None = None

    def write(self, event: Event) -> bytes:
        """What the client gets of an event."""
        match event:
            case TextDelta():
                if event.logprobs is not None:
                    return self._with_logprobs(event)
                return self._delta(b'"content":' + _encode(event.text))
            case ThinkingDelta():
                return self._delta(b'"reasoning_content":' + _encode(event.text))
            case ToolCallDelta():
                return self._call_delta(event)
            case ToolCallStart():
                return self._call_start(event)
            case RefusalDelta():
                self._refused = True
                return self._delta(b'"refusal":' + _encode(event.text))
            case Start():
                return self._begin(event)
            case Usage():
                self._usage = highest(self._usage, event.usage)
            case Stop():
                self._stop = event.reason
            case End():
                return self._end()
            case Failed():
                return write_error_event(502, event.message, event.code or event.type)
            case Ping():
                return KEEPALIVE
            case BlockEnd():
                return self._call_end(event)
            case ThinkingSealed() | Dropped():
                pass
        return b""

    def _begin(self, start: Start) -> bytes:
        self._start = start
        head = {
            "id": reply_id(start.id),
            "object": "chat.completion.chunk",
            "created": start.created_s or self._echo.now_s,
            "model": start.model or self._echo.model,
        }
        self._before = b"data: " + _encode(head)[:-1]
        return self._delta(b'"role":"assistant","content":""')

    def _delta(self, inner: bytes) -> bytes:
        if not self._before:
            return self._begin(self._start) + self._delta(inner)
        return self._before + b',"choices":[{"index":0,"delta":{' + inner + self._after

    def _with_logprobs(self, event: TextDelta) -> bytes:
        inner = b'"content":' + _encode(event.text)
        logprobs = msgspec.json.decode(event.logprobs or b"null")  # not as they came: they may hold line ends
        return self._delta(inner + b'},"logprobs":{"content":' + _encode(logprobs) + b',"refusal":null')

    def _call_start(self, event: ToolCallStart) -> bytes:
        place = self._calls[event.block] = len(self._calls)
        call: dict[str, object] = {"index": place, "id": call_id_of(event, self._start.id)}
        tool = self._echo.tools.get(event.name)
        if tool is not None and tool.custom:
            self._custom[event.block] = None if event.custom else bridge.Unwrapper()
            call |= {"type": "custom", "custom": {"name": event.name, "input": ""}}
        else:
            call |= {"type": "function", "function": {"name": event.name, "arguments": ""}}
        return self._delta(b'"tool_calls":[' + _encode(call) + b"]")

    def _call_delta(self, event: ToolCallDelta) -> bytes:
        if event.block not in self._custom:
            return self._call_piece(event.block, b'"function":{"arguments":', event.text)
        unwrapper = self._custom[event.block]
        piece = event.text if unwrapper is None else unwrapper.feed(event.text)
        return self._call_piece(event.block, _INPUT, piece) if piece else b""

    def _call_end(self, event: BlockEnd) -> bytes:
        """What of a custom tool's input had to wait for the end."""
        unwrapper = self._custom.get(event.block)
        rest = unwrapper.rest() if unwrapper is not None else ""
        return self._call_piece(event.block, _INPUT, rest) if rest else b""

    def _call_piece(self, block: int, field: bytes, piece: str) -> bytes:
        place = b"%d" % self._calls[block]
        return self._delta(b'"tool_calls":[{"index":' + place + b"," + field + _encode(piece) + b"}}]")

    def _end(self) -> bytes:
        begun = b"" if self._before else self._begin(self._start)
        finish = _encode(finish_of(self._stop, refused=self._refused))
        tail = b',"usage":null}\n\n' if self._echo.include_usage else b"}\n\n"
        out = begun + self._before + b',"choices":[{"index":0,"delta":{},"finish_reason":' + finish + b"}]" + tail
        if self._echo.include_usage:
            usage = _encode(write_usage(self._usage or TokenUsage()))
            out += self._before + b',"choices":[],"usage":' + usage + b"}\n\n"
        return out + b"data: [DONE]\n\n"
