"""Observes a reply that is passed through: usage, the terminal marker, errors told in-band.

The observer reads; it never re-encodes. After the first content it decodes only events that a dialect's `STREAM_MARKS`
match, so that the many events of a long answer cost one search each. What may live here: reading on the way. What may
not: deciding what a failure means.
"""

from __future__ import annotations

import re

from eggpool.domain import Usage
from eggpool.wire import sse
from eggpool.wire.dialects import Codec
from eggpool.wire.notes import ErrorInfo, Note, highest

_HEAD_BYTES = 1024  # an event's type stands at its beginning
_TAIL_BYTES = 16 * 1024  # usage stands at the end of a reply
_USAGE_OBJECT = re.compile(rb'"usage"\s*:\s*(?=\{)')


class Observer:
    """What has been seen of one streamed reply so far."""

    __slots__ = ("_codec", "_marks", "_skimmer", "_withhold_usage", "content", "error", "reply_id", "terminal", "usage")

    def __init__(self, codec: Codec, *, withhold_usage: bool) -> None:
        self._codec = codec
        self._marks = codec.STREAM_MARKS
        self._withhold_usage = withhold_usage
        self._skimmer: Skimmer | None = None
        self.content = False
        self.terminal = False
        self.usage: Usage | None = None
        self.error: ErrorInfo | None = None
        self.reply_id: str | None = None

    def observe(self, block: bytes) -> bytes:
        """Read a block of whole events; give what of it the client gets."""
        if self.content and self._marks.search(block) is None:
            return block
        kept: list[bytes] = []
        withheld = False
        for raw in sse.split(block):
            if self.content and self._marks.search(raw) is None:
                kept.append(raw)
                continue
            usage_only = False
            for event in sse.events(raw):
                note = self._codec.read_event(event)
                self._take(note)
                usage_only = note.usage_only
            if usage_only and self._withhold_usage:
                withheld = True
            else:
                kept.append(raw)
        return b"".join(kept) if withheld else block

    def skim(self, piece: bytes, *, ended: bool) -> None:
        """Look at a piece of an event that is too long to be held whole; such an event is content."""
        self.content = True
        if self._skimmer is None:
            self._skimmer = Skimmer()
        self._skimmer.feed(piece)
        if ended:
            if self._marks.search(self._skimmer.head):
                for event in sse.events(self._skimmer.head):
                    # The rest of the event is gone, so only its kind can be told: a whole object stands in for it.
                    self._take_kind(event)
            self.usage = highest(self.usage, self._skimmer.usage(self._codec))
            self._skimmer = None

    def _take(self, note: Note) -> None:
        self.content = self.content or note.content
        self.terminal = self.terminal or note.terminal
        self.error = self.error or note.error
        self.reply_id = self.reply_id or note.reply_id
        if note.usage is not None:
            self.usage = highest(self.usage, note.usage)

    def _take_kind(self, event: sse.SseEvent) -> None:
        kind = re.search(rb'"type"\s*:\s*("[a-z_.]+")', event.data)
        if kind:
            note = self._codec.read_event(sse.SseEvent(event.name, b'{"type":' + kind[1] + b"}"))
            self.terminal = self.terminal or note.terminal
            self.error = self.error or note.error


class Skimmer:
    """The first and last bytes of something too long to keep, for what stands there."""

    __slots__ = ("_tail", "head")

    def __init__(self) -> None:
        self.head = b""
        self._tail = bytearray()

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""
        if len(self.head) < _HEAD_BYTES:
            self.head += piece[: _HEAD_BYTES - len(self.head)]
        self._tail += piece[-_TAIL_BYTES:]
        if len(self._tail) > _TAIL_BYTES:
            del self._tail[:-_TAIL_BYTES]

    def usage(self, codec: Codec) -> Usage | None:
        """The last usage block that lies within the tail."""
        found: Usage | None = None
        for match in _USAGE_OBJECT.finditer(self._tail):
            end = _object_end(self._tail, match.end())
            if end:
                found = codec.read_reply(b'{"usage":' + bytes(self._tail[match.end() : end]) + b"}").usage or found
        return found


def _object_end(data: bytearray, start: int) -> int:
    """The end of the object that begins at `start`, 0 when it has none. Usage blocks hold no braces in texts."""
    depth = 0
    for place in range(start, len(data)):
        if data[place] == 0x7B:
            depth += 1
        elif data[place] == 0x7D:
            depth -= 1
            if depth == 0:
                return place + 1
    return 0
