"""Observes a reply that is passed through: usage, the terminal marker, errors told in-band.

The observer reads; it never re-encodes. What matters stands at the two ends of a stream: everything is read until the
first content, then the last events are kept, and read when somebody asks what has been seen. So the many events between
cost next to nothing. What may live here: reading on the way. What may not: deciding what a failure means.
"""

from __future__ import annotations

import re
from collections import deque

from eggpool.domain import Usage
from eggpool.wire import fields, sse
from eggpool.wire.dialects import Codec
from eggpool.wire.notes import ErrorInfo, Note, highest

_HEAD_BYTES = 1024  # an event's type stands at its beginning
_TAIL_BYTES = 16 * 1024  # usage stands at the end of a reply
_RECENT_BYTES = 4 * 1024  # of the last events; the last block is kept whole, however long it is
_USAGE = b'"usage":'
_USAGE_OBJECT = re.compile(rb'"usage"\s*:\s*(?=\{)')


class Observer:
    """What has been seen of one streamed reply so far."""

    __slots__ = (
        "_codec",
        "_error",
        "_finished",
        "_recent",
        "_recent_bytes",
        "_several",
        "_skimmer",
        "_terminal",
        "_usage",
        "_withhold_usage",
        "content",
        "reply_id",
    )

    def __init__(self, codec: Codec, *, withhold_usage: bool) -> None:
        self._codec = codec
        self._withhold_usage = withhold_usage
        self._skimmer: Skimmer | None = None
        self._recent: deque[bytes] = deque()  # the last blocks after the first content, not read yet
        self._recent_bytes = 0
        self._terminal = False
        self._finished = False
        self._several = False
        self._usage: Usage | None = None
        self._error: ErrorInfo | None = None
        self.content = False
        self.reply_id: str | None = None

    @property
    def terminal(self) -> bool:
        """Whether the reply is whole: its end marker has come, or its only answer is finished."""
        self._catch_up()
        return self._terminal or (self._finished and not self._several)

    @property
    def usage(self) -> Usage | None:
        """The highest report so far."""
        self._catch_up()
        return self._usage

    @property
    def error(self) -> ErrorInfo | None:
        """The first error told inside the stream."""
        self._catch_up()
        return self._error

    def observe(self, block: bytes) -> bytes:
        """Take a block of whole events; give what of it the client gets."""
        before = b""
        while not self.content and block and self._error is None:
            end = sse.event_end(block, 0)
            if not self._read(block[:end]):
                before += block[:end]
            block = block[end:]
        if block:
            if self._withhold_usage:
                block = self._without_usage(block)
            self._recent.append(block)
            self._recent_bytes += len(block)
            if self._recent_bytes > 2 * _RECENT_BYTES:
                self._let_go()
        return before + block if before else block

    def observe_last(self, rest: bytes) -> bytes:
        """The same for what followed the last blank line, an event that lacks its own: half of one is not given."""
        found = list(sse.events(rest))
        whole = all(self._codec.read_event(event).terminal or fields.decode_object(event.data) for event in found)
        if not rest.strip() or (found and whole):
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
            self._usage = highest(self._usage, skimmer.usage(self._codec))

    def _let_go(self) -> None:
        """Forget all but the last events: those before them cannot matter any more."""
        while self._recent_bytes - len(self._recent[0]) >= _RECENT_BYTES:
            self._recent_bytes -= len(self._recent.popleft())

    def _catch_up(self) -> None:
        """Read the last events that were kept."""
        if not self._recent:
            return
        tail = b"".join(self._recent)
        self._recent.clear()
        self._recent_bytes = 0
        at = sse.event_start(tail, 0, max(0, len(tail) - _RECENT_BYTES))
        while mark := self._codec.STREAM_MARKS.search(tail, at):
            start, at = sse.event_start(tail, at, mark.start()), sse.event_end(tail, mark.start())
            self._read(tail[start:at])

    def _without_usage(self, block: bytes) -> bytes:
        """The block without the event that holds nothing but usage, looked for from the end, where it stands."""
        end = len(block)
        while (found := block.rfind(_USAGE, 0, end)) >= 0 and not block.startswith(b"null", found + len(_USAGE)):
            start, stop = sse.event_start(block, 0, found), sse.event_end(block, found)
            if self._read(block[start:stop]):
                block = block[:start] + block[stop:]
            end = start
        return block

    def _read(self, event: bytes) -> bool:
        """Read one event; True when the client must not get it."""
        notes = [self._codec.read_event(one) for one in sse.events(event)]
        for note in notes:
            self._take(note)
        return self._withhold_usage and bool(notes) and all(note.usage_only for note in notes)

    def _take(self, note: Note) -> None:
        self.content = self.content or note.content
        self._terminal = self._terminal or note.terminal
        self._finished = self._finished or note.finished
        self._several = self._several or note.several
        self._error = self._error or note.error
        self.reply_id = self.reply_id or note.reply_id
        if note.usage is not None:
            self._usage = highest(self._usage, note.usage)


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
