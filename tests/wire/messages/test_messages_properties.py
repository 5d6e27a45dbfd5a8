"""What holds for all prompts, replies and bytes that the Messages codec may meet."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from tests.wire.meaning import meaning
from tests.wire.messages.judge import GOLDEN, judged_reply, judged_request, judged_stream, raw_of

from eggpool.domain import Usage as TokenUsage
from eggpool.errors import WireError
from eggpool.wire import sse
from eggpool.wire.events import (
    BlockEnd,
    End,
    Event,
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
from eggpool.wire.messages import StreamReader, StreamWriter, read_request, reply_events, write_reply, write_request
from eggpool.wire.notes import usage_of
from eggpool.wire.prompt import (
    CacheMark,
    Document,
    Echo,
    Effort,
    Format,
    Image,
    Prompt,
    Reasoning,
    Sampling,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)

# What JSON can carry; half a surrogate pair is none of it.
LETTERS = st.characters(exclude_categories=["Cs"])
WORDS = st.text(LETTERS, min_size=1, max_size=12).map(lambda text: text + ".")
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)
MARKS = st.none() | st.builds(CacheMark, st.sampled_from([None, "5m", "1h"]))
OBJECTS = st.dictionaries(WORDS, st.integers(0, 9) | WORDS | st.none() | st.lists(WORDS, max_size=2), max_size=3)
TEXTS = st.builds(Text, WORDS, MARKS)
IMAGES = st.builds(Image, url=WORDS, cache=MARKS) | st.builds(
    Image, data=st.just("AAAA"), media_type=st.sampled_from(["image/png", "image/webp"]), cache=MARKS
)
DOCUMENTS = (
    st.builds(Document, url=WORDS, name=st.none() | WORDS, cache=MARKS)
    | st.builds(Document, text=WORDS, media_type=st.just("text/plain"), name=st.none() | WORDS)
    | st.builds(Document, data=st.just("JVBERi0="), media_type=st.just("application/pdf"))
)
RESULTS = st.builds(
    ToolResult,
    NAMES,
    st.lists(TEXTS | IMAGES | DOCUMENTS, max_size=3).map(tuple),
    failed=st.none() | st.booleans(),
    cache=MARKS,
)
CALLS = st.builds(ToolCall, NAMES, NAMES, OBJECTS.map(lambda value: msgspec.json.encode(value).decode()), cache=MARKS)
THOUGHTS = st.builds(Thinking, st.just("") | WORDS, signature=WORDS) | st.builds(Thinking, redacted=WORDS)
USER_TURNS = st.builds(
    lambda results, others: Turn("user", (*results, *others)),
    st.lists(RESULTS, max_size=2),
    st.lists(TEXTS | IMAGES | DOCUMENTS, min_size=1, max_size=3),
)
ASSISTANT_TURNS = st.lists(TEXTS | CALLS | THOUGHTS, min_size=1, max_size=4).map(
    lambda blocks: Turn("assistant", tuple(blocks))
)
TURNS = st.lists(st.tuples(USER_TURNS, ASSISTANT_TURNS), min_size=1, max_size=3).map(
    lambda pairs: tuple(turn for pair in pairs for turn in pair)
)
TOOLS = st.builds(
    Tool,
    NAMES,
    description=st.none() | WORDS,
    parameters=OBJECTS.map(lambda properties: raw_of({"type": "object", "properties": properties})),
    strict=st.none() | st.booleans(),
    cache=MARKS,
)
REASONINGS = (
    st.none()
    | st.just(Reasoning(enabled=False))
    | st.builds(Reasoning, budget_tokens=st.integers(1024, 9999))
    | st.builds(
        Reasoning,
        effort=st.none() | st.sampled_from([Effort.LOW, Effort.MEDIUM, Effort.HIGH, Effort.XHIGH]),
        adaptive=st.just(True),
        summary=st.sampled_from([None, "auto"]),
    )
)
PROMPTS = st.builds(
    Prompt,
    model=WORDS,
    turns=TURNS,
    instructions=st.lists(TEXTS, max_size=2).map(tuple),
    stream=st.booleans(),
    tools=st.lists(TOOLS, min_size=1, max_size=2).map(tuple),
    tool_choice=st.sampled_from([None, ToolChoice("auto"), ToolChoice("none")]),
    max_output_tokens=st.integers(10_000, 10**6),
    sampling=st.builds(Sampling, stop=st.lists(WORDS, max_size=2).map(tuple)),
    reasoning=REASONINGS,
    format=st.none() | OBJECTS.map(lambda schema: Format(raw_of(schema), strict=True)),
    user=st.none() | WORDS,
)


@given(PROMPTS)
def test_a_prompt_written_and_read_is_the_same(prompt: Prompt) -> None:
    """What this dialect has words for comes back as it was, and the SDK's types know all of it."""
    written = write_request(prompt)
    assert written.lost == ()
    judged_request(written.body)
    assert read_request(written.body) == _as_said(prompt)


def _as_said(prompt: Prompt) -> Prompt:
    """The one thing that is written otherwise: a model going on with an answer cannot start from blanks."""
    last = prompt.turns[-1]
    if not isinstance(last.blocks[-1], Text):
        return prompt
    assert last.blocks[-1].text == last.blocks[-1].text.rstrip(), "the words that are made here end in a full stop"
    return prompt


USAGES = st.builds(
    lambda numbers: usage_of(
        input_tokens=numbers[0],
        output_tokens=numbers[1],
        cache_read=numbers[2],
        cache_write=numbers[3],
        cache_write_1h=numbers[4],
        reasoning=numbers[5],
    ),
    st.lists(st.integers(0, 10**6), min_size=6, max_size=6),
)


@st.composite
def replies(draw: st.DrawFn, *, mixed: bool = False) -> list[Event]:
    """The events of a reply; `mixed`: the pieces of its blocks come in any order."""
    blocks: list[list[Event]] = []
    called = False
    for number in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["text", "thinking", "redacted", "call"]))
        pieces = draw(st.lists(WORDS, min_size=1, max_size=3))
        block: list[Event] = []
        match kind:
            case "text":
                block += [TextDelta(number, piece) for piece in pieces]
            case "thinking":
                block += [ThinkingDelta(number, piece) for piece in pieces]
                block.append(ThinkingSealed(number, signature=draw(WORDS)))
            case "redacted":
                block.append(ThinkingSealed(number, redacted=draw(WORDS)))
            case "call":
                called = True
                block.append(ToolCallStart(number, draw(NAMES), draw(NAMES)))
                arguments = json.dumps(draw(OBJECTS))
                cut = draw(st.integers(0, len(arguments)))
                block += [ToolCallDelta(number, piece) for piece in (arguments[:cut], arguments[cut:]) if piece]
        blocks.append([*block, BlockEnd(number)])
    events: list[Event] = [Start("msg_" + draw(NAMES), draw(NAMES))]
    usage = Usage(draw(USAGES))
    if draw(st.booleans()):
        events.append(usage)
    if mixed:
        # Blocks begin in the order of their numbers.
        firsts = [block.pop(0) for block in blocks]
        order = [number for number, block in enumerate(blocks) for _ in block]
        events += firsts
        events += [blocks[number].pop(0) for number in draw(st.permutations(order))]
    else:
        events += [event for block in blocks for event in block]
    reason = StopReason.TOOL_USE if called else draw(st.sampled_from([StopReason.END, StopReason.MAX_TOKENS]))
    return [*events, Stop(reason), usage, End()]


def _stream(events: list[Event]) -> bytes:
    writer = StreamWriter(Echo())
    return b"".join(writer.write(event) for event in events)


def _read(stream: bytes) -> list[Event]:
    reader = StreamReader()
    return [found for event in sse.events(stream) for found in reader.read(event)]


@given(replies() | replies(mixed=True))
def test_a_stream_written_and_read_is_the_same(events: list[Event]) -> None:
    """A reply survives its stream, also when its blocks come mixed; the SDK puts it together without complaint."""
    stream = _stream(events)
    judged_stream(stream)
    found, expected = meaning(_read(stream)), meaning(events)
    assert found.usage is not None
    assert expected.usage is not None
    if not isinstance(events[1], Usage) and not found.usage.cache_write_1h_tokens:
        # A stream has words for how long something is cached in its first event only.
        expected.usage = msgspec.structs.replace(expected.usage, cache_write_1h_tokens=0)
    assert found == expected


@given(replies() | replies(mixed=True))
def test_a_reply_written_and_read_is_the_same(events: list[Event]) -> None:
    """A whole reply holds everything that its events told."""
    body = write_reply(events, Echo())
    judged_reply(body)
    assert meaning(reply_events(body)) == meaning(events)


def test_usage_that_contradicts_itself_is_never_negative() -> None:
    """A provider that counts more cached tokens than tokens gives no negative number."""
    odd = TokenUsage(input_tokens=5, cache_read_tokens=9, output_tokens=1)
    events: list[Event] = [Start("msg_1", "m"), Usage(odd), Stop(StopReason.END), End()]
    assert judged_reply(write_reply(events, Echo())).usage.input_tokens == 0
    assert judged_stream(_stream(events)).usage.input_tokens == 0


# --- bytes that nobody would send -----------------------------------------------------------------------------------

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(
        [
            "text", "image", "document", "thinking", "redacted_thinking", "tool_use", "tool_result", "server_tool_use",
            "search_result", "base64", "url", "content", "user", "assistant", "system", "auto", "any", "tool",
            "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
            "message_stop", "text_delta", "input_json_delta", "thinking_delta", "signature_delta", "error",
        ]
    )
)  # fmt: skip
FIELDS = st.sampled_from(
    [
        "type", "role", "content", "text", "source", "data", "url", "media_type", "input", "id", "name", "tool_use_id",
        "thinking", "signature", "messages", "system", "tools", "tool_choice", "max_tokens", "output_config", "effort",
        "format", "metadata", "index", "delta", "content_block", "message", "usage", "partial_json", "stop_reason",
        "cache_control", "ttl", "citations", "stop_details", "error", "container", "model",
    ]
)  # fmt: skip
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=6), max_leaves=20
)
GOLDEN_BYTES = [path.read_bytes() for path in sorted(GOLDEN.iterdir())]


def _encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Something that a good client or provider sent, with a few bytes changed."""
    data = bytearray(draw(st.sampled_from(GOLDEN_BYTES)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = start + draw(st.integers(0, 8))
        data[start:end] = draw(st.binary(max_size=4) | st.sampled_from([b"null", b'"', b"{"]))
    return bytes(data)


@given(
    st.dictionaries(FIELDS, JSON, max_size=8).map(_encoded)
    | st.lists(JSON, max_size=4).map(lambda messages: _encoded({"messages": messages}))
    | damaged()
    | st.binary(max_size=40)
)
def test_requests_raise_nothing_else(body: bytes) -> None:
    """Whatever bytes come as a request, it is read and written, or refused with the one error that means so."""
    with contextlib.suppress(WireError):
        write_request(read_request(body))


@given(st.lists(JSON.map(_encoded) | st.binary(max_size=40), max_size=6) | damaged().map(lambda data: [data]))
def test_streams_raise_nothing_else(events: list[bytes]) -> None:
    """Whatever a provider streams is read, or refused with the one error that means so."""
    reader, writer = StreamReader(), StreamWriter(Echo())
    with contextlib.suppress(WireError):
        for data in events:
            block = data if data.startswith(b"event:") else sse.encode(data)
            for event in sse.events(block):
                for found in reader.read(event):
                    writer.write(found)
        for found in reader.finish():
            writer.write(found)


@given(JSON.map(_encoded) | st.binary(max_size=40) | damaged())
def test_replies_raise_nothing_else(body: bytes) -> None:
    """Whatever a provider answers is read, or refused with the one error that means so."""
    with contextlib.suppress(WireError):
        write_reply(reply_events(body), Echo())
