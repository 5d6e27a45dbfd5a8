"""Whole Responses replies, read into events and written from them, and what streams share with them.

Source: the OpenAI API reference, "The response object".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from eggpool.errors import WireError
from eggpool.wire import fields, seals
from eggpool.wire.events import (
    BlockEnd,
    Dropped,
    End,
    Event,
    Failed,
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
from eggpool.wire.prompt import Echo, Tool
from eggpool.wire.responses.output import Output
from eggpool.wire.responses.passing import read_usage, told_failure
from eggpool.wire.responses.words import INCOMPLETE


class Kind(msgspec.Struct):
    """What tells one item from another."""

    type: str = ""


class Part(msgspec.Struct):
    """A part of a message or of thoughts."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    logprobs: msgspec.Raw = msgspec.Raw()
    annotations: list[msgspec.Raw] | None = None


class Item(msgspec.Struct):
    """An item of the output whose type is one of `ITEMS`."""

    type: str = ""
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    input: str | None = None
    content: list[Part] | None = None
    summary: list[Part] | None = None
    encrypted_content: str | None = None


class _Details(msgspec.Struct):
    reason: str | None = None


class Response(msgspec.Struct):
    """A reply, whole or as it stands."""

    object: str = ""
    id: str | None = None
    model: str | None = None
    created_at: float | None = None
    status: str | None = None
    output: list[msgspec.Raw] | None = None
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    incomplete_details: _Details | None = None


Read = TypeVar("Read")

RESPONSE = msgspec.json.Decoder(Response)
_KIND = msgspec.json.Decoder(Kind)
_ITEM = msgspec.json.Decoder(Item)

_ITEMS = frozenset({"message", "reasoning", "function_call", "custom_tool_call"})
_EMPTY = frozenset({b"", b"null", b"[]"})

Key = tuple[str, int, int]
"""What a block is known by: its kind, the place of its item, its own place in that."""


class Reader:
    """Turns items and pieces of items into events. One block is open at a time."""

    __slots__ = ("_called", "_closed", "_dropped", "_given", "_next", "_open", "_refused", "_started", "ended")

    def __init__(self) -> None:
        self._started = False
        self._next = 0  # the number of the next block
        self._open: Key | None = None
        self._closed: set[Key] = set()
        self._given = False  # whether anything of the open block has come
        self._dropped: set[tuple[int, str]] = set()
        self._called = self._refused = False
        self.ended = False

    def start(self, response: Response) -> list[Event]:
        """The beginning, once."""
        if self._started:
            return []
        self._started = True
        return [Start(response.id or "", response.model or "", int(response.created_at or 0))]

    def text(self, item: int, part: int, text: str, logprobs: msgspec.Raw) -> list[Event]:
        """A piece of a text."""
        if not text:
            return []
        found = bytes(logprobs)
        told = None if found in _EMPTY else found
        key = ("text", item, part)
        if key == self._open:
            return [TextDelta(self._next - 1, text, told)]
        return [*self._begin(key), TextDelta(self._next - 1, text, told)]

    def refusal(self, item: int, part: int, text: str) -> list[Event]:
        """A piece of a refusal."""
        if not text:
            return []
        self._refused = True
        return [*self._begin(("refusal", item, part)), RefusalDelta(self._next - 1, text)]

    def thought(self, item: int, part: int, text: str, *, summary: bool) -> list[Event]:
        """A piece of the thoughts, or of their summary."""
        if not text:
            return []
        events = self._begin(("thinking", item, 0))
        return [*events, ThinkingDelta(self._next - 1, text, part, summary)]

    def arguments(self, item: int, text: str) -> list[Event]:
        """A piece of a call's arguments, which must have begun. Raises WireError."""
        if not text:
            return []
        if self._open != ("call", item, 0):
            raise WireError("The provider mixes up the pieces of its tool calls.")
        self._given = True
        return [ToolCallDelta(self._next - 1, text)]

    def added(self, place: int, raw: msgspec.Raw) -> list[Event]:
        """An item begins. Raises WireError."""
        kind = _read(raw, _KIND).type
        if kind not in _ITEMS:
            return self.drop(place, kind)
        if kind in ("function_call", "custom_tool_call"):
            return self._call(place, _read(raw, _ITEM))
        return []

    def done(self, place: int, raw: msgspec.Raw) -> list[Event]:
        """An item is whole: what of it had not come before. Raises WireError."""
        kind = _read(raw, _KIND).type
        if kind not in _ITEMS:
            return self.drop(place, kind)
        item = _read(raw, _ITEM)
        if kind == "message":
            events = self._message(place, item)
        elif kind == "reasoning":
            events = self._reasoning(place, item)
        else:
            events = self._call(place, item)
            told = item.input if kind == "custom_tool_call" else item.arguments
            if told and self._open == ("call", place, 0) and not self._given:
                events += self.arguments(place, told)
        if self._open is not None and self._open[1] == place:
            events += self.close()
        return events

    def drop(self, place: int, what: str) -> list[Event]:
        """Something for which there is no event, told once for each item."""
        if (place, what) in self._dropped:
            return []
        self._dropped.add((place, what))
        return [Dropped(what or "item")]

    def end(self, response: Response) -> list[Event]:
        """The reply is whole."""
        self.ended = True
        events = self.start(response)
        if self._open is None and not self._closed and not self._dropped:
            for place, raw in enumerate(response.output or ()):
                events += self.done(place, raw)
        events += [*self.close(), *usage_events(response)]
        if response.status in ("failed", "cancelled"):
            return [*events, failed(response)]
        return [*events, Stop(self._reason(response)), End()]

    def close(self) -> list[Event]:
        """Nothing more comes in the open block."""
        if self._open is None:
            return []
        self._closed.add(self._open)
        self._open = None
        return [BlockEnd(self._next - 1)]

    def _begin(self, key: Key) -> list[Event]:
        """The block of that key is open from here on. Raises WireError when it had ended."""
        if key == self._open:
            return []
        if key in self._closed:
            raise WireError("The provider mixes up the pieces of its output.")
        events = self.close()
        self._open = key
        self._given = False
        self._next += 1
        return events

    def _call(self, place: int, item: Item) -> list[Event]:
        key = ("call", place, 0)
        if key == self._open or key in self._closed:
            return []
        self._called = True
        events = self._begin(key)
        name = Tool(item.name or "", namespace=item.namespace or None).flat_name
        custom = item.type == "custom_tool_call"
        return [*events, ToolCallStart(self._next - 1, item.call_id or item.id or "", name, custom)]

    def _message(self, place: int, item: Item) -> list[Event]:
        events: list[Event] = []
        for number, part in enumerate(item.content or ()):
            if not self._begun(("text", place, number)) and part.type != "refusal":
                events += self.text(place, number, part.text or "", part.logprobs)
            elif part.type == "refusal" and not self._begun(("refusal", place, number)):
                events += self.refusal(place, number, part.refusal or "")
            if part.annotations:
                events += self.drop(place, "annotations")
        return events

    def _reasoning(self, place: int, item: Item) -> list[Event]:
        events: list[Event] = []
        key = ("thinking", place, 0)
        if not self._begun(key):
            for number, part in enumerate(item.summary or ()):
                events += self.thought(place, number, part.text or "", summary=True)
            for number, part in enumerate(item.content or ()):
                events += self.thought(place, number, part.text or "", summary=False)
        if not item.encrypted_content:
            return events
        if key in self._closed:
            return [*events, *self.drop(place, "encrypted_content")]
        events += self._begin(key)
        seal = seals.opened(item.encrypted_content)
        named = item.id if seal.encrypted is not None else None
        return [*events, ThinkingSealed(self._next - 1, seal.signature, seal.redacted, seal.encrypted, named)]

    def _begun(self, key: Key) -> bool:
        return key == self._open or key in self._closed

    def _reason(self, response: Response) -> StopReason:
        if response.status == "incomplete":
            told = response.incomplete_details
            return INCOMPLETE.get((told and told.reason) or "", StopReason.MAX_TOKENS)
        if self._called:
            return StopReason.TOOL_USE
        return StopReason.REFUSAL if self._refused else StopReason.END


def reply_events(body: bytes) -> list[Event]:
    """A whole reply as events. Raises WireError for what is no reply."""
    try:
        response = RESPONSE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise WireError("The provider's reply is not a Responses reply.") from None
    if response.output is None and response.status != "failed":
        raise WireError("The provider's reply has no answer in it.")
    return Reader().end(response)


def usage_events(response: Response) -> list[Event]:
    """What a reply tells about tokens."""
    usage = read_usage(fields.decode_object(bytes(response.usage)))
    return [] if usage is None else [Usage(usage)]


def failed(response: Response) -> Failed:
    """The failure that a reply tells."""
    told = fields.decode_object(bytes(response.error))
    info = told_failure({"error": told})
    return Failed(info.type, info.code, info.message or "The provider could not finish its reply.")


def write_reply(events: Iterable[Event], echo: Echo) -> bytes:
    """A whole reply from its events."""
    output = Output(echo)
    for event in events:
        output.take(event)
    return msgspec.json.encode(output.response())


def _read(raw: msgspec.Raw, decoder: msgspec.json.Decoder[Read]) -> Read:
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise WireError("The provider sent an item that Responses does not know.") from None
