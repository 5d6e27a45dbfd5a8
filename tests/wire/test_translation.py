"""Replies on their way from each dialect to each other one, over the transcripts of all of them."""

from __future__ import annotations

import contextlib
import json
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from tests.wire.meaning import Reply, meaning
from tests.wire.messages.judge import judged_reply, judged_stream
from tests.wire.replies import pieces

from eggpool.domain import Dialect
from eggpool.domain import Usage as TokenUsage
from eggpool.errors import WireError
from eggpool.wire import sse
from eggpool.wire.dialects import CODECS
from eggpool.wire.events import Event, Failed, StopReason
from eggpool.wire.prompt import Echo, Tool
from eggpool.wire.translation import MAX_TRANSLATED_EVENT_BYTES, TranslatedReply, TranslatedStream, read_stream

CHAT, MESSAGES, RESPONSES = Dialect.CHAT, Dialect.MESSAGES, Dialect.RESPONSES
GOLDEN = Path(__file__).parent.parent / "golden"
STREAMS = {(one, file.name): file.read_bytes() for one in Dialect for file in sorted((GOLDEN / one).glob("*.sse"))}
CROSSINGS = [(one, name, other) for (one, name), other in product(STREAMS, Dialect) if one is not other]
BROKEN = {"cut.sse", "error.sse", "failed.sse", "overloaded.sse"}
WHOLE = [crossing for crossing in CROSSINGS if crossing[1] not in BROKEN]
PLAIN = [
    (one, file, other)
    for one, other in product(Dialect, Dialect)
    if one is not other
    for file in sorted((GOLDEN / one).glob("*.json"))
    if "request" not in file.name
]
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
END: dict[Dialect, tuple[bytes, ...]] = {CHAT: (b"data: [DONE]",), MESSAGES: (b"event: message_stop",)}
END[RESPONSES] = (b"event: response.completed", b"event: response.incomplete")
"""What only a whole reply has."""

ECHO = Echo(
    model="asked-model",
    now_s=1_795_000_000,
    include_usage=True,
    tools={
        "multi_agent_v1__close_agent": Tool("close_agent", namespace="multi_agent_v1"),
        "apply_patch": Tool("apply_patch", custom=True),
        "exec_command": Tool("exec_command"),
    },
)


def crossing(source: Dialect, target: Dialect, chunks: list[bytes]) -> bytes:
    """What the client gets of a stream."""
    stream = TranslatedStream(CODECS[source], CODECS[target], ECHO)
    return b"".join([*map(stream.feed, chunks), stream.finish()])


@pytest.mark.parametrize(("source", "name", "target"), CROSSINGS)
@settings(max_examples=10)
@given(st.lists(st.integers(0, 20_000), max_size=30))
def test_any_split_gives_the_same_bytes(source: Dialect, name: str, target: Dialect, cuts: list[int]) -> None:
    """However a stream is cut up on its way, the client gets the same."""
    stream = STREAMS[source, name]
    assert crossing(source, target, pieces(stream, cuts)) == crossing(source, target, [stream])


@pytest.mark.parametrize(("source", "name", "target"), CROSSINGS)
def test_byte_by_byte(source: Dialect, name: str, target: Dialect) -> None:
    """The smallest pieces, and other line ends, change nothing."""
    stream = STREAMS[source, name]
    whole = crossing(source, target, [stream])
    assert crossing(source, target, [stream[place : place + 1] for place in range(len(stream))]) == whole
    assert crossing(source, target, [stream.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")]) == whole


@pytest.mark.parametrize(("source", "name", "target"), CROSSINGS)
def test_sdks_understand_every_event(source: Dialect, name: str, target: Dialect) -> None:
    """The official SDKs' types accept what is written, broken streams included, and only whole ones have an end."""
    written = crossing(source, target, [STREAMS[source, name]])
    found = list(sse.events(written))
    if name in BROKEN:
        assert not any(mark in written for mark in END[target])
    else:
        assert sum(written.count(mark) for mark in END[target]) == 1
        assert written.rstrip().splitlines()[-2 if target is not CHAT else -1].startswith(END[target])
    if target is CHAT:
        for event in found:
            # The SDK's types of chunks know no calls of custom tools, though whole replies have them.
            if event.data != b"[DONE]" and not any(one in event.data for one in (b'"error":', b'"type":"custom"')):
                ChatCompletionChunk.model_validate_json(event.data, strict=False)
    elif target is RESPONSES:
        assert [_responses_event(one.data).sequence_number for one in found] == list(range(len(found)))
    elif name not in BROKEN:
        judged_stream(written)


def _responses_event(data: bytes) -> Any:
    payload = json.loads(data)
    if payload["type"] == "response.failed":
        payload["response"]["error"]["code"] = "server_error"  # agents know more codes than the SDK's types do
    return EVENT.validate_python(payload)


LOSES: dict[Dialect, dict[StopReason, StopReason]] = {
    CHAT: {
        StopReason.STOP_SEQUENCE: StopReason.END,
        StopReason.PAUSE: StopReason.END,
        StopReason.CONTEXT_FULL: StopReason.MAX_TOKENS,
        StopReason.REFUSAL: StopReason.CONTENT_FILTER,  # without words; with them they say it all
    },
    MESSAGES: {StopReason.CONTENT_FILTER: StopReason.REFUSAL},
    RESPONSES: {
        StopReason.STOP_SEQUENCE: StopReason.END,
        StopReason.PAUSE: StopReason.END,
        StopReason.CONTEXT_FULL: StopReason.MAX_TOKENS,
    },
}
"""The reasons for which a dialect has a coarser word."""


def as_said_in(target: Dialect, reply: Reply) -> Any:
    """What is left of a reply's meaning in a dialect: the same of a reply before and after it was written there."""
    parts: list[list[str]] = []
    for part in reply.parts:
        kind, text = part.kind, part.text
        if kind == "refusal" and target is MESSAGES:
            kind = "text"  # a refusal is told by the reason, and its words are text
        if kind == "thinking" and target is CHAT and not text:
            continue  # nothing but a seal
        if kind == "thinking":
            text = text.replace("\n\n", "")  # stands between parts of a summary where there are no parts
        name = part.name.rpartition("__")[2]
        if name == "apply_patch" and target is MESSAGES:
            text = text if text.startswith("{") else json.dumps({"input": text})
        if target is CHAT and parts and parts[-1][0] == kind != "call":
            parts[-1][1] += text  # there are no blocks
        else:
            parts.append([kind, text, name])
    stop = reply.stop and LOSES[target].get(reply.stop, reply.stop)
    if any(part.kind == "refusal" for part in reply.parts) and reply.stop in (StopReason.END, StopReason.REFUSAL):
        stop = StopReason.END if target is CHAT else StopReason.REFUSAL
    told = TokenUsage() if reply.usage is None and target is MESSAGES else reply.usage  # it must say something there
    usage = told and msgspec.structs.replace(told, cache_write_1h_tokens=0, cost_nanodollars=None)
    return (reply.model, parts, stop, usage, reply.whole)


@pytest.mark.parametrize(("source", "name", "target"), WHOLE)
def test_what_is_written_means_what_was_read(source: Dialect, name: str, target: Dialect) -> None:
    """Read back from the client's dialect, a stream means what the provider said, up to what has no words there."""
    stream = STREAMS[source, name]
    before = meaning(read_stream(CODECS[source], stream))
    after = meaning(read_stream(CODECS[target], crossing(source, target, [stream])))
    assert as_said_in(target, after) == as_said_in(target, before)
    seals = [(part.signature, part.redacted) for part in before.parts if part.signature or part.redacted is not None]
    if target is not CHAT and source is MESSAGES:
        kept = [(part.signature, part.redacted) for part in after.parts if part.signature or part.redacted is not None]
        assert kept == seals


@pytest.mark.parametrize(("source", "file", "target"), PLAIN)
@pytest.mark.parametrize("stream", [False, True])
def test_whole_replies(source: Dialect, file: Path, target: Dialect, stream: bool) -> None:
    """A whole reply means the same as a whole one or a stream of the other dialect, and the SDKs accept both."""
    events = CODECS[source].reply_events(file.read_bytes())
    reply = TranslatedReply(events, CODECS[target], ECHO, stream=stream)
    assert reply.whole
    if stream:
        again = read_stream(CODECS[target], reply.body)
        for event in sse.events(reply.body):
            assert event.data == b"[DONE]" or json.loads(event.data)
    else:
        again = CODECS[target].reply_events(reply.body)
        if target is CHAT:
            ChatCompletion.model_validate_json(reply.body, strict=False)
        elif target is MESSAGES:
            judged_reply(reply.body)
        else:
            Response.model_validate_json(reply.body, strict=False)
    assert as_said_in(target, meaning(again)) == as_said_in(target, meaning(events))


EVENTS = {
    one: [event + b"\n\n" for (spoken, _), stream in STREAMS.items() if spoken is one
          for event in stream.replace(b"\r\n", b"\n").split(b"\n\n") if b"data:" in event]
    for one in Dialect
}  # fmt: skip


@pytest.mark.parametrize("source", list(Dialect))
@pytest.mark.parametrize("target", list(Dialect))
@settings(max_examples=60)
@given(st.data())
def test_events_in_any_order(source: Dialect, target: Dialect, data: st.DataObject) -> None:
    """Whatever a provider mixes up, nothing is raised, and there is one end, one error, or neither."""
    chosen = data.draw(st.lists(st.sampled_from(EVENTS[source]) | st.just(b"data: {]\n\n"), max_size=12))
    stream = TranslatedStream(CODECS[source], CODECS[target], ECHO)
    written = b"".join([*map(stream.feed, chosen), stream.finish()])
    ends = sum(written.count(mark) for mark in END[target])
    assert ends == stream.terminal
    assert not (stream.terminal and stream.error)
    if not stream.ended:
        written = stream.fail("It broke off.", "upstream_broken")
        assert b"It broke off." in written
        assert stream.error is not None
        assert not any(mark in written for mark in END[target])
    assert stream.fail("Again.", "upstream_broken") == b""
    for event in sse.events(written):
        assert event.data == b"[DONE]" or isinstance(json.loads(event.data), dict)


@pytest.mark.parametrize("source", list(Dialect))
@pytest.mark.parametrize("target", list(Dialect))
@settings(max_examples=30)
@given(st.data())
def test_plain_replies_from_streams_in_any_order(source: Dialect, target: Dialect, data: st.DataObject) -> None:
    """The same holds where a stream is collected for a client that asked for none: only WireError is raised."""
    chosen = data.draw(st.lists(st.sampled_from(EVENTS[source]), max_size=12))
    with contextlib.suppress(WireError):
        reply = TranslatedReply(read_stream(CODECS[source], b"".join(chosen)), CODECS[target], ECHO, stream=False)
        assert isinstance(json.loads(reply.body), dict)


@pytest.mark.parametrize("source", list(Dialect))
@pytest.mark.parametrize("target", list(Dialect))
def test_an_event_that_is_too_long(source: Dialect, target: Dialect) -> None:
    """An event must be held whole before it is translated; one beyond the bound breaks the reply and is let go."""
    stream = TranslatedStream(CODECS[source], CODECS[target], ECHO)
    written = stream.feed(b"data: ")
    for _ in range(MAX_TRANSLATED_EVENT_BYTES // (1 << 20) + 3):
        written += stream.feed(b"x" * (1 << 20))
    assert stream.error is not None
    assert stream.error.code == "event_too_long"
    assert b"without end" in written
    assert len(written) < 4096


def test_probabilities_of_a_reply_with_line_ends() -> None:
    """What is written into a stream has no line ends, whatever white space it came with."""
    logprobs = {"content": [{"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}]}
    choice = {"index": 0, "message": {"content": "Hi"}, "logprobs": logprobs, "finish_reason": "stop"}
    body = json.dumps({"id": "c1", "model": "m", "choices": [choice]}, indent=2).encode()
    for target in (CHAT, RESPONSES):
        reply = TranslatedReply(CODECS[CHAT].reply_events(body), CODECS[target], ECHO, stream=True)
        assert b'"logprob":-0.1' in reply.body
        for event in sse.events(reply.body):
            assert event.data == b"[DONE]" or json.loads(event.data)


def test_what_is_learnt_on_the_way() -> None:
    """Usage, content and what has no words in the client's dialect are known while the stream is read."""
    stream = TranslatedStream(CODECS[MESSAGES], CODECS[CHAT], ECHO)
    stream.feed(b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":7}}}\n\n')
    assert (stream.content, stream.terminal, stream.usage and stream.usage.input_tokens) == (False, False, 7)
    stream.feed(STREAMS[MESSAGES, "search.sse"])
    assert stream.content
    assert stream.terminal
    assert stream.dropped
    assert stream.finish() == b""


def test_a_failed_reply_is_told_as_one() -> None:
    """Where a whole reply is an error, nothing of it looks like an answer."""
    events: list[Event] = [Failed("overloaded_error", "", "busy")]
    for target in Dialect:
        reply = TranslatedReply(events, CODECS[target], ECHO, stream=True)
        assert reply.error is not None
        assert not reply.whole
        assert b"busy" in reply.body
