"""Framing of event streams: any split of any stream gives the same bytes in whole events, within the bound."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.wire import sse
from eggpool.wire.sse import Splitter, SseEvent

LINE_ENDS = (b"\n", b"\r\n", b"\r")
LINES = st.sampled_from(
    [
        b"data: x",
        b"data:",
        b"data",
        b"data: {",
        b"event: ping",
        b"id: 7",
        b": comment",
        b"retry: 5",
        b"odd",
        b"data:\xff",
    ]
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """A stream in which each event keeps to one kind of line end, as servers write them."""
    out = b""
    for _ in range(draw(st.integers(0, 6))):
        end = draw(st.sampled_from(LINE_ENDS))
        out += b"".join(line + end for line in draw(st.lists(LINES, max_size=4))) + end
    return out + draw(st.sampled_from([b"", b"data: cut", b"data: cut\n", b"event: error\r"]))


ANYTHING = (
    streams() | st.lists(st.sampled_from([b"\n", b"\r", b"data: x", b":"]), max_size=30).map(b"".join) | st.binary()
)


@st.composite
def chunked(draw: st.DrawFn) -> list[bytes]:
    """Anything at all, cut anywhere, with empty chunks too."""
    stream = draw(ANYTHING)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def ends_event(block: bytes) -> bool:
    """Whether a block ends with a blank line."""
    return block.endswith((b"\n\n", b"\n\r\n", b"\r\r"))


@given(chunked(), st.integers(0, 40))
def test_every_byte_once_and_in_order(chunks: list[bytes], bound: int) -> None:
    """Whatever the split and the bound: what is given, then what was held back, is what came."""
    splitter = Splitter(bound)
    assert b"".join([*map(splitter.feed, chunks), splitter.rest()]) == b"".join(chunks)
    assert splitter.held_bytes == 0


@given(chunked())
def test_blocks_are_whole_events(chunks: list[bytes]) -> None:
    """Within the bound each block ends with a blank line, so the events of the blocks are those of the stream."""
    splitter = Splitter(1_000_000)
    blocks = [block for block in map(splitter.feed, chunks) if block]
    assert all(map(ends_event, blocks))
    assert not splitter.inside_event
    blocks.append(splitter.rest())
    stream = b"".join(chunks)
    if not stream.startswith(b"\xef\xbb\xbf"):
        assert [event for block in blocks for event in sse.events(block)] == [*sse.events(stream)]


@given(streams(), st.integers(1, 9))
def test_nothing_whole_is_held_back(stream: bytes, size: int) -> None:
    """An event is given as soon as its blank line has come: what stays behind has none."""
    splitter = Splitter(1_000_000)
    for start in range(0, len(stream), size):
        splitter.feed(stream[start : start + size])
        held = splitter.held_bytes
        seen = stream[: start + size]
        assert not any(blank in seen[len(seen) - held :] for blank in (b"\n\n", b"\r\n\r\n", b"\r\r"))


@given(chunked(), st.integers(0, 40))
def test_the_bound(chunks: list[bytes], bound: int) -> None:
    """Never more is held back than the bound and one chunk; asked again, no more than the bound."""
    splitter = Splitter(bound)
    for chunk in chunks:
        splitter.feed(chunk)
        assert splitter.held_bytes <= bound + len(chunk)
        while splitter.feed(b""):
            pass
        assert splitter.held_bytes <= bound


@given(chunked(), st.integers(3, 40))
def test_inside_a_long_event(chunks: list[bytes], bound: int) -> None:
    """`inside_event` is true exactly while the last byte given lies inside an event.

    A bound below the length of a blank line would hand out the line ends behind an event as if they began one.
    """
    splitter = Splitter(bound)
    given_so_far = b""
    for chunk in chunks:
        given_so_far += splitter.feed(chunk)
        if given_so_far:
            assert splitter.inside_event != ends_event(given_so_far)
    before = splitter.inside_event
    splitter.rest()
    assert splitter.inside_event == before


def test_a_long_event_in_pieces() -> None:
    """A long event is given as it comes, its end by itself, and what follows is whole events again."""
    splitter = Splitter(10)
    chunks = [b"data: 12345", b"6\n", b"\ndata: x\n\ndata: y", b""]
    assert [(splitter.feed(chunk), splitter.inside_event) for chunk in chunks] == [
        (b"data: 12345", True),
        (b"6\n", True),
        (b"\n", False),
        (b"data: x\n\n", False),
    ]
    assert splitter.rest() == b"data: y"


@pytest.mark.parametrize("bound", [1_000, 10_000_000])
@pytest.mark.parametrize("blank", [b"", b"\n\n"])
def test_single_bytes_take_linear_time(bound: int, blank: bytes) -> None:
    """One byte at a time, a long event costs per byte what a short one costs."""

    def seconds(count: int) -> float:
        splitter = Splitter(bound)
        began = time.process_time()
        for _ in range(count):
            splitter.feed(b"x")
        splitter.feed(blank)
        return time.process_time() - began

    short = min(seconds(10_000) for _ in range(3))
    assert min(seconds(80_000) for _ in range(2)) < 8 * short * 4 + 0.02


def parted(block: bytes) -> list[bytes]:
    """The events of a block as the bytes that they are."""
    parts = []
    at = 0
    while at < len(block):
        end = sse.event_end(block, at)
        parts.append(block[at:end])
        at = end
    return parts


@given(ANYTHING)
def test_the_start_of_an_event_is_where_another_one_ends(block: bytes) -> None:
    """Wherever a block is entered, the start that is found is the last end at or before that place."""
    ends = [0]
    for part in parted(block):
        ends.append(ends[-1] + len(part))
    for at in range(len(block)):
        found = sse.event_start(block, 0, at)
        assert found <= at
        assert found == 0 or ends_event(block[:found])


def test_many_events_in_one_block_take_linear_time() -> None:
    """Parting a block into its events is linear in each kind of line end."""

    def seconds(end: bytes, count: int) -> float:
        block = (b"data: {}" + end + end) * count
        began = time.process_time()
        assert len(parted(block)) == count
        return time.process_time() - began

    for end in LINE_ENDS:
        assert min(seconds(end, 40_000) for _ in range(2)) < 8 * min(seconds(end, 5_000) for _ in range(3)) * 4 + 0.02


@given(ANYTHING)
def test_split_loses_nothing(block: bytes) -> None:
    """The parts of a block are the block, and each but the last ends with a blank line."""
    parts = parted(block)
    assert b"".join(parts) == block
    assert all(parts)
    assert all(map(ends_event, parts[:-1]))


@pytest.mark.parametrize(
    ("block", "found"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"data: a\n\n", [(b"", b"a")]),
        (b"data:a\n\n", [(b"", b"a")]),
        (b"data:  a\n\n", [(b"", b" a")]),
        (b"data\n\n", [(b"", b"")]),
        (b"data: a\ndata: b\n\n", [(b"", b"a\nb")]),
        (b"data: a\r\ndata: b\r\n\r\n", [(b"", b"a\nb")]),
        (b"data: a\rdata: b\r\r", [(b"", b"a\nb")]),
        (b"data: a\r\r\ndata: b\n\r\n", [(b"", b"a"), (b"", b"b")]),
        (b"event: e\ndata: a\n\ndata: b\n\n", [(b"e", b"a"), (b"", b"b")]),
        (b"data: a\nevent: e\n\n", [(b"e", b"a")]),
        (b"event: e\n\ndata: b\n\n", [(b"", b"b")]),
        (b": c\nid: 1\nretry: 2\nother: x\ndata: a\n\n", [(b"", b"a")]),
        (b": comment\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [(b"", b"a")]),
        (b"data: a", [(b"", b"a")]),
        (b"Data: a\n data: b\n\n", []),
    ],
)
def test_reading_events(block: bytes, found: list[tuple[bytes, bytes]]) -> None:
    """Events are read as the HTML standard says, except that the last one need not have its blank line."""
    assert [(event.name, event.data) for event in sse.events(block)] == found


@given(st.binary().filter(lambda data: not {10, 13} & {*data}), st.sampled_from([b"", b"error", b"ping"]))
def test_what_is_encoded_can_be_read(data: bytes, name: bytes) -> None:
    """Reading after encoding gives the event, alone and as one whole block."""
    encoded = sse.encode(data, name)
    assert [*sse.events(encoded)] == [SseEvent(name, data)]
    assert Splitter(0).feed(encoded) == encoded
