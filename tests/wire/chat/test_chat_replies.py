"""Chat Completions replies and streams: read into events, written from them, and judged by OpenAI's own types."""

from __future__ import annotations

import contextlib
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from eggpool.domain import Usage as TokenUsage
from eggpool.errors import WireError
from eggpool.wire import chat, sse
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
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from eggpool.wire.prompt import Echo, Tool

GOLDEN = Path(__file__).parents[2] / "golden" / "chat"
CUTS = st.lists(st.integers(0, 10_000), max_size=20)

TEXT = 'Grüße, \U0001f95a!\n"quoted" \\ '
TEXT_USAGE = TokenUsage(input_tokens=1204, cache_read_tokens=1024, output_tokens=87, reasoning_tokens=40)
TOOLS_USAGE = TokenUsage(input_tokens=300, cache_read_tokens=256, output_tokens=60)


def read(stream: bytes, cuts: list[int] | None = None) -> list[Event]:
    """The events of a stream that comes in pieces, its end included."""
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts or [])})
    splitter, reader = sse.Splitter(1 << 20), chat.StreamReader()
    events: list[Event] = []
    for start, end in pairwise(places):
        for event in sse.events(splitter.feed(stream[start:end])):
            events += reader.read(event)
    for event in sse.events(splitter.rest()):
        events += reader.read(event)
    return events + reader.finish()


def joined(events: list[Event]) -> list[Event]:
    """The same events, with neighbouring deltas of one block as one."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, TextDelta | ThinkingDelta | RefusalDelta | ToolCallDelta) and type(last) is type(event):
            assert isinstance(last, TextDelta | ThinkingDelta | RefusalDelta | ToolCallDelta)
            if last.block == event.block:
                found[-1] = msgspec.structs.replace(last, text=last.text + event.text)
                continue
        found.append(event)
    return found


def chunks_of(stream: bytes) -> list[ChatCompletionChunk]:
    """A stream as OpenAI's own types read it, its end marker included."""
    data = [event.data for event in sse.events(stream)]
    assert data[-1] == b"[DONE]"
    return [ChatCompletionChunk.model_validate_json(one, strict=False) for one in data[:-1]]


def written(events: list[Event], echo: Echo | None = None) -> bytes:
    """A stream from its events."""
    writer = chat.StreamWriter(echo or Echo(include_usage=True))
    return b"".join(map(writer.write, events))


EXPECTED: dict[str, list[Event]] = {
    "text.sse": [
        Start("chatcmpl-CK1vT9", "gpt-6-luna", 1795600000),
        TextDelta(0, TEXT),
        BlockEnd(0),
        Stop(StopReason.END),
        Usage(TEXT_USAGE),
        End(),
    ],
    "thinking_tools.sse": [
        Start("chatcmpl-CK1vT9", "glm-5.3", 1795600000),
        ThinkingDelta(0, "Two files to read."),
        BlockEnd(0),
        TextDelta(1, "Reading both."),
        BlockEnd(1),
        ToolCallStart(2, "call_a1", "read_file"),
        ToolCallDelta(2, '{"path": "a.py"}'),
        BlockEnd(2),
        ToolCallStart(3, "call_b2", "read_file"),
        ToolCallDelta(3, '{"path": "b.py"}'),
        BlockEnd(3),
        Stop(StopReason.TOOL_USE),
        Usage(TOOLS_USAGE),
        End(),
    ],
    "refusal.sse": [
        Start("chatcmpl-CK1vT9", "gpt-6-luna", 1795600000),
        RefusalDelta(0, "I can't help with that."),
        BlockEnd(0),
        Stop(StopReason.END),
        End(),
    ],
    "error.sse": [
        Start("chatcmpl-CK1vT9", "gpt-6-luna", 1795600000),
        TextDelta(0, "Half an ans"),
        Failed("server_error", "server_is_overloaded", "Upstream is overloaded"),
    ],
    "cut.sse": [Start("chatcmpl-CK1vT9", "gpt-6-luna", 1795600000), TextDelta(0, "Half an ans")],
}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_golden_streams(name: str) -> None:
    """A transcript means what was written down beside it, whole and byte by byte."""
    stream = (GOLDEN / name).read_bytes()
    assert joined(read(stream)) == EXPECTED[name]
    assert read(stream, list(range(len(stream)))) == read(stream)


@given(st.sampled_from(sorted(EXPECTED)), CUTS)
def test_any_split_gives_the_same_events(name: str, cuts: list[int]) -> None:
    """What a stream means does not depend on how it was cut."""
    stream = (GOLDEN / name).read_bytes()
    assert read(stream, cuts) == read(stream)


@pytest.mark.parametrize("name", ["text", "thinking_tools"])
def test_a_whole_reply_means_the_same_as_its_stream(name: str) -> None:
    """The plain form of a reply has the same events, but for the order of what ends it."""
    whole = chat.reply_events((GOLDEN / f"{name}.json").read_bytes())
    assert joined(whole) == EXPECTED[f"{name}.sse"]


@pytest.mark.parametrize("name", ["text.sse", "thinking_tools.sse", "refusal.sse"])
def test_what_is_written_is_read_as_the_same(name: str) -> None:
    """Writing a stream from its events and reading it again gives the same events."""
    stream = written(EXPECTED[name])
    assert joined(read(stream)) == EXPECTED[name] if "refusal" not in name else read(stream)[-1] == End()


@pytest.mark.parametrize("name", ["text.sse", "thinking_tools.sse", "refusal.sse"])
def test_a_whole_reply_written_is_read_as_the_same(name: str) -> None:
    """Writing a plain reply from its events and reading it again gives the same events."""
    body = chat.write_reply(EXPECTED[name], Echo())
    ChatCompletion.model_validate_json(body)
    assert joined(chat.reply_events(body)) == EXPECTED[name]


def test_a_written_stream_is_one_for_the_sdk() -> None:
    """OpenAI's types read each chunk: role first, calls by place, finish, usage when asked for, then the marker."""
    chunks = chunks_of(written(EXPECTED["thinking_tools.sse"]))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {chunk.id for chunk in chunks} == {"chatcmpl-CK1vT9"}
    calls = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or []]
    assert [(call.index, call.id) for call in calls if call.id] == [(0, "call_a1"), (1, "call_b2")]
    arguments = ["".join(c.function.arguments or "" for c in calls if c.index == n and c.function) for n in (0, 1)]
    assert arguments == ['{"path": "a.py"}', '{"path": "b.py"}']
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "tool_calls"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.total_tokens) == (300, 360)


def test_usage_comes_only_when_asked_for() -> None:
    """A client that did not ask for usage gets no chunk without a choice."""
    chunks = chunks_of(written(EXPECTED["text.sse"], Echo()))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_a_failed_stream_has_no_end() -> None:
    """An error is told in-band, and no finish and no end marker follow it."""
    stream = written(EXPECTED["error.sse"])
    assert b"Upstream is overloaded" in stream
    assert b"[DONE]" not in stream
    assert b'"finish_reason":"' not in stream


def test_ids_and_times_that_nobody_told() -> None:
    """Where the provider tells no time and no id of a call, the reply has ones of its own."""
    events: list[Event] = [
        Start("msg_01", "claude-fable-5"),
        ToolCallStart(0, "", "read_file"),
        BlockEnd(0),
        Stop(StopReason.TOOL_USE),
        End(),
    ]
    reply = ChatCompletion.model_validate_json(chat.write_reply(events, Echo(now_s=1795600001)))
    assert (reply.id, reply.created) == ("chatcmpl-msg_01", 1795600001)
    calls = reply.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].id == "call_msg_01_0"
    chunks = chunks_of(written(events, Echo(now_s=1795600001)))
    assert {chunk.created for chunk in chunks} == {1795600001}


def test_custom_tools_come_back_as_they_were_called() -> None:
    """A custom tool that stood as a function at the provider is a custom tool again for the client, in any pieces."""
    echo = Echo(tools={"patch": Tool("patch", custom=True)})
    pieces = ['{"in', 'put": "*** Begin\\', "nPatch \\u00", 'e9"}']
    events: list[Event] = [Start("x", "m"), ToolCallStart(0, "call_1", "patch")]
    events += [ToolCallDelta(0, piece) for piece in pieces]
    events += [BlockEnd(0), Stop(StopReason.TOOL_USE), End()]
    stream = written(events, echo)
    found = [
        call["custom"].get("input", "")
        for event in sse.events(stream)
        if event.data != b"[DONE]"
        for choice in msgspec.json.decode(event.data)["choices"]
        for call in choice["delta"].get("tool_calls", [])
    ]
    assert "".join(found) == "*** Begin\nPatch é"
    reply = msgspec.json.decode(chat.write_reply(events, echo))
    assert reply["choices"][0]["message"]["tool_calls"][0]["custom"] == {
        "name": "patch",
        "input": "*** Begin\nPatch é",
    }


@pytest.mark.parametrize(
    ("deltas", "calls"),
    [
        pytest.param(
            [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}] * 2,
            [("a", "f", "{}{}")],
            id="the same id again is the same call",
        ),
        pytest.param(
            [
                {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}},
                {"index": 0, "id": "b", "function": {"name": "g", "arguments": "{}"}},
            ],
            [("a", "f", "{}"), ("b", "g", "{}")],
            id="another id at the same place is another call",
        ),
        pytest.param(
            [
                {"id": "a", "function": {"name": "f", "arguments": "{"}},
                {"function": {"arguments": "}"}},
                {"id": "b", "function": {"name": "g", "arguments": {"x": 1}}},
            ],
            [("a", "f", "{}"), ("b", "g", '{"x":1}')],
            id="no places at all, and arguments that are no text",
        ),
    ],
)
def test_tool_calls_as_providers_send_them(deltas: list[dict[str, object]], calls: list[tuple[str, str, str]]) -> None:
    """Calls are told apart by place and id, whichever a provider sends."""
    stream = b"".join(
        sse.encode(msgspec.json.encode({"choices": [{"index": 0, "delta": {"tool_calls": [delta]}}]}))
        for delta in deltas
    )
    events = read(stream + b"data: [DONE]\n\n")
    found: list[tuple[str, str, str]] = []
    for event in events:
        if isinstance(event, ToolCallStart):
            found.append((event.id, event.name, ""))
        elif isinstance(event, ToolCallDelta):
            found[-1] = (*found[-1][:2], found[-1][2] + event.text)
    assert found == calls
    assert Stop(StopReason.TOOL_USE) in events


def test_mixed_up_pieces_are_no_reply() -> None:
    """A piece of a call that was whole already is a fault of the provider, never dropped or put elsewhere."""
    places = (0, 1, 0)
    stream = b"".join(
        sse.encode(
            msgspec.json.encode(
                {
                    "choices": [
                        {"delta": {"tool_calls": [{"index": place, "function": {"name": "f", "arguments": "{"}}]}}
                    ]
                }
            )
        )
        for place in places
    )
    with pytest.raises(WireError):
        read(stream)


@pytest.mark.parametrize("reason", ["error", "network_error", "insufficient_system_resource"])
def test_a_reason_that_says_broken_is_a_failure(reason: str) -> None:
    """Some providers tell a broken answer by its reason only."""
    stream = sse.encode(msgspec.json.encode({"choices": [{"delta": {"content": "x"}, "finish_reason": reason}]}))
    assert isinstance(read(stream + b"data: [DONE]\n\n")[2], Failed)


def test_other_shapes() -> None:
    """Thoughts in parts (Mistral), under another name (OpenRouter), citations that nobody can carry, signs of life."""
    body = {
        "choices": [
            {
                "message": {
                    "content": [
                        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                        {"type": "text", "text": "Yes."},
                    ],
                    "annotations": [{"type": "url_citation"}],
                },
                "finish_reason": "stop",
            }
        ]
    }
    events = chat.reply_events(msgspec.json.encode(body))
    assert [event for event in events if not isinstance(event, BlockEnd)][1:4] == [
        ThinkingDelta(0, "Hm."),
        TextDelta(1, "Yes."),
        Dropped("annotations"),
    ]
    stream = sse.encode(msgspec.json.encode({"choices": [{"delta": {"reasoning": "Hm."}}]}))
    assert ThinkingDelta(0, "Hm.") in read(stream)
    assert chat.StreamWriter(Echo()).write(Ping()).startswith(b":")


def test_logprobs_cross() -> None:
    """What a client asked to know about its words reaches it, in a stream and in a plain reply."""
    told = b'[{"token":"Hi","logprob":-0.1,"bytes":[72,105],"top_logprobs":[]}]'
    events: list[Event] = [Start("x", "m"), TextDelta(0, "Hi", told), BlockEnd(0), Stop(StopReason.END), End()]
    chunk = chunks_of(written(events))[1]
    assert chunk.choices[0].logprobs is not None
    assert chunk.choices[0].logprobs.content is not None
    assert chunk.choices[0].logprobs.content[0].token == "Hi"
    reply = ChatCompletion.model_validate_json(chat.write_reply(events, Echo()))
    assert reply.choices[0].logprobs is not None


@given(st.binary(max_size=80) | st.sampled_from(sorted(EXPECTED)).map(lambda name: (GOLDEN / name).read_bytes()), CUTS)
def test_nothing_but_a_wire_error(stream: bytes, cuts: list[int]) -> None:
    """Whatever comes, cut and mixed in any way, reading gives events or one kind of error."""
    pieces = sorted({cut % (len(stream) + 1) for cut in cuts})
    shuffled = b"".join(stream[place : place + 40] for place in reversed(pieces))
    for one in (stream, shuffled):
        try:
            read(one)
            chat.reply_events(one)
        except WireError:
            continue


NAMES = ("choices", "delta", "message", "content", "tool_calls", "function", "usage", "index", "error")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "message", "content", "tool_calls", "function", "usage", "index", "error"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_nothing_but_a_wire_error_for_any_json(value: object) -> None:
    """Known names with values of any type give events or one kind of error."""
    body = msgspec.json.encode(value)
    with contextlib.suppress(WireError):
        chat.reply_events(body)
    with contextlib.suppress(WireError):
        chat.StreamReader().read(sse.SseEvent(b"", body))
