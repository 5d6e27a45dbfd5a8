"""Replies of one dialect on their way to a client of another one: the translating twin of `relay`.

Whatever a provider sends goes through the pivot's events: a stream event by event, a plain reply at once; a reply that
came in the other form than the client asked for is turned into that form on the way. What may live here: the order of
framing, reading and writing. What may not: any dialect's words.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from eggpool.domain import Usage as TokenUsage
from eggpool.errors import WireError
from eggpool.wire import sse
from eggpool.wire.dialects import Codec
from eggpool.wire.events import (
    Dropped,
    End,
    Event,
    Failed,
    RefusalDelta,
    Stop,
    TextDelta,
    ThinkingDelta,
    ThinkingSealed,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from eggpool.wire.notes import ErrorInfo, highest
from eggpool.wire.prompt import Echo

MAX_TRANSLATED_EVENT_BYTES = 16 * 1024 * 1024
"""An event has to be whole before it can be translated; one that is longer than this breaks the reply."""

_CONTENT = (TextDelta, ThinkingDelta, ToolCallStart, ToolCallDelta, RefusalDelta, ThinkingSealed, Stop, End)


class Gist:
    """What is learnt of a reply from its events."""

    __slots__ = ("content", "dropped", "error", "terminal", "usage")

    def __init__(self) -> None:
        self.content = False
        self.terminal = False
        self.error: ErrorInfo | None = None
        self.usage: TokenUsage | None = None
        self.dropped: dict[str, None] = {}  # what the client's dialect has no words for, each once

    def take(self, event: Event) -> None:
        """Look at an event."""
        if isinstance(event, _CONTENT):
            self.content = True
            self.terminal = self.terminal or isinstance(event, End)
        elif isinstance(event, Usage):
            self.usage = highest(self.usage, event.usage)
        elif isinstance(event, Failed):
            self.error = self.error or ErrorInfo(event.type, event.code, event.message)
        elif isinstance(event, Dropped):
            self.dropped[event.what] = None


class TranslatedStream:
    """Turns a provider's stream into the client's, whole events only."""

    __slots__ = ("_gist", "_reader", "_splitter", "_writer")

    inside_event = False  # nothing is handed out in part
    reply_id: str | None = None  # a translated reply cannot be referred to

    def __init__(self, source: Codec, target: Codec, echo: Echo) -> None:
        self._reader = source.StreamReader()
        self._writer = target.StreamWriter(echo)
        self._splitter = sse.Splitter(MAX_TRANSLATED_EVENT_BYTES)
        self._gist = Gist()

    def feed(self, chunk: bytes) -> bytes:
        """Take what came from the provider; give what the client gets now."""
        block = self._splitter.feed(chunk)
        if self._splitter.inside_event:
            return self._give([Failed("upstream_error", "event_too_long", "The provider sent an event without end.")])
        return self._pass_on(block) if block else b""

    def finish(self) -> bytes:
        """The provider has ended the stream, or it was cut.

        A last event may lack its blank line; half of one says nothing. Blocks that are open stay so unless the reply is
        whole: clients act on a call as soon as its block has ended.
        """
        out = b""
        for event in sse.events(self._splitter.rest()):
            with contextlib.suppress(WireError):
                out += self._give(self._reader.read(event))
        last = self._reader.finish()
        return out + self._give(last) if any(isinstance(event, End) for event in last) else out

    def fail(self, message: str, code: str) -> bytes:
        """The reply broke off; empty when the client has had its end or an error already."""
        return self._give([Failed("upstream_error", code, message)])

    def _pass_on(self, block: bytes) -> bytes:
        out = b""
        for event in sse.events(block):
            try:
                found = self._reader.read(event)
            except WireError as error:
                found = [_misread(error)]
            out += self._give(found)
        return out

    def _give(self, events: Iterable[Event]) -> bytes:
        gist, out = self._gist, b""
        for event in events:
            if self.ended:
                break
            try:
                written = self._writer.write(event)
            except WireError as error:
                event = _misread(error)
                written = self._writer.write(event)
            gist.take(event)
            out += written
        return out

    @property
    def ended(self) -> bool:
        """Whether the client has had the end of the reply, or the error that ended it: nothing may follow."""
        return self._gist.terminal or self._gist.error is not None

    @property
    def content(self) -> bool:
        """Whether anything that the client shows or acts on has come."""
        return self._gist.content

    @property
    def terminal(self) -> bool:
        """Whether the provider has said that the reply is whole."""
        return self._gist.terminal

    @property
    def error(self) -> ErrorInfo | None:
        """The error that ended the stream."""
        return self._gist.error

    @property
    def usage(self) -> TokenUsage | None:
        """The highest report so far."""
        return self._gist.usage

    @property
    def dropped(self) -> tuple[str, ...]:
        """What the client's dialect has no words for."""
        return tuple(self._gist.dropped)


def _misread(error: WireError) -> Failed:
    """What a provider sent makes no sense."""
    return Failed("upstream_error", error.code, str(error))


class TranslatedReply:
    """A whole reply for a client of another dialect: `body` is what it gets, a stream when that was asked for.

    Raises WireError for events that make no reply.
    """

    __slots__ = ("body", "dropped", "error", "usage", "whole")

    def __init__(self, events: list[Event], target: Codec, echo: Echo, *, stream: bool) -> None:
        gist = Gist()
        for event in events:
            gist.take(event)
        self.error = gist.error
        self.usage = gist.usage
        self.whole = gist.terminal
        self.dropped = tuple(gist.dropped)
        if stream:
            writer = target.StreamWriter(echo)
            self.body = b"".join(writer.write(event) for event in events)
        else:
            self.body = target.write_reply(events, echo)


def read_stream(source: Codec, body: bytes) -> list[Event]:
    """The events of a whole stream, for a client that asked for a plain reply. Raises WireError."""
    reader = source.StreamReader()
    events: list[Event] = []
    for event in sse.events(body):
        events += reader.read(event)
        if events and isinstance(events[-1], End | Failed):
            return events  # whatever follows
    return events + reader.finish()
