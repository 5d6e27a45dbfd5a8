"""Relaying a reply: the client gets what the provider sent, whatever the chunks; the pool learns the same from it."""

from __future__ import annotations

import json
import tracemalloc
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.wire.replies import (
    CHAT,
    CHAT_USAGE,
    DONE,
    FIRST_CONTENT,
    LAST_WORD,
    MESSAGES,
    RESPONSES,
    STREAMS,
    chat,
    data,
    named,
    pieces,
    through,
)

from eggpool.domain import Dialect, Usage
from eggpool.wire.dialects import CODECS
from eggpool.wire.relay import MAX_EVENT_BYTES, PlainRelay, StreamRelay

CUTS = st.lists(st.integers(0, 10_000), max_size=20)
DIALECTS = st.sampled_from(Dialect)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
USAGE = Usage(input_tokens=11, output_tokens=7)
BIG = "x" * (MAX_EVENT_BYTES + 50_000)


def test_a_long_stream_is_not_remembered() -> None:
    """Of ten megabytes that went by, only the last few kilobytes are kept."""
    relay = StreamRelay(CODECS[Dialect.CHAT])
    relay.feed(chat({"role": "assistant", "content": "words"}))
    event = chat({"content": "x" * 1000})
    tracemalloc.start()
    for _ in range(10_000):
        relay.feed(b"%b" % event)  # a copy of its own
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert relay.content
    assert kept < 100_000


def learnt(relay: StreamRelay) -> tuple[object, ...]:
    """All that a relay tells."""
    return relay.content, relay.terminal, relay.usage, relay.error, relay.reply_id, relay.inside_event


@given(DIALECTS, ENDS, CUTS)
def test_verbatim_for_any_split(dialect: Dialect, end: bytes, cuts: list[int]) -> None:
    """Output is input, and what is learnt does not depend on the chunks or the line ends."""
    stream = b"".join(STREAMS[dialect]).replace(b"\n", end)
    relay = StreamRelay(CODECS[dialect])
    assert through(relay, pieces(stream, cuts)) == stream
    reply_id = "r1" if dialect is Dialect.RESPONSES else None
    assert learnt(relay) == (True, True, USAGE, None, reply_id, False)


@given(DIALECTS, st.lists(st.binary(max_size=30) | st.sampled_from([*CHAT, *MESSAGES, *RESPONSES]), max_size=12), CUTS)
def test_verbatim_for_anything(dialect: Dialect, parts: list[bytes], cuts: list[int]) -> None:
    """Whatever a provider sends, nothing raises; what is given is a beginning of it, all of it when it ends well."""
    stream = b"".join(parts)
    relay = StreamRelay(CODECS[dialect])
    out = through(relay, pieces(stream, cuts))
    assert stream.startswith(out)
    if stream.endswith((b"\n\n", b"\n\r\n", b"\r\r")):
        assert out == stream


@pytest.mark.parametrize("dialect", Dialect)
def test_commit_and_end(dialect: Dialect) -> None:
    """Pings, starts and empty deltas are no content; the first word is; the end is told by the dialect's own mark."""
    relay = StreamRelay(CODECS[dialect])
    told = []
    for event in STREAMS[dialect]:
        assert relay.feed(event) == event
        told.append((relay.content, relay.terminal))
    first, last = FIRST_CONTENT[dialect], LAST_WORD[dialect]
    assert told == [(place >= first, place >= last) for place in range(len(told))]


@given(DIALECTS, CUTS, st.integers(0, 5_000))
def test_a_cut_stream_never_looks_finished(dialect: Dialect, cuts: list[int], length: int) -> None:
    """A stream that stops before its last word is not terminal, and no half event of it reaches the client."""
    events = STREAMS[dialect][: LAST_WORD[dialect] + 1]
    # The blank line itself may be missing, and its last line end too.
    stream = b"".join(events)[: length % (len(b"".join(events)) - 2)]
    relay = StreamRelay(CODECS[dialect])
    out = through(relay, pieces(stream, cuts))
    assert not relay.terminal
    assert relay.error is None
    whole = max((end for end in accumulate(map(len, events)) if end <= len(stream)), default=0)
    assert out in (stream[:whole], stream)  # an event that lacks nothing but its blank line is passed on
    if out != stream[:whole]:
        json.loads(out[whole:].partition(b"data: ")[2])


@pytest.mark.parametrize("half", [b'data: {"usage":{"prom', b"data: [DO", b"event: mess", b'data: {"type":"x"'])
@pytest.mark.parametrize("dialect", Dialect)
def test_half_an_event_after_the_last_word(dialect: Dialect, half: bytes) -> None:
    """A stream that breaks behind its last word is whole, and the half event behind it is not passed on."""
    whole = b"".join(STREAMS[dialect][: LAST_WORD[dialect] + 1])
    relay = StreamRelay(CODECS[dialect])
    assert through(relay, [whole, half]) == whole
    assert relay.terminal


@pytest.mark.parametrize("dialect", Dialect)
def test_a_last_event_without_its_blank_line(dialect: Dialect) -> None:
    """The last word counts and is passed on although no blank line follows it."""
    stream = b"".join(STREAMS[dialect]).rstrip(b"\n")
    relay = StreamRelay(CODECS[dialect])
    assert through(relay, [stream]) == stream
    assert relay.terminal


@pytest.mark.parametrize(
    "cut", [b"event: error\n", b'event: error\ndata: {"type":"err', b'data: {"error":{"mess', b": comm"]
)
@pytest.mark.parametrize("dialect", Dialect)
def test_half_an_error_is_not_told(dialect: Dialect, cut: bytes) -> None:
    """An event that breaks off, an error too, is kept from the client, so that the break itself can be told."""
    stream = b"".join(STREAMS[dialect][: FIRST_CONTENT[dialect] + 1])
    relay = StreamRelay(CODECS[dialect])
    assert through(relay, [stream, cut]) == stream
    assert (relay.error, relay.terminal, relay.inside_event) == (None, False, False)


@given(CUTS, ENDS, st.booleans())
def test_withheld_usage(cuts: list[int], end: bytes, last_cut: bool) -> None:
    """Usage that the client did not ask for is kept from it, and known; every other byte is passed on."""
    relay = StreamRelay(CODECS[Dialect.CHAT], withhold_usage=True)
    stream = b"".join(CHAT).replace(b"\n", end)
    withheld = CHAT_USAGE.replace(b"\n", end)
    assert through(relay, pieces(stream, cuts)) == stream.replace(withheld, b"")
    assert (relay.usage, relay.terminal) == (USAGE, True)


@given(CUTS)
def test_content_beside_usage_is_never_withheld(cuts: list[int]) -> None:
    """Only events with nothing but usage are withheld: usage beside a choice, or parted oddly from one, passes."""
    oddly = chat({"content": "b"})[:-1] + b"\r" + CHAT_USAGE  # LF and a lone CR part the two
    events = (chat({"content": "a"}, usage={"prompt_tokens": 1}), oddly, chat({}, "stop"), CHAT_USAGE, DONE)
    relay = StreamRelay(CODECS[Dialect.CHAT], withhold_usage=True)
    assert through(relay, pieces(b"".join(events), cuts)) == b"".join([*events[:3], DONE])


@given(CUTS)
def test_usage_in_each_chunk(cuts: list[int]) -> None:
    """Reports in every chunk are cumulative: the last one holds, and nothing is added up."""
    usage = [{"prompt_tokens": 11, "completion_tokens": count, "total_tokens": 11 + count} for count in range(8)]
    events = [chat({"content": "w"}, usage=report) for report in usage] + [chat({}, "stop"), DONE]
    relay = StreamRelay(CODECS[Dialect.CHAT])
    assert through(relay, pieces(b"".join(events), cuts)) == b"".join(events)
    assert relay.usage == USAGE


@given(CUTS, st.permutations([1, 3, 7]))
def test_several_message_deltas(cuts: list[int], counts: list[int]) -> None:
    """Of several reports in a Messages stream the highest holds, in whatever order they come."""
    deltas = [named("message_delta", delta={}, usage={"output_tokens": count}) for count in counts]
    events = [*MESSAGES[:-2], *deltas, MESSAGES[-1]]
    relay = StreamRelay(CODECS[Dialect.MESSAGES])
    assert through(relay, pieces(b"".join(events), cuts)) == b"".join(events)
    assert relay.usage == USAGE


@pytest.mark.parametrize(
    ("dialect", "event", "words"),
    [
        (
            Dialect.CHAT,
            data({"error": {"message": "no", "type": "server_error", "code": 503}}),
            ("server_error", "503"),
        ),
        (Dialect.CHAT, data({"error": "no"}), ("", "")),
        (Dialect.CHAT, data({"message": "no"}, "error"), ("", "")),
        (Dialect.CHAT, data({"object": "error", "message": "no", "code": 400}), ("", "400")),
        (Dialect.CHAT, chat({}, "error", error={"message": "no", "code": 502}), ("", "502")),
        (Dialect.CHAT, data({"choices": None, "base_resp": {"status_code": 1002, "status_msg": "no"}}), ("", "1002")),
        (
            Dialect.MESSAGES,
            named("error", error={"type": "overloaded_error", "message": "no"}),
            ("overloaded_error", ""),
        ),
        (Dialect.MESSAGES, data({"error": {"type": "x", "message": "no"}}, "error"), ("x", "")),
        (Dialect.RESPONSES, named("error", code="server_error", message="no"), ("error", "server_error")),
        (Dialect.RESPONSES, named("error", error={"type": "x", "code": "c", "message": "no"}), ("x", "c")),
        (
            Dialect.RESPONSES,
            named("response.failed", response={"status": "failed", "error": {"code": "c", "message": "no"}}),
            ("response.failed", "c"),
        ),
    ],
)
@pytest.mark.parametrize("after_content", [False, True])
def test_errors_in_band(dialect: Dialect, event: bytes, words: tuple[str, str], after_content: bool) -> None:
    """An error told inside a stream is noticed in each shape, first or in the middle, and commits to nothing."""
    relay = StreamRelay(CODECS[dialect])
    before = STREAMS[dialect][: FIRST_CONTENT[dialect] + after_content]
    through(relay, [*before, event])
    assert relay.error is not None
    assert (relay.error.type, relay.error.code, relay.error.message) == (*words, "no")
    assert relay.content == after_content


RESPONSE = {"id": "r1", "output": BIG, "usage": {"input_tokens": 11, "output_tokens": 7}}
LONG = {
    "chat": (Dialect.CHAT, chat({"content": BIG}, "stop", usage={"prompt_tokens": 11, "completion_tokens": 7})),
    "responses": (Dialect.RESPONSES, named("response.completed", response=RESPONSE)),
    "unnamed": (Dialect.RESPONSES, data({"type": "response.incomplete", "response": RESPONSE})),
}


@pytest.mark.parametrize("size", [1, 7, 1_000])
@pytest.mark.parametrize(("dialect", "event"), LONG.values(), ids=LONG)
def test_a_long_last_event(dialect: Dialect, event: bytes, size: int) -> None:
    """An event beyond the bound is passed on as it comes; its kind and its usage are known once it is whole."""
    relay = StreamRelay(CODECS[dialect])
    out = relay.feed(event[:-1_000])
    while more := relay.feed(b""):
        out += more
    assert (out, relay.inside_event, relay.terminal) == (event[:-1_000], True, False)
    rest = [event[-1_000:][start : start + size] for start in range(0, 1_000, size)]
    assert out + b"".join(map(relay.feed, rest)) == event
    assert (relay.inside_event, relay.terminal, relay.usage) == (False, True, USAGE)


@pytest.mark.parametrize("dialect", [Dialect.CHAT, Dialect.RESPONSES])
def test_a_long_event_that_is_cut(dialect: Dialect) -> None:
    """A stream that ends inside a long event is no whole reply, and nothing may follow what was passed on."""
    long = chat({"content": BIG}, "stop") if dialect is Dialect.CHAT else named("response.completed", response=BIG)
    relay = StreamRelay(CODECS[dialect])
    assert through(relay, [long[:-1]]) == long[:-1]
    assert (relay.terminal, relay.inside_event, relay.content) == (False, True, True)


@given(CUTS)
def test_events_behind_a_long_one(cuts: list[int]) -> None:
    """What follows a long event in the same chunk is read like anything else."""
    events = (chat({"content": BIG}), *CHAT[1:])
    relay = StreamRelay(CODECS[Dialect.CHAT], withhold_usage=True)
    stream = b"".join(events)
    chunks = pieces(stream, [cut + len(events[0]) - 20 for cut in cuts])
    assert through(relay, chunks) == stream.replace(CHAT_USAGE, b"")
    assert (relay.terminal, relay.usage, relay.inside_event) == (True, USAGE, False)


def test_a_long_event_behind_short_ones() -> None:
    """The beginning of a long event is passed on at once when it comes in one chunk with whole events."""
    relay = StreamRelay(CODECS[Dialect.CHAT])
    chunk = CHAT[2] + chat({"content": BIG})[:-10]
    assert relay.feed(chunk) == chunk
    assert relay.inside_event


@given(CUTS, st.integers(0, 30_000))
def test_a_plain_reply_too_long_to_hold(cuts: list[int], padding: int) -> None:
    """A plain reply is passed on as it comes; usage near its end is found behind whatever precedes it."""
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "prompt_tokens_details": {}}
    payload = {"note": '"usage": {"prompt_tokens": 1}', "text": "x" * padding, "usage": usage, "id": 1}
    body = json.dumps(payload).encode()
    relay = PlainRelay(CODECS[Dialect.CHAT])
    assert b"".join(map(relay.feed, pieces(body, cuts))) + relay.finish() == body
    assert relay.usage == USAGE
    assert relay.terminal
