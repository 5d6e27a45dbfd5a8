"""Messages replies and streams: read into events, written from them, and judged by Anthropic's own SDK."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types import ServerToolUseBlock, TextBlock, ThinkingBlock, ToolUseBlock
from hypothesis import given
from hypothesis import strategies as st
from tests.wire.meaning import Part, Reply, meaning
from tests.wire.messages.judge import GOLDEN, judged_reply, judged_stream

from eggpool.domain import Usage as TokenUsage
from eggpool.errors import WireError
from eggpool.wire import sse
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
    StopReason,
    TextDelta,
    ThinkingDelta,
    ThinkingSealed,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from eggpool.wire.messages import StreamReader, StreamWriter, read_request, reply_events, write_reply
from eggpool.wire.prompt import Echo, Thinking

TOOLS = Reply(
    id="msg_01XFDUDYJgAACzvnptvVoYEL",
    model="claude-sonnet-4-5-20250929",
    parts=[
        Part("thinking", "Both cities.", signature="EqMBCkYIBBgCKkDa8xAg"),
        Part("text", "I'll look up both."),
        Part("call", '{"days": [1, 2], "location": "Paris"}', id="toolu_01A", name="get_weather"),
        Part("call", "{}", id="toolu_01B", name="get_time"),
    ],
    stop=StopReason.TOOL_USE,
    usage=TokenUsage(
        input_tokens=2260,
        cache_read_tokens=2051,
        cache_write_tokens=188,
        cache_write_1h_tokens=88,
        output_tokens=103,
        reasoning_tokens=12,
    ),
    whole=True,
)
REDACTED = Reply(
    id="msg_02",
    model="claude-3-7-sonnet-20250219",
    parts=[
        Part("thinking", redacted=json.loads((GOLDEN / "redacted.reply.json").read_bytes())["content"][0]["data"]),
        Part("text", "Counting: 1, 2"),
    ],
    stop=StopReason.STOP_SEQUENCE,
    sequence=", 3",
    usage=TokenUsage(input_tokens=9, output_tokens=30),
    whole=True,
)
SEARCH = Reply(
    id="msg_03",
    model="claude-sonnet-4-5",
    parts=[Part("text", "I'll check."), Part("text", "It is warm.")],
    stop=StopReason.END,
    usage=TokenUsage(input_tokens=10682, output_tokens=510),
    dropped=["server_tool_use", "web_search_tool_result", "citations"],
    whole=True,
)
REFUSAL = Reply(
    id="msg_04",
    model="claude-opus-4-6",
    parts=[Part("refusal", "This request was declined.")],
    stop=StopReason.REFUSAL,
    usage=TokenUsage(input_tokens=40, output_tokens=1),
    whole=True,
)
OVERLOADED = Reply(
    id="msg_05",
    model="claude-opus-4-6",
    parts=[Part("text", "Half a")],
    usage=TokenUsage(input_tokens=40, output_tokens=1),
    error=("overloaded_error", "", "Overloaded"),
)
STREAMS = {
    "tools": TOOLS,
    "redacted": REDACTED,
    "search": SEARCH,
    "refusal": REFUSAL,
    "overloaded": OVERLOADED,
}
ECHO = Echo(model="asked-for")
START = Start("msg_1", "m")
ENDING: list[Event] = [Stop(StopReason.END), Usage(TokenUsage(input_tokens=5, output_tokens=2)), End()]


def golden(name: str) -> bytes:
    """A stream as a provider sends it."""
    return (GOLDEN / f"{name}.sse").read_bytes()


def read(stream: bytes, cuts: Iterable[int] = ()) -> list[Event]:
    """The events of a stream that comes in pieces, its end included."""
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    splitter, reader = sse.Splitter(1 << 20), StreamReader()
    events: list[Event] = []
    for start, end in pairwise(places):
        for event in sse.events(splitter.feed(stream[start:end])):
            events += reader.read(event)
    for event in sse.events(splitter.rest()):
        events += reader.read(event)
    return events + reader.finish()


def write(events: Iterable[Event]) -> bytes:
    """The stream that a client gets of events."""
    writer = StreamWriter(ECHO)
    return b"".join(writer.write(event) for event in events)


def told(kind: str, **fields: Any) -> sse.SseEvent:
    """One event of a stream."""
    return sse.SseEvent(kind.encode(), json.dumps({"type": kind, **fields}).encode())


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
def test_reads_streams(name: str) -> None:
    """A provider's stream means what it says, whole or byte by byte."""
    stream = golden(name)
    assert meaning(read(stream)) == STREAMS[name]
    assert meaning(read(stream, range(len(stream)))) == STREAMS[name]


@given(st.sampled_from(sorted(STREAMS)), st.lists(st.integers(0, 10_000), max_size=20))
def test_any_split_gives_the_same_events(name: str, cuts: list[int]) -> None:
    """Where a stream is cut on its way changes nothing."""
    stream = golden(name)
    assert read(stream, cuts) == read(stream)


@pytest.mark.parametrize(("name", "expected"), [("tools", TOOLS), ("redacted", REDACTED)])
def test_reads_whole_replies(name: str, expected: Reply) -> None:
    """A whole reply means what its stream means."""
    assert meaning(reply_events((GOLDEN / f"{name}.reply.json").read_bytes())) == expected


def test_usage_is_one_growing_report() -> None:
    """The last report of a stream leaves out the input that the first one told; together they are the usage."""
    reports = [event.usage for event in read(golden("tools")) if isinstance(event, Usage)]
    assert [report.output_tokens for report in reports] == [1, 103]
    assert {report.input_tokens for report in reports} == {2260}


def test_reads_arguments_that_come_whole() -> None:
    """Arguments at the beginning of a call count when no pieces follow, and only then."""
    reader = StreamReader()
    block = {"type": "tool_use", "id": "c", "name": "n", "input": {"a": 1}}
    events = reader.read(told("content_block_start", index=0, content_block=block))
    events += reader.read(told("content_block_stop", index=0))
    events += reader.read(told("content_block_start", index=1, content_block=block))
    piece = {"type": "input_json_delta", "partial_json": '{"b":2}'}
    events += reader.read(told("content_block_delta", index=1, delta=piece))
    events += reader.read(told("content_block_stop", index=1))
    assert [part.text for part in meaning(events).parts] == ['{"a": 1}', '{"b": 2}']


def test_a_stream_that_breaks_off_is_not_whole() -> None:
    """Without the last marker there is no end, whatever had been said; open blocks are closed."""
    stream = golden("tools")
    reply = meaning(read(stream[: stream.index(b"event: message_stop")]))
    assert not reply.whole
    assert reply.stop is StopReason.TOOL_USE
    half = read(stream[: stream.rindex(b"event:", 0, stream.index(b" up both"))])
    assert half[-1] == BlockEnd(1)
    assert not meaning(half).whole


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (told("ping"), [Ping()]),
        (told("some_new_event", data=1), []),
        (told("content_block_delta", index=0, delta={"type": "new_delta"}), [Dropped("new_delta")]),
        (told("content_block_start", index=0, content_block={"type": "new_block"}), [Dropped("new_block")]),
        (told("content_block_delta", index=0, delta={"type": "text_delta", "text": ""}), []),
        (sse.SseEvent(b"error", b"Bad gateway"), [Failed("", "", "")]),
        (told("error", error={"type": "api_error", "message": "m"}), [Failed("api_error", "", "m")]),
        (
            told("error", error={"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}),
            [Failed("invalid_request_error", "context_length_exceeded", "prompt is too long: 9 > 8")],
        ),
    ],
)
def test_reads_single_events(event: sse.SseEvent, expected: list[Event]) -> None:
    """Events that carry nothing are passed over, lost content is named, errors are errors in any shape."""
    assert StreamReader().read(event) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"<html>",
        b'{"content": 5}',
        b"[" * 100_000,
        b'{"content": [{"type": "text", "text": "\xff"}]}',
    ],
)
def test_refuses_what_is_no_reply(body: bytes) -> None:
    """A body that is no message is refused."""
    with pytest.raises(WireError):
        reply_events(body)


def test_reads_an_error_under_a_200() -> None:
    """An error in the place of a reply is an error."""
    body = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    assert reply_events(body) == [Failed("overloaded_error", "", "Overloaded")]


# --- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tools", "redacted", "search"])
def test_a_stream_means_the_same_when_written_again(name: str) -> None:
    """What is written of a stream's events is a stream with the same meaning, and one that the SDK finds right."""
    written = write(read(golden(name)))
    judged_stream(written)
    reply = meaning(read(written))
    reply.dropped = STREAMS[name].dropped
    assert reply == STREAMS[name]


@pytest.mark.parametrize("name", ["tools", "redacted", "search"])
def test_a_reply_means_the_same_when_written_again(name: str) -> None:
    """The same holds for a whole reply."""
    written = write_reply(read(golden(name)), ECHO)
    judged_reply(written)
    reply = meaning(reply_events(written))
    reply.dropped = STREAMS[name].dropped
    assert reply == STREAMS[name]


def test_writes_the_exact_order_of_events() -> None:
    """The stream of a reply from another dialect, event by event; its usage is known at the end only."""
    stream = write(
        [
            Start("chatcmpl-1", "gpt-5"),
            ThinkingDelta(0, "Hm"),
            BlockEnd(0),
            TextDelta(1, "Hi"),
            Ping(),
            TextDelta(1, " you"),
            BlockEnd(1),
            ToolCallStart(2, "call_1", "note"),
            ToolCallDelta(2, '{"a"'),
            ToolCallDelta(2, ":1}"),
            BlockEnd(2),
            Stop(StopReason.TOOL_USE),
            Usage(TokenUsage(input_tokens=30, cache_read_tokens=20, output_tokens=7, reasoning_tokens=3)),
            End(),
        ]
    )
    events = [(event.name.decode(), json.loads(event.data)) for event in sse.events(stream)]
    assert [name for name, _ in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "ping",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    first = events[0][1]["message"]
    assert first["usage"] == {
        "input_tokens": 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 0,
    }
    assert (first["id"], first["model"], first["content"]) == ("msg_chatcmpl-1", "gpt-5", [])
    assert events[1][1]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}
    assert events[3][1]["delta"] == {"type": "signature_delta", "signature": ""}
    assert events[10][1]["content_block"] == {"type": "tool_use", "id": "call_1", "name": "note", "input": {}}
    assert events[11][1]["delta"] == {"type": "input_json_delta", "partial_json": '{"a"'}
    assert events[14][1] == {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 20,
            "output_tokens": 7,
            "output_tokens_details": {"thinking_tokens": 3},
        },
    }
    message = judged_stream(stream)
    thought, text, call = message.content
    assert isinstance(thought, ThinkingBlock)
    assert isinstance(text, TextBlock)
    assert text.text == "Hi you"
    assert isinstance(call, ToolUseBlock)
    assert call.input == {"a": 1}
    assert message.usage.input_tokens == 10
    assert message.usage.cache_read_input_tokens == 20


def test_the_sdk_streams_it() -> None:
    """The SDK's own client, which reads the bytes themselves, ends with the message that was meant."""
    stream = write(read(golden("tools")))

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)

    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as http,
        anthropic.Anthropic(api_key="sk-not-a-key", base_url="http://127.0.0.1", http_client=http) as client,
        client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as events,
    ):
        message = events.get_final_message()
    thought, text, weather, _ = message.content
    assert isinstance(thought, ThinkingBlock)
    assert thought.signature == "EqMBCkYIBBgCKkDa8xAg"
    assert isinstance(text, TextBlock)
    assert text.text == "I'll look up both."
    assert isinstance(weather, ToolUseBlock)
    assert weather.input == {"location": "Paris", "days": [1, 2]}
    assert message.usage.cache_read_input_tokens == 2051
    assert message.usage.output_tokens == 103


def test_the_beginning_tells_the_usage_that_came_with_it() -> None:
    """Input tokens that are known at the start stand in the first event."""
    writer = StreamWriter(ECHO)
    assert writer.write(START) == b""
    assert writer.write(Usage(TokenUsage(input_tokens=12, cache_write_tokens=4))) == b""
    (first, *_) = sse.events(writer.write(TextDelta(0, "x")))
    usage = json.loads(first.data)["message"]["usage"]
    assert usage["input_tokens"] == 8
    assert usage["cache_creation"] == {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 0}


def test_a_sign_of_life_before_the_beginning_begins_nothing() -> None:
    """A ping can come before anything is known of the reply; the beginning is told when it has come."""
    writer = StreamWriter(ECHO)
    first = writer.write(Ping())
    assert [event.name for event in sse.events(first)] == [b"ping"]
    writer.write(START)
    names = [event.name for event in sse.events(writer.write(Ping()) + writer.write(TextDelta(0, "x")))]
    assert names == [b"message_start", b"ping", b"content_block_start", b"content_block_delta"]


def test_never_two_blocks_open_at_once() -> None:
    """What comes of a block while another one is open waits, in order, and nothing of it is lost."""
    events: list[Event] = [
        START,
        ToolCallStart(0, "a", "one"),
        ToolCallStart(1, "b", "two"),
        ToolCallDelta(0, '{"x":'),
        ToolCallDelta(1, '{"y":'),
        TextDelta(2, "and"),
        ToolCallDelta(1, "2}"),
        ToolCallDelta(0, "1}"),
        BlockEnd(1),
        BlockEnd(0),
        TextDelta(2, " more"),
        BlockEnd(2),
        *ENDING,
    ]
    one, two, text = judged_stream(write(events)).content
    assert isinstance(one, ToolUseBlock)
    assert isinstance(two, ToolUseBlock)
    assert isinstance(text, TextBlock)
    assert (one.input, two.input, text.text) == ({"x": 1}, {"y": 2}, "and more")


def test_blocks_without_an_end_are_closed_at_the_end() -> None:
    """A stream is well-formed even when the blocks of the reply were never ended."""
    events: list[Event] = [START, TextDelta(0, "a"), TextDelta(1, "b"), ToolCallStart(2, "", "n"), *ENDING]
    message = judged_stream(write(events))
    assert [block.type for block in message.content] == ["text", "text", "tool_use"]
    assert message.stop_reason == "tool_use"
    call = message.content[2]
    assert isinstance(call, ToolUseBlock)
    assert call.id == "toolu_msg_1_2"


def test_what_others_sealed_is_kept_for_them() -> None:
    """Encrypted reasoning is lent the place of a signature and comes back as itself; summaries keep their parts."""
    events: list[Event] = [
        START,
        ThinkingSealed(0, encrypted="gAAA", id="rs_1"),
        BlockEnd(0),
        ThinkingDelta(1, "First.", part=0, summary=True),
        ThinkingDelta(1, "Second.", part=1, summary=True),
        ThinkingSealed(1, encrypted="gBBB", id="rs_2"),
        BlockEnd(1),
        *ENDING,
    ]
    for message in (judged_stream(write(events)), judged_reply(write_reply(events, ECHO))):
        first, second = message.content
        assert isinstance(second, ThinkingBlock)
        assert second.thinking == "First.\n\nSecond."
        history = {"role": "assistant", "content": [first.model_dump(), second.model_dump()]}
        (turn,) = read_request(json.dumps({"model": "m", "messages": [history]}).encode()).turns
        assert turn.blocks == (
            Thinking(encrypted="gAAA"),
            Thinking(encrypted="gBBB", summary=("First.\n\nSecond.",)),
        )


def test_thoughts_without_a_seal_have_an_empty_one() -> None:
    """Thoughts of models that seal nothing get an empty signature, which comes back as none."""
    events: list[Event] = [START, ThinkingDelta(0, "Hm"), BlockEnd(0), *ENDING]
    for message in (judged_stream(write(events)), judged_reply(write_reply(events, ECHO))):
        (thought,) = message.content
        assert isinstance(thought, ThinkingBlock)
        assert (thought.thinking, thought.signature) == ("Hm", "")
        history = {"role": "assistant", "content": [thought.model_dump()]}
        (turn,) = read_request(json.dumps({"model": "m", "messages": [history]}).encode()).turns
        assert turn.blocks == (Thinking("Hm"),)


def test_custom_tools_take_their_text_as_input() -> None:
    """Free text that comes for a tool is the one parameter input of a call here."""
    pieces = [ToolCallDelta(0, letter) for letter in 'a"\n\u00e9']
    events: list[Event] = [START, ToolCallStart(0, "c", "patch", custom=True), *pieces, BlockEnd(0), *ENDING]
    for message in (judged_stream(write(events)), judged_reply(write_reply(events, ECHO))):
        (call,) = message.content
        assert isinstance(call, ToolUseBlock)
        assert call.input == {"input": 'a"\n\u00e9'}


def test_arguments_cut_short_are_told_as_they_are() -> None:
    """A whole reply cannot hold half an object, so it tells the text by a name that says so."""
    events: list[Event] = [
        START,
        ToolCallStart(0, "c", "n"),
        ToolCallDelta(0, '{"a": "b'),
        BlockEnd(0),
        Stop(StopReason.MAX_TOKENS),
    ]
    (call,) = judged_reply(write_reply([*events, End()], ECHO)).content
    assert isinstance(call, ToolUseBlock)
    assert call.input == {"INVALID_JSON": '{"a": "b'}


@pytest.mark.parametrize("reason", StopReason)
def test_every_reason_has_a_word(reason: StopReason) -> None:
    """Each reason is one that the SDK knows, in streams and in whole replies."""
    events: list[Event] = [START, RefusalDelta(0, "No."), BlockEnd(0), Stop(reason, "x"), End()]
    assert judged_stream(write(events)).stop_reason == judged_reply(write_reply(events, ECHO)).stop_reason


def test_calls_and_refusals_are_always_announced() -> None:
    """A provider that says "end" after a call or a refusal, or "call" without one, does not mislead an agent."""
    call: list[Event] = [START, ToolCallStart(0, "c", "n"), BlockEnd(0), Stop(StopReason.END), End()]
    text: list[Event] = [START, TextDelta(0, "x"), BlockEnd(0), Stop(StopReason.TOOL_USE), End()]
    cut: list[Event] = [START, ToolCallStart(0, "c", "n"), BlockEnd(0), Stop(StopReason.MAX_TOKENS), End()]
    no: list[Event] = [START, RefusalDelta(0, "No."), BlockEnd(0), Stop(StopReason.END), End()]
    words = ["tool_use", "end_turn", "max_tokens", "refusal"]
    assert [judged_stream(write(events)).stop_reason for events in (call, text, cut, no)] == words
    assert [judged_reply(write_reply(events, ECHO)).stop_reason for events in (call, text, cut, no)] == words


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (Failed("overloaded_error", "", "Overloaded"), "overloaded_error", "Overloaded"),
        (Failed("server_error", "", "Oops"), "api_error", "Oops"),
        (Failed("", "server_is_overloaded", "Busy"), "overloaded_error", "Busy"),
        (Failed("tokens", "rate_limit_exceeded", "Slow"), "rate_limit_error", "Slow"),
        (Failed("what", "ever", "?"), "api_error", "?"),
        (
            Failed("invalid_request_error", "context_length_exceeded", "8193 tokens"),
            "invalid_request_error",
            "prompt is too long: 8193 tokens",
        ),
    ],
)
def test_an_error_ends_the_stream(failure: Failed, kind: str, message: str) -> None:
    """After an error comes nothing, above all no marker of success; its type is one of this dialect."""
    stream = write([START, TextDelta(0, "Half"), failure, TextDelta(0, "more"), *ENDING])
    last = list(sse.events(stream))[-1]
    assert last.name == b"error"
    assert json.loads(last.data) == {"type": "error", "error": {"type": kind, "message": message}}
    assert b"message_stop" not in stream
    assert b"more" not in stream
    assert json.loads(write_reply([START, failure], ECHO))["error"]["type"] == kind


def test_what_waits_is_bounded() -> None:
    """A reply that mixes its blocks without end is given up before it fills the memory."""
    writer = StreamWriter(ECHO)
    writer.write(TextDelta(0, "x"))
    with pytest.raises(WireError):
        for _ in range(17):
            writer.write(TextDelta(1, "y" * 1024 * 1024))


def test_an_sdk_block_of_a_provider_tool_is_never_written() -> None:
    """Blocks that the provider's own tools made are left out as a whole."""
    content = judged_stream(write(read(golden("search")))).content
    assert not any(isinstance(block, ServerToolUseBlock) for block in content)
    assert len(content) == 2
