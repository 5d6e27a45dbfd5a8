"""One object for each reply: upstream bytes in, client bytes out, and what was learnt on the way.

A relay passes on whole events only, so that a client never sees half of one followed by something else; an event
longer than the bound is passed on as it comes. What may live here: the order of framing and observing. What may not:
sockets, time-outs, accounts.
"""

from __future__ import annotations

from eggpool.domain import Usage
from eggpool.wire import sse
from eggpool.wire.dialects import Codec
from eggpool.wire.notes import ErrorInfo
from eggpool.wire.usage import Observer, Skimmer

MAX_EVENT_BYTES = 256 * 1024


class StreamRelay:
    """Passes an event stream through unchanged.

    `withhold_usage` drops the event that holds nothing but usage, which the client did not ask for.
    """

    __slots__ = ("_observer", "_splitter")

    def __init__(self, codec: Codec, *, withhold_usage: bool = False) -> None:
        self._observer = Observer(codec, withhold_usage=withhold_usage)
        self._splitter = sse.Splitter(MAX_EVENT_BYTES)

    def feed(self, chunk: bytes) -> bytes:
        """Take what came from the provider; give what the client gets now, empty for nothing yet."""
        was_inside = self._splitter.inside_event
        block = self._splitter.feed(chunk)
        if not was_inside and self._splitter.at_border:  # as nearly always: whole events
            return self._observer.observe(block)
        out = b""
        while block:
            inside = self._splitter.inside_event
            if was_inside or inside:
                self._observer.skim(block, ended=not inside)
                out += block
            else:
                passed = self._observer.observe(block)
                out = out + passed if out else passed
            if not self._splitter.held_bytes:
                break
            # What followed may be more events, or already longer than may be held back.
            was_inside = inside
            block = self._splitter.feed(b"")
        return out

    def finish(self) -> bytes:
        """The provider has ended the stream: what is still held back, when it is a whole event but for its blank line.

        Half an event is not passed on, so that the client can still be told what happened.
        """
        rest = self._splitter.rest()
        if self._splitter.inside_event:
            self._observer.skim(rest, ended=True, whole=False)
            return rest
        return self._observer.observe_last(rest) if rest else b""

    @property
    def content(self) -> bool:
        """Whether anything that the client shows or acts on has come."""
        return self._observer.content

    @property
    def terminal(self) -> bool:
        """Whether the dialect's own end marker has come: the reply is whole."""
        return self._observer.terminal

    @property
    def inside_event(self) -> bool:
        """Whether a part of an unfinished event has been handed out: nothing else may follow it."""
        return self._splitter.inside_event

    @property
    def error(self) -> ErrorInfo | None:
        """The first error told inside the stream."""
        return self._observer.error

    @property
    def usage(self) -> Usage | None:
        """The highest report so far."""
        return self._observer.usage

    @property
    def reply_id(self) -> str | None:
        """The id by which later requests may refer to this reply."""
        return self._observer.reply_id


class PlainRelay:
    """Passes on a reply that is too long to be held whole, and finds the usage at its end.

    Such a reply has no markers of its own: its length or its last chunk says that it is whole.
    """

    __slots__ = ("_codec", "_skimmer", "error", "reply_id", "terminal")

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._skimmer = Skimmer()
        self.terminal = False
        self.error: ErrorInfo | None = None
        self.reply_id: str | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Take what came; it is what the client gets."""
        self._skimmer.feed(chunk)
        return chunk

    def finish(self) -> bytes:
        """The provider has ended the reply."""
        self.terminal = True
        return b""

    @property
    def usage(self) -> Usage | None:
        """The last usage block near the end."""
        return self._skimmer.usage(self._codec)
