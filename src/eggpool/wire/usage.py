"""Observes a reply that is passed through: usage, the terminal marker, errors told in-band.

The observer reads; it never re-encodes. After the first content it decodes only events that a dialect's `STREAM_MARKS`
match, and searches for those only where the dialect's `may_matter` does not rule them out, so that the many events of a
long answer cost next to nothing. What may live here: reading on the way. What may not: deciding what a failure means.
"""

from __future__ import annotations

import re

from eggpool.domain import Usage
from eggpool.wire import fields, sse
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
        withheld: list[tuple[int, int]] = []
        at = 0
        while not self.content and at < len(block):
            end = sse.event_end(block, at)
            self._read(block, at, end, withheld)
            at = end
        self._search(block, at, len(block), withheld)
        return _without(block, withheld) if withheld else block

    def observe_last(self, rest: bytes) -> bytes:
        """The same for what followed the last blank line, an event that lacks its own: half of one is not given."""
        found = list(sse.events(rest))
        whole = all(self._codec.read_event(event).terminal or fields.decode_object(event.data) for event in found)
        if self.terminal or not rest.strip() or (found and whole):
            return self.observe(rest)
        return b""

    def skim(self, piece: bytes, *, ended: bool, whole: bool = True) -> None:
        """Look at a piece of an event that is too long to be held whole; such an event is content.

        `whole` is False when the stream ended inside the event, which then is no end of a reply.
        """
        self.content = True
        skimmer = self._skimmer = self._skimmer or Skimmer()
        skimmer.feed(piece)
        if ended:
            self._skimmer = None
            if whole:
                self._take(self._codec.read_long_event(skimmer.head, skimmer.tail))
            self.usage = highest(self.usage, skimmer.usage(self._codec))

    def _search(self, block: bytes, start: int, end: int, withheld: list[tuple[int, int]]) -> None:
        """Read those events between `start` and `end` that matter, found by halving: most blocks hold none or few."""
        part = block if end - start == len(block) else block[start:end]
        if not self._codec.may_matter(part) or self._marks.search(part) is None:
            return
        middle = (start + end) // 2
        cut = sse.event_end(block, middle)
        if cut >= end:
            cut = sse.event_start(block, start, middle)
        if cut <= start:
            self._read(block, start, end, withheld)
            return
        self._search(block, start, cut, withheld)
        self._search(block, cut, end, withheld)

    def _read(self, block: bytes, start: int, end: int, withheld: list[tuple[int, int]]) -> None:
        """Read one event, and note its place when the client must not get it."""
        notes = [self._codec.read_event(event) for event in sse.events(block[start:end])]
        for note in notes:
            self._take(note)
        if self._withhold_usage and notes and all(note.usage_only for note in notes):
            withheld.append((start, end))

    def _take(self, note: Note) -> None:
        self.content = self.content or note.content
        self.terminal = self.terminal or note.terminal
        self.error = self.error or note.error
        self.reply_id = self.reply_id or note.reply_id
        if note.usage is not None:
            self.usage = highest(self.usage, note.usage)


def _without(block: bytes, places: list[tuple[int, int]]) -> bytes:
    """The block without what stands at those places, which are in order."""
    kept: list[bytes] = []
    at = 0
    for start, end in places:
        kept.append(block[at:start])
        at = end
    return b"".join([*kept, block[at:]])


class Skimmer:
    """The first and last bytes of something too long to keep, for what stands there."""

    __slots__ = ("head", "tail")

    def __init__(self) -> None:
        self.head = b""
        self.tail = bytearray()

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""
        if len(self.head) < _HEAD_BYTES:
            self.head += piece[: _HEAD_BYTES - len(self.head)]
        self.tail += piece[-_TAIL_BYTES:]
        if len(self.tail) > _TAIL_BYTES:
            del self.tail[:-_TAIL_BYTES]

    def usage(self, codec: Codec) -> Usage | None:
        """The last usage block that lies within the tail."""
        found: Usage | None = None
        for match in _USAGE_OBJECT.finditer(self.tail):
            end = _object_end(self.tail, match.end())
            if end:
                found = codec.read_reply(b'{"usage":' + bytes(self.tail[match.end() : end]) + b"}").usage or found
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
