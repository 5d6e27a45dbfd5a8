"""Responses streams, read into events and written from them.

Source: the OpenAI API reference, "Streaming events".
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

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
    TextDelta,
    ThinkingDelta,
    ThinkingSealed,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from eggpool.wire.notes import told_error
from eggpool.wire.prompt import Echo
from eggpool.wire.responses.output import Beginning, CallItem, Json, Output, OutputItem, TextItem, ThoughtItem
from eggpool.wire.responses.passing import KEEPALIVE
from eggpool.wire.responses.reply import RESPONSE, Reader, Response, failed, usage_events

_encode = msgspec.json.Encoder().encode


class _Told(msgspec.Struct):
    """An event as far as any of those that are read has fields."""

    type: str = ""
    output_index: int = 0
    content_index: int = 0
    summary_index: int = 0
    delta: str = ""
    logprobs: msgspec.Raw = msgspec.Raw()
    item: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()


class _Type(msgspec.Struct):
    type: str = ""


_TOLD = msgspec.json.Decoder(_Told)
_TYPE = msgspec.json.Decoder(_Type)
_DONE = b"[DONE]"  # some providers end this dialect's streams as Chat's
_MIN_EVENT_BYTES = 16  # no event of this dialect is shorter


class StreamReader:
    """Turns a stream's events into those of the pivot."""

    __slots__ = ("_reader",)

    def __init__(self) -> None:
        self._reader = Reader()

    def read(self, event: sse.SseEvent) -> list[Event]:
        """The events of one event. Raises WireError for what cannot be understood."""
        data = event.data
        if len(data) < _MIN_EVENT_BYTES and data.strip() in (b"", _DONE):
            return []
        try:
            told = _TOLD.decode(data)
        except msgspec.ValidationError:
            return self._misfit(event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise WireError("The provider sent an event that is not valid JSON.") from None
        reader = self._reader
        if reader.ended:
            return []
        kind = told.type or event.name.decode("ascii", "replace")
        if kind == "response.output_text.delta":
            return reader.text(told.output_index, told.content_index, told.delta, told.logprobs)
        if kind == "error":
            reader.ended = True
            info = told_error(fields.decode_object(data))
            return [Failed(info.type, info.code, info.message)]
        handler = _HANDLERS.get(kind)
        return [] if handler is None else handler(reader, told)

    def finish(self) -> list[Event]:
        """The connection has ended: without the last event of this dialect that is never the end of the reply."""
        return []

    def _misfit(self, event: sse.SseEvent) -> list[Event]:
        """An event whose fields have other types than expected: no harm when it is one that nobody reads."""
        try:
            kind = _TYPE.decode(event.data).type
        except msgspec.DecodeError:
            kind = ""
        if kind in _HANDLERS or kind in ("", "error", "response.output_text.delta"):
            raise WireError("The provider sent an event that Responses does not know.") from None
        return []


def _response(told: _Told) -> Response:
    try:
        return RESPONSE.decode(told.response)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise WireError("The provider sent a reply that Responses does not know.") from None


def _created(reader: Reader, told: _Told) -> list[Event]:
    return reader.start(_response(told))


def _ended(reader: Reader, told: _Told) -> list[Event]:
    response = _response(told)
    if response.status is None and told.type == "response.incomplete":
        response.status = "incomplete"
    return reader.end(response)


def _failed(reader: Reader, told: _Told) -> list[Event]:
    response = _response(told)
    reader.ended = True
    return [*usage_events(response), failed(response)]


def _refusal(reader: Reader, told: _Told) -> list[Event]:
    return reader.refusal(told.output_index, told.content_index, told.delta)


def _thought(reader: Reader, told: _Told) -> list[Event]:
    return reader.thought(told.output_index, told.content_index, told.delta, summary=False)


def _summary(reader: Reader, told: _Told) -> list[Event]:
    return reader.thought(told.output_index, told.summary_index, told.delta, summary=True)


def _arguments(reader: Reader, told: _Told) -> list[Event]:
    return reader.arguments(told.output_index, told.delta)


def _added(reader: Reader, told: _Told) -> list[Event]:
    return reader.added(told.output_index, told.item)


def _done(reader: Reader, told: _Told) -> list[Event]:
    return reader.done(told.output_index, told.item)


def _annotation(reader: Reader, told: _Told) -> list[Event]:
    return reader.drop(told.output_index, "annotations")


def _ping(reader: Reader, told: _Told) -> list[Event]:
    return [Ping()]


_HANDLERS: dict[str, Callable[[Reader, _Told], list[Event]]] = {
    "response.created": _created,
    "response.in_progress": _created,
    "response.queued": _created,
    "response.completed": _ended,
    "response.incomplete": _ended,
    "response.failed": _failed,
    "response.cancelled": _failed,
    "response.output_item.added": _added,
    "response.output_item.done": _done,
    "response.refusal.delta": _refusal,
    "response.reasoning_text.delta": _thought,
    "response.reasoning_summary_text.delta": _summary,
    "response.function_call_arguments.delta": _arguments,
    "response.custom_tool_call_input.delta": _arguments,
    "response.output_text.annotation.added": _annotation,
    "keepalive": _ping,
}


class _Line(msgspec.Struct, gc=False):
    """What stands around the number and the text of a block's deltas."""

    before: bytes
    between: bytes


class StreamWriter:
    """Writes a stream for a client of this dialect, numbered without gaps; the last event holds the whole reply."""

    __slots__ = ("_begun", "_lines", "_number", "_output", "_part")

    def __init__(self, echo: Echo) -> None:
        self._output = Output(echo)
        self._number = 0  # of the next event
        self._begun = False
        self._lines: dict[int, _Line] = {}  # by block
        self._part = 0  # of a summary, the one that is open

    def write(self, event: Event) -> bytes:
        """What the client gets of an event."""
        match event:
            case TextDelta() | RefusalDelta():
                return self._text(event)
            case ToolCallDelta():
                return self._arguments(event)
            case ThinkingDelta():
                return self._thought(event)
            case ToolCallStart():
                return b"" if self._output.item(event.block) else self._begin(event)[0]
            case ThinkingSealed():
                item = self._output.item(event.block)
                out = b""
                if item is None:
                    out, item = self._begin(event)
                self._output.grow(item, event)
                return out
            case BlockEnd():
                return self._end_block(event.block)
            case Start():
                self._output.note(event)
                return self._start()
            case Usage() | Stop():
                self._output.note(event)
            case End() | Failed():
                return self._end(event)
            case Ping():
                return KEEPALIVE
            case Dropped():
                pass
        return b""

    def _event(self, kind: str, **members: object) -> bytes:
        payload = {"type": kind, "sequence_number": self._number, **members}
        self._number += 1
        return sse.encode(_encode(payload), kind.encode())

    def _delta(self, line: _Line, text: str) -> bytes:
        number = self._number
        self._number = number + 1
        return line.before + b"%d" % number + line.between + _encode(text) + b"}\n\n"

    def _start(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        response = self._output.response()
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def _begin(self, event: Beginning) -> tuple[bytes, OutputItem]:
        out = self._start()
        item = self._output.begin(event)
        out += self._event("response.output_item.added", output_index=item.place, item=item.item("in_progress"))
        match item:
            case TextItem():
                at = _at(item) | {"content_index": 0}
                out += self._event("response.content_part.added", **at, part=item.part())
                kind = "response.refusal.delta" if item.refusal else "response.output_text.delta"
                self._lines[event.block] = _line(kind, at if item.refusal else at | {"logprobs": []})
            case CallItem():
                kind = "custom_tool_call_input" if item.custom else "function_call_arguments"
                self._lines[event.block] = _line(f"response.{kind}.delta", _at(item))
            case ThoughtItem():
                pass
        return out, item

    def _text(self, event: TextDelta | RefusalDelta) -> bytes:
        out = b""
        item = self._output.item(event.block)
        if item is None:
            out, item = self._begin(event)
        self._output.grow(item, event)
        if isinstance(event, TextDelta) and event.logprobs is not None:
            logprobs = msgspec.json.decode(event.logprobs)  # not as they came: they may hold line ends
            told = _at(item) | {"content_index": 0, "logprobs": logprobs, "delta": event.text}
            return out + self._event("response.output_text.delta", **told)
        delta = self._delta(self._lines[event.block], event.text)
        return out + delta if out else delta

    def _thought(self, event: ThinkingDelta) -> bytes:
        out = b""
        item = self._output.item(event.block)
        if item is None:
            out, item = self._begin(event)
        part = self._output.grow(item, event)
        if not isinstance(item, ThoughtItem):
            return out
        line = self._lines.get(event.block)
        if line is None or part != self._part:
            if line is not None:
                out += self._end_part(item)
            out += self._begin_part(item, part)
            at = _at(item) | {"summary_index": part}
            line = self._lines[event.block] = _line("response.reasoning_summary_text.delta", at)
        return out + self._delta(line, event.text)

    def _begin_part(self, item: ThoughtItem, part: int) -> bytes:
        self._part = part
        shape = {"type": "summary_text", "text": ""}
        return self._event("response.reasoning_summary_part.added", **_at(item), summary_index=part, part=shape)

    def _end_part(self, item: ThoughtItem) -> bytes:
        text = item.part_text(self._part)
        at = _at(item) | {"summary_index": self._part}
        return self._event("response.reasoning_summary_text.done", **at, text=text) + self._event(
            "response.reasoning_summary_part.done", **at, part={"type": "summary_text", "text": text}
        )

    def _arguments(self, event: ToolCallDelta) -> bytes:
        call = self._output.item(event.block)
        given = call.add(event.text) if isinstance(call, CallItem) else ""
        return self._delta(self._lines[event.block], given) if given else b""

    def _end_block(self, block: int) -> bytes:
        item = self._output.end(block)
        line = self._lines.pop(block, None)
        out = b""
        match item:
            case None:
                return b""
            case TextItem():
                at = _at(item) | {"content_index": 0}
                if item.refusal:
                    out = self._event("response.refusal.done", **at, refusal=item.text)
                else:
                    out = self._event("response.output_text.done", **at, text=item.text, logprobs=item.logprobs)
                out += self._event("response.content_part.done", **at, part=item.part())
            case CallItem():
                rest = item.rest()
                out = self._delta(line, rest) if rest and line is not None else b""
                if item.custom:
                    out += self._event("response.custom_tool_call_input.done", **_at(item), input=item.text)
                else:
                    told = _at(item) | {"name": item.name, "arguments": item.text}
                    out += self._event("response.function_call_arguments.done", **told)
            case ThoughtItem():
                out = self._end_part(item) if line is not None else b""
        return out + self._event("response.output_item.done", output_index=item.place, item=item.item("completed"))

    def _end(self, event: End | Failed) -> bytes:
        out = self._start()
        if isinstance(event, End):
            for block in self._output.open_blocks:
                out += self._end_block(block)
        self._output.note(event)
        return out + self._event(f"response.{self._output.status}", response=self._output.response())


def _at(item: OutputItem) -> Json:
    return {"item_id": item.id, "output_index": item.place}


def _line(kind: str, members: Json) -> _Line:
    name = kind.encode()
    before = b"event: " + name + b'\ndata: {"type":"' + name + b'","sequence_number":'
    return _Line(before, b"," + _encode(members)[1:-1] + b',"delta":')
