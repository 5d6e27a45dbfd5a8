"""Responses replies and streams: read into events, written from them, and judged by OpenAI's own types."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from eggpool.domain import Usage as TokenUsage
from eggpool.errors import WireError
from eggpool.wire import responses, sse
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
from eggpool.wire.prompt import Echo, Tool

GOLDEN = Path(__file__).parents[2] / "golden" / "responses"
CUTS = st.lists(st.integers(0, 10_000), max_size=20)
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

MODEL = "gpt-6-luna-2026-09-01"
START = Start("resp_68a1f0c2", MODEL, 1795600000)
PATCH = '*** Begin Patch\n+"x"\n*** End Patch\n'
TOOLS = {
    "multi_agent_v1__close_agent": Tool("close_agent", namespace="multi_agent_v1"),
    "apply_patch": Tool("apply_patch", custom=True),
    "exec_command": Tool("exec_command"),
}

EXPECTED: dict[str, list[Event]] = {
    "text.sse": [
        START,
        TextDelta(0, 'Grüße, \U0001f95a!\n"quoted" \\ '),
        BlockEnd(0),
        Usage(TokenUsage(1204, 1024, 128, 0, 87, 40)),
        Stop(StopReason.END),
        End(),
    ],
    "agent.sse": [
        START,
        ThinkingDelta(0, "**Reading files**", 0, summary=True),
        ThinkingDelta(0, "Then patch.", 1, summary=True),
        ThinkingSealed(0, encrypted="gAAAAABo-fake-encrypted", id="rs_68a1f0c3"),
        BlockEnd(0),
        TextDelta(1, "I'll read both."),
        BlockEnd(1),
        ToolCallStart(2, "call_a1", "exec_command"),
        ToolCallDelta(2, '{"cmd":"cat a.py"}'),
        BlockEnd(2),
        ToolCallStart(3, "call_b2", "multi_agent_v1__close_agent"),
        ToolCallDelta(3, '{"target":"7"}'),
        BlockEnd(3),
        ToolCallStart(4, "call_c3", "apply_patch", custom=True),
        ToolCallDelta(4, PATCH),
        BlockEnd(4),
        Usage(TokenUsage(300, 256, 0, 0, 60, 20)),
        Stop(StopReason.TOOL_USE),
        End(),
    ],
    "refusal.sse": [
        START,
        RefusalDelta(0, "I can't help with that."),
        BlockEnd(0),
        Usage(TokenUsage(input_tokens=20, output_tokens=9)),
        Stop(StopReason.REFUSAL),
        End(),
    ],
    "incomplete.sse": [
        START,
        ThinkingDelta(0, "The user wants pi."),
        BlockEnd(0),
        TextDelta(1, "3.14159"),
        BlockEnd(1),
        Usage(TokenUsage(input_tokens=12, output_tokens=16, reasoning_tokens=5)),
        Stop(StopReason.MAX_TOKENS),
        End(),
    ],
    "search.sse": [
        START,
        Dropped("web_search_call"),
        TextDelta(0, "Egg."),
        Dropped("annotations"),
        BlockEnd(0),
        Usage(TokenUsage(input_tokens=9000, output_tokens=12)),
        Stop(StopReason.END),
        End(),
    ],
    "failed.sse": [
        START,
        TextDelta(0, "Half an ans"),
        Usage(TokenUsage(input_tokens=12, output_tokens=4)),
        Failed(
            "response.failed", "server_is_overloaded", "Our servers are currently overloaded. Please try again later."
        ),
    ],
    "error.sse": [
        START,
        TextDelta(0, "Half an ans"),
        Failed("error", "rate_limit_exceeded", "Rate limit reached. Please try again in 11s."),
    ],
    "cut.sse": [START, TextDelta(0, "Half an ans")],
}
WHOLE = ["text.sse", "agent.sse", "refusal.sse", "incomplete.sse"]


def read(stream: bytes, cuts: list[int] | None = None) -> list[Event]:
    """The events of a stream that comes in pieces, its end included."""
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts or [])})
    splitter, reader = sse.Splitter(1 << 20), responses.StreamReader()
    events: list[Event] = []
    for start, end in pairwise(places):
        for event in sse.events(splitter.feed(stream[start:end])):
            events += reader.read(event)
    for event in sse.events(splitter.rest()):
        events += reader.read(event)
    return events + reader.finish()


def joined(events: list[Event]) -> list[Event]:
    """The same events, with neighbouring deltas of one block and part as one."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, TextDelta | RefusalDelta | ThinkingDelta | ToolCallDelta) and type(last) is type(event):
            assert isinstance(last, TextDelta | RefusalDelta | ThinkingDelta | ToolCallDelta)
            same = not isinstance(event, ThinkingDelta) or event.part == getattr(last, "part", 0)
            if last.block == event.block and same:
                found[-1] = msgspec.structs.replace(last, text=last.text + event.text)
                continue
        found.append(event)
    return found


def nameless(events: list[Event]) -> list[Event]:
    """The same events, joined, without the ids of thoughts: an item keeps the id with which it was announced."""
    return [
        msgspec.structs.replace(event, id=None) if isinstance(event, ThinkingSealed) else event
        for event in joined(events)
    ]


def written(events: list[Event], echo: Echo | None = None) -> list[Any]:
    """A stream from its events, as OpenAI's own types read it; each is named and they are numbered without gaps."""
    writer = responses.StreamWriter(echo or Echo(tools=TOOLS))
    stream = b"".join(map(writer.write, events))
    told = [event for event in sse.events(stream) if event.data]
    found = [EVENT.validate_json(event.data) for event in told]
    assert [event.name.decode() for event in told] == [one.type for one in found]
    assert [one.sequence_number for one in found] == list(range(len(found)))
    return found


def raw(events: list[Event], echo: Echo | None = None) -> bytes:
    """A stream from its events, as bytes."""
    return b"".join(map(responses.StreamWriter(echo or Echo(tools=TOOLS)).write, events))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_golden_streams(name: str) -> None:
    """A transcript means what was written down beside it, whole and byte by byte."""
    stream = (GOLDEN / name).read_bytes()
    if name != "failed.sse":  # OpenAI sends this code and has not put it into its types
        for event in sse.events(stream):
            EVENT.validate_json(event.data)
    assert joined(read(stream)) == EXPECTED[name]
    assert read(stream, list(range(len(stream)))) == read(stream)


@given(st.sampled_from(sorted(EXPECTED)), CUTS)
def test_any_split_gives_the_same_events(name: str, cuts: list[int]) -> None:
    """What a stream means does not depend on how it was cut."""
    stream = (GOLDEN / name).read_bytes()
    assert read(stream, cuts) == read(stream)


@pytest.mark.parametrize("name", ["text", "agent"])
def test_a_whole_reply_means_the_same_as_its_stream(name: str) -> None:
    """The plain form of a reply has the same events."""
    assert joined(responses.reply_events((GOLDEN / f"{name}.json").read_bytes())) == EXPECTED[f"{name}.sse"]


def summarised(events: list[Event]) -> list[Event]:
    """The events with all thoughts as summaries: there is no other kind of writing them."""
    return [
        msgspec.structs.replace(event, summary=True) if isinstance(event, ThinkingDelta) else event for event in events
    ]


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_written_is_read_as_the_same(name: str) -> None:
    """Writing a stream from its events and reading it again gives the same events."""
    assert nameless(read(raw(EXPECTED[name]))) == nameless(summarised(EXPECTED[name]))


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_reply_written_is_read_as_the_same(name: str) -> None:
    """Writing a plain reply from its events and reading it again gives the same events."""
    body = responses.write_reply(EXPECTED[name], Echo(tools=TOOLS))
    Response.model_validate_json(body)
    assert nameless(responses.reply_events(body)) == nameless(summarised(EXPECTED[name]))


def test_the_order_of_a_text() -> None:
    """A text is announced twice, told, and closed three times, before the whole reply comes."""
    events = written([START, TextDelta(0, "a"), TextDelta(0, "b"), BlockEnd(0), Stop(StopReason.END), End()])
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [events[place].response.status for place in (0, 1, -1)] == ["in_progress", "in_progress", "completed"]
    assert events[0].response.output == []
    assert events[6].text == "ab"
    assert events[-1].response.output_text == "ab"
    ids = {event.item_id for event in events[3:8]} | {events[2].item.id, events[8].item.id}
    assert ids == {events[-1].response.output[0].id}


def test_the_order_of_thoughts_and_calls() -> None:
    """Parts of a summary open and close one after the other; calls carry their places, their groups, and their ends."""
    events = written(EXPECTED["agent.sse"])
    thoughts = [
        (event.type.removeprefix("response."), event.summary_index) for event in events if "_summary_" in event.type
    ]
    assert thoughts == [
        ("reasoning_summary_part.added", 0),
        ("reasoning_summary_text.delta", 0),
        ("reasoning_summary_text.done", 0),
        ("reasoning_summary_part.done", 0),
        ("reasoning_summary_part.added", 1),
        ("reasoning_summary_text.delta", 1),
        ("reasoning_summary_text.done", 1),
        ("reasoning_summary_part.done", 1),
    ]
    added = [event for event in events if event.type == "response.output_item.added"]
    done = [event for event in events if event.type == "response.output_item.done"]
    assert [event.output_index for event in added] == [event.output_index for event in done] == [0, 1, 2, 3, 4]
    assert [event.item for event in done] == events[-1].response.output
    assert (added[3].item.name, added[3].item.namespace, added[3].item.arguments) == (
        "close_agent",
        "multi_agent_v1",
        "",
    )
    assert (done[4].item.type, done[4].item.name, done[4].item.input) == ("custom_tool_call", "apply_patch", PATCH)
    assert done[0].item.encrypted_content == "gAAAAABo-fake-encrypted"
    assert events[-1].response.usage.input_tokens_details.cached_tokens == 256
    assert events[-1].response.usage.total_tokens == 360


def test_thoughts_stand_where_agents_look_for_them() -> None:
    """Thoughts that were no summary become one: agents show and send back no other kind."""
    events = written(EXPECTED["incomplete.sse"])
    assert [event.type for event in events][3:7] == [
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
    ]
    reply = events[-1].response
    assert reply.output[0].summary[0].text == "The user wants pi."
    assert reply.output[0].content is None


def test_an_incomplete_reply_says_why() -> None:
    """A reply that met a limit or a filter ends as incomplete, with the reason."""
    reasons: list[str] = []
    for reason in (StopReason.MAX_TOKENS, StopReason.CONTEXT_FULL, StopReason.CONTENT_FILTER, StopReason.REFUSAL):
        last = written([START, TextDelta(0, "x"), BlockEnd(0), Stop(reason), End()])[-1]
        assert (last.type, last.response.status) == ("response.incomplete", "incomplete")
        reasons.append(last.response.incomplete_details.reason)
    assert reasons == ["max_output_tokens", "max_output_tokens", "content_filter", "content_filter"]


def test_usage_may_follow_the_stop() -> None:
    """The last event holds the usage, in whichever order it came."""
    usage = Usage(TokenUsage(input_tokens=5, output_tokens=2))
    first = written([START, usage, Stop(StopReason.END), End()])[-1].response.usage
    assert first == written([START, Stop(StopReason.END), usage, End()])[-1].response.usage
    assert first.total_tokens == 7


@pytest.mark.parametrize(
    ("told", "code"),
    [
        (Failed("x", "context_length_exceeded", "It broke."), "context_length_exceeded"),
        (Failed("overloaded_error", "", "It broke."), "server_is_overloaded"),
        (Failed("rate_limit_error", "rate_limit", "It broke."), "rate_limit_exceeded"),
        (Failed("api_error", "odd", "It broke."), "server_error"),
    ],
)
def test_a_failed_stream_has_no_end(told: Failed, code: str) -> None:
    """A failure is told in-band with a code that clients know, and nothing says that the reply is whole."""
    stream = raw([START, TextDelta(0, "Half"), told])
    last = msgspec.json.decode(list(sse.events(stream))[-1].data)
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"] == {"code": code, "message": "It broke."}
    assert last["response"]["output"][0]["status"] == "incomplete"
    assert b"output_text.done" not in stream
    assert b'"completed"' not in stream


def test_a_failure_may_come_first() -> None:
    """A stream that fails before it began still is a stream of this dialect."""
    events = written([Failed("x", "server_error", "It broke.")])
    assert [event.type for event in events] == ["response.created", "response.in_progress", "response.failed"]


def test_ids_and_times_that_nobody_told() -> None:
    """Ids are made from the reply's, fit for being sent back, and the time is the request's."""
    events: list[Event] = [
        Start("chatcmpl/01:" + "x" * 80, "glm-5.3"),
        TextDelta(0, "Hi"),
        BlockEnd(0),
        ToolCallStart(1, "", "exec_command"),
        BlockEnd(1),
        Stop(StopReason.TOOL_USE),
        End(),
    ]
    reply = written(events, Echo(now_s=1795600001))[-1].response
    assert (reply.created_at, reply.model) == (1795600001, "glm-5.3")
    ids = [reply.id, *(item.id for item in reply.output), reply.output[1].call_id]
    assert all(len(one) <= 64 and one.replace("_", "").isalnum() for one in ids)
    assert len(set(ids)) == 4
    assert reply.output[1].arguments == "{}"


def test_a_reply_repeats_the_request() -> None:
    """What the client said of its tools, its limits and its wishes comes back as it was."""
    body = (GOLDEN / "codex_request.json").read_bytes()
    echo = responses.echo_of(responses.read_request(body), body)
    sent, reply = msgspec.json.decode(body), written(EXPECTED["text.sse"], echo)[-1].response
    assert [tool.type for tool in reply.tools] == ["function", "namespace", "web_search"]
    assert reply.reasoning.summary == "auto"
    assert reply.prompt_cache_key == sent["prompt_cache_key"]
    assert reply.text.verbosity == "low"


def test_custom_tools_come_back_as_they_were_called() -> None:
    """A custom tool that stood as a function at the provider is a custom tool again, in any pieces."""
    pieces = ['{"in', 'put": "*** Begin\\', "nPatch \\u00", 'e9"}']
    events: list[Event] = [START, ToolCallStart(0, "call_1", "apply_patch")]
    events += [ToolCallDelta(0, piece) for piece in pieces]
    events += [BlockEnd(0), Stop(StopReason.TOOL_USE), End()]
    found = written(events)
    deltas = [event.delta for event in found if event.type == "response.custom_tool_call_input.delta"]
    assert deltas == ["*** Begin", "\nPatch ", "é"]
    assert found[-1].response.output[0].input == "*** Begin\nPatch é"
    whole = Response.model_validate_json(responses.write_reply(events, Echo(tools=TOOLS)))
    assert whole.output == found[-1].response.output


def test_input_that_waits_for_its_end_is_not_lost() -> None:
    """Input that could only be told when the call was whole comes with its end."""
    events: list[Event] = [START, ToolCallStart(0, "call_1", "apply_patch"), ToolCallDelta(0, '{"patch": "x"}')]
    found = written([*events, BlockEnd(0), Stop(StopReason.TOOL_USE), End()])
    assert [event.delta for event in found if event.type.endswith(".delta")] == ["x"]
    assert found[-1].response.output[0].input == "x"


def test_a_tool_called_without_its_group_is_found() -> None:
    """A model that leaves out the group's name calls the tool all the same."""
    events: list[Event] = [START, ToolCallStart(0, "call_1", "close_agent"), BlockEnd(0), End()]
    assert written(events)[-1].response.output[0].namespace == "multi_agent_v1"


def test_thoughts_of_another_dialect_are_lent_their_place() -> None:
    """A signature stands where encrypted reasoning would, and is a signature again when it comes back."""
    events: list[Event] = [
        Start("msg_01", "claude-fable-5"),
        ThinkingDelta(0, "Hm."),
        ThinkingSealed(0, signature="c2ln"),
        BlockEnd(0),
        ThinkingSealed(1, redacted="cmVk"),
        BlockEnd(1),
        TextDelta(2, "Yes."),
        BlockEnd(2),
        Stop(StopReason.END),
        End(),
    ]
    asked = Echo(fields={"reasoning": msgspec.Raw(b'{"summary":"auto"}')})
    output = written(events, asked)[-1].response.model_dump(exclude_none=True)["output"]
    body = msgspec.json.encode({"model": "m", "input": output})
    prompt = responses.read_request(body)
    thought, redacted, _ = prompt.turns[0].blocks
    assert (getattr(thought, "text", ""), getattr(thought, "signature", "")) == ("Hm.", "c2ln")
    assert getattr(redacted, "redacted", "") == "cmVk"
    assert ThinkingSealed(0, signature="c2ln") in read(raw(events))


def test_logprobs_cross() -> None:
    """What a client asked to know about its words reaches it, in the stream and in the whole."""
    told = b'[{"token":"Hi","logprob":-0.1,"bytes":[72,105],"top_logprobs":[]}]'
    spread = told.replace(b",", b",\n")  # as in the body of a provider that indents it
    events: list[Event] = [START, TextDelta(0, "Hi", spread), BlockEnd(0), Stop(StopReason.END), End()]
    found = written(events)
    assert found[4].logprobs[0].token == "Hi"
    assert found[-1].response.output[0].content[0].logprobs[0].token == "Hi"
    assert joined(read(raw(events)))[1] == TextDelta(0, "Hi", told)


def stream_of(*told: Mapping[str, object]) -> bytes:
    """A stream of events as a provider writes them."""
    return b"".join(sse.encode(msgspec.json.encode(one), str(one["type"]).encode()) for one in told)


CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}
MESSAGE = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}


@pytest.mark.parametrize(
    "told",
    [
        pytest.param([], id="nothing but the whole reply"),
        pytest.param(
            [
                {"type": "response.output_item.done", "output_index": n, "item": item}
                for n, item in enumerate([MESSAGE, CALL])
            ],
            id="whole items",
        ),
        pytest.param(
            [
                {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Hi"},
                {"type": "response.output_item.added", "output_index": 1, "item": CALL | {"arguments": ""}},
                {"type": "response.function_call_arguments.done", "output_index": 1, "arguments": "{}"},
                {"type": "response.output_item.done", "output_index": 1, "item": CALL},
            ],
            id="no announcement, and arguments at once",
        ),
    ],
)
def test_streams_as_providers_send_them(told: list[dict[str, object]]) -> None:
    """Whatever a provider leaves out is taken from what it sends later."""
    end = {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": [MESSAGE, CALL]}}
    events = [event for event in read(stream_of(*told, end) + b"data: [DONE]\n\n") if not isinstance(event, Start)]
    assert events == [
        TextDelta(0, "Hi"),
        BlockEnd(0),
        ToolCallStart(1, "call_1", "f"),
        ToolCallDelta(1, "{}"),
        BlockEnd(1),
        Stop(StopReason.TOOL_USE),
        End(),
    ]


def test_events_that_nobody_reads_do_no_harm() -> None:
    """Unknown events are passed over, whatever their fields hold; signs of life are signs of life."""
    stream = stream_of({"type": "codex.rate_limits", "delta": {"a": 1}}, {"type": "response.audio.delta", "delta": "x"})
    assert read(stream + stream_of({"type": "keepalive", "sequence_number": 3})) == [Ping()]
    assert responses.StreamWriter(Echo()).write(Ping()).startswith(b":")


def test_mixed_up_pieces_are_no_reply() -> None:
    """A piece of a call that was whole already, or never began, is a fault of the provider."""
    piece = {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "{}"}
    added = [{"type": "response.output_item.added", "output_index": n, "item": CALL} for n in (0, 1)]
    for stream in (stream_of(piece), stream_of(*added, piece)):
        with pytest.raises(WireError, match="mixes up"):
            read(stream)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"error":{"message":"x"}}', b'{"output":5}', b'{"output":[{"type":"message","content":5}]}'],
)
def test_what_is_no_reply_is_refused(body: bytes) -> None:
    """A body without an answer is an error, not an empty answer."""
    with pytest.raises(WireError):
        responses.reply_events(body)


def test_a_failed_reply_is_a_failure() -> None:
    """A whole reply whose status is failed tells its error."""
    body = b'{"status":"failed","output":[],"error":{"code":"server_error","message":"It broke."}}'
    assert responses.reply_events(body)[-1] == Failed("response.failed", "server_error", "It broke.")


BLOCKS = st.lists(
    st.one_of(
        st.tuples(st.just("text"), st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3)),
        st.tuples(st.just("refusal"), st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3)),
        st.tuples(st.just("thinking"), st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3)),
        st.tuples(st.just("call"), st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3)),
        st.tuples(st.just("custom"), st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3)),
    ),
    max_size=5,
)


def events_of(blocks: list[tuple[str, list[str]]]) -> list[Event]:
    """The events of a reply with these blocks."""
    events: list[Event] = [START]
    for block, (kind, pieces) in enumerate(blocks):
        if kind in ("call", "custom"):
            name = "apply_patch" if kind == "custom" else "exec_command"
            events.append(ToolCallStart(block, f"call_{block}", name, kind == "custom"))
        for place, piece in enumerate(pieces):
            match kind:
                case "text":
                    events.append(TextDelta(block, piece))
                case "refusal":
                    events.append(RefusalDelta(block, piece))
                case "thinking":
                    events.append(ThinkingDelta(block, piece, place // 2, summary=True))
                case _:
                    events.append(ToolCallDelta(block, piece))
        events.append(BlockEnd(block))
    called = any(kind in ("call", "custom") for kind, _ in blocks)
    refused = any(kind == "refusal" for kind, _ in blocks)
    reason = StopReason.TOOL_USE if called else StopReason.REFUSAL if refused else StopReason.END
    return [*events, Usage(TokenUsage(input_tokens=3, output_tokens=2)), Stop(reason), End()]


@given(BLOCKS)
def test_written_and_read_again_is_the_same_for_any_reply(blocks: list[tuple[str, list[str]]]) -> None:
    """Writing and reading is the identity on everything that the dialect knows, as a stream and as a whole."""
    events = events_of(blocks)
    assert read(raw(events)) == events
    stream, echo = written(events), Echo(tools=TOOLS)
    body = responses.write_reply(events, echo)
    assert joined(responses.reply_events(body)) == joined(events)
    assert Response.model_validate_json(body) == stream[-1].response


@given(st.binary(max_size=80) | st.sampled_from(sorted(EXPECTED)).map(lambda name: (GOLDEN / name).read_bytes()), CUTS)
def test_nothing_but_a_wire_error(stream: bytes, cuts: list[int]) -> None:
    """Whatever comes, cut and mixed in any way, reading gives events or one kind of error."""
    pieces = sorted({cut % (len(stream) + 1) for cut in cuts})
    shuffled = b"".join(stream[place : place + 400] for place in reversed(pieces))
    for one in (stream, shuffled):
        with contextlib.suppress(WireError):
            raw(read(one))
        with contextlib.suppress(WireError):
            responses.reply_events(one)


NAMES = (
    "type",
    "output_index",
    "item",
    "response",
    "output",
    "content",
    "delta",
    "usage",
    "error",
    "status",
    "summary",
)
KINDS = (
    "message",
    "reasoning",
    "function_call",
    "failed",
    "error",
    "response.completed",
    "response.failed",
    "response.output_item.done",
    "response.output_item.added",
    "response.output_text.delta",
    "response.reasoning_summary_text.delta",
    "response.function_call_arguments.delta",
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(KINDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=14,
)


@given(st.lists(st.fixed_dictionaries({"type": st.sampled_from(KINDS), "item": JSON, "response": JSON, "delta": JSON})))
def test_nothing_but_a_wire_error_for_any_json(told: list[dict[str, object]]) -> None:
    """Known names with values of any type give events or one kind of error."""
    with contextlib.suppress(WireError):
        raw(read(stream_of(*told)))
    for one in told:
        with contextlib.suppress(WireError):
            responses.reply_events(msgspec.json.encode(one["response"]))


def test_the_sdk_puts_the_stream_together() -> None:
    """OpenAI's client accumulates the stream to the same reply that the last event holds, and never stumbles."""
    stream = raw(EXPECTED["agent.sse"])
    answer = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)
    transport = httpx2.MockTransport(lambda request: answer)
    with (
        httpx2.Client(transport=transport) as http,
        openai.OpenAI(api_key="sk-test-fake", base_url="http://pool.invalid/v1", http_client=http) as client,
        client.responses.stream(model="m", input="x") as told,
    ):
        events = list(told)
        reply = told.get_final_response()
    snapshots = [event.snapshot for event in events if event.type == "response.output_text.delta"]
    assert snapshots == ["I'll read both."]
    arguments = [event.snapshot for event in events if event.type == "response.function_call_arguments.delta"]
    assert arguments == ['{"cmd":"cat a.py"}', '{"target":"7"}']
    assert reply.output_text == "I'll read both."
    assert [item.type for item in reply.output] == [
        "reasoning", "message", "function_call", "function_call", "custom_tool_call",
    ]  # fmt: skip


def test_the_end_closes_what_is_open() -> None:
    """A block that nobody ended is closed before the reply is said to be whole."""
    kinds = [event.type for event in written([START, TextDelta(0, "x"), Stop(StopReason.END), End()])]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
