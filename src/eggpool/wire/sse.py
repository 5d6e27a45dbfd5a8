"""Server-Sent Events, as the WHATWG HTML standard defines the stream, cut at event boundaries.

`Splitter` turns chunks into blocks of whole events without looking inside; `events` reads such a block. Line ends may
be LF, CRLF or CR. What may live here: framing. What may not: what an event means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

# The second one also ends CRLF CRLF. LF followed by a lone CR is left out: at the end of a chunk it cannot be told from
# the beginning of the second one, and nobody writes it; events parted so are taken for one block.
_BLANK_LINES = (b"\n\n", b"\n\r\n", b"\r\r")
_BLANK_LINE = re.compile(rb"\n\n|\n\r\n|\r\r")
_LONGEST_OVERLAP = 2  # bytes of a blank line that may lie before the chunk which completes it
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class SseEvent(msgspec.Struct, frozen=True):
    """One event: its type (empty when unnamed) and its data, lines joined by LF."""

    name: bytes
    data: bytes


class Splitter:
    """Collects chunks and hands out whole events.

    `max_event_bytes` bounds what is held back. A longer event is handed out in pieces as they come; `inside_event` is
    true until the piece with its end has been handed out.
    """

    __slots__ = ("_held", "_max_event_bytes", "_passed", "_searched")

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._held = bytearray()
        self._passed = 0  # bytes at the front of `_held` that were handed out already, inside a long event
        self._searched = 0  # bytes at the front of `_held` in which no blank line begins

    @property
    def inside_event(self) -> bool:
        """Whether a part of an unfinished event has been handed out."""
        return self._passed > 0

    @property
    def at_border(self) -> bool:
        """Whether all that came was handed out, and ended with an event."""
        return not self._held

    @property
    def held_bytes(self) -> int:
        """How much of an unfinished event is held back."""
        return len(self._held) - self._passed

    def feed(self, chunk: bytes) -> bytes:
        """Take a chunk; give whole events, or a piece of a long one; empty when there is nothing to give yet.

        The end of a long event is given by itself: feed an empty chunk for what followed it.
        """
        held = self._held
        if not held and chunk.endswith(b"\n\n"):
            return chunk
        held += chunk
        end = _first_boundary(held, self._searched) if self._passed else _last_boundary(held, self._searched)
        if end:
            block = bytes(held[self._passed : end])
            del held[:end]
            self._passed = self._searched = 0
            return block
        if self._passed or len(held) > self._max_event_bytes:
            piece = bytes(held[self._passed :])
            del held[:-_LONGEST_OVERLAP]
            self._passed = len(held)
            self._searched = 0
            return piece
        self._searched = max(0, len(held) - _LONGEST_OVERLAP)
        return b""

    def rest(self) -> bytes:
        """What is still held back when the stream has ended; `inside_event` stays as it is."""
        rest = bytes(self._held[self._passed :])
        del self._held[self._passed :]
        return rest


def events(block: bytes) -> Iterator[SseEvent]:
    """The events of a block; comments, ids and retry times are passed over, an event without data does not count."""
    name = b""
    data: list[bytes] = []
    for line in block.removeprefix(_BYTE_ORDER_MARK).splitlines():
        if not line:
            if data:
                yield SseEvent(name, b"\n".join(data))
            name, data = b"", []
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    if data:
        yield SseEvent(name, b"\n".join(data))


def event_end(block: bytes, at: int) -> int:
    """The end of the event that stands at `at`, its blank line included; the end of the block when that lacks one."""
    blank = _BLANK_LINE.search(block, at)
    return blank.end() if blank else len(block)


def event_start(block: bytes, start: int, at: int) -> int:
    """The end of the last event that ends between `start` and `at`; `start` when there is none."""
    return _last_boundary(block, start, at) or start


def encode(data: bytes, name: bytes = b"") -> bytes:
    """One event; `data` must not hold line ends."""
    prefix = b"event: " + name + b"\n" if name else b""
    return prefix + b"data: " + data + b"\n\n"


def _last_boundary(held: bytes | bytearray, start: int, before: int | None = None) -> int:
    """The end of the last blank line at or after `start`, and not beyond `before`; 0 when there is none."""
    end = 0
    for blank in _BLANK_LINES:
        # Only a later one counts, so that two kinds are not looked for through what the first one was found in.
        place = held.rfind(blank, max(start, end - len(blank)), before)
        if place >= 0:
            end = max(end, place + len(blank))
    return end


def _first_boundary(held: bytes | bytearray, start: int) -> int:
    """The end of the first blank line at or after `start`, 0 when there is none."""
    first = 0
    for blank in _BLANK_LINES:
        place = held.find(blank, start, first or len(held))
        if place >= 0:
            first = place + len(blank)
    return first
