"""What holds for every dialect: nothing raises, parts stay parts, errors survive a round trip."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.domain import Dialect, Limits, ModelCard, Price, Usage
from eggpool.wire import sse
from eggpool.wire.dialects import CODECS
from eggpool.wire.notes import NOTHING, ErrorInfo, highest, usage_of

DIALECTS = st.sampled_from(Dialect)
KEYS = [
    "type",
    "error",
    "message",
    "code",
    "object",
    "choices",
    "delta",
    "finish_reason",
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "cached_tokens",
    "cache_write_tokens",
    "completion_tokens_details",
    "reasoning_tokens",
    "cost",
    "base_resp",
    "status_code",
    "status",
    "response",
    "output",
    "status",
    "id",
    "content_block",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation",
    "ephemeral_1h_input_tokens",
    "ephemeral_5m_input_tokens",
    "x_groq",
    "text",
    "output_tokens_details",
    "input_tokens_details",
    "prompt_cache_hit_tokens",
    "detail",
]
WORDS = [
    "error",
    "message_start",
    "message_delta",
    "message_stop",
    "content_block_start",
    "content_block_delta",
    "response.created",
    "response.completed",
    "response.failed",
    "response.incomplete",
    "text",
    "17",
    "-3",
    "1e400",
    "NaN",
]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=5)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=25,
)
CODES = st.text(max_size=20)


def is_sound(usage: Usage | None) -> bool:
    """Whether parts are parts of their wholes."""
    return usage is None or (
        0 <= usage.cache_read_tokens + usage.cache_write_tokens <= usage.input_tokens
        and 0 <= usage.cache_write_1h_tokens <= usage.cache_write_tokens
        and 0 <= usage.reasoning_tokens <= usage.output_tokens
        and (usage.cost_nanodollars is None or usage.cost_nanodollars >= 0)
    )


@given(DIALECTS, st.dictionaries(st.sampled_from(KEYS), JSON, max_size=8) | JSON, st.sampled_from(WORDS))
def test_no_shape_raises(dialect: Dialect, payload: Any, name: str) -> None:
    """Whatever JSON a provider sends, reading gives sound values."""
    codec = CODECS[dialect]
    body = json.dumps(payload).encode()
    assert is_sound(codec.read_reply(body).usage)
    assert is_sound(codec.read_event(sse.SseEvent(name.encode(), body)).usage)
    assert isinstance(codec.read_error(body), ErrorInfo)


@given(DIALECTS, st.binary(max_size=60))
def test_no_bytes_raise(dialect: Dialect, body: bytes) -> None:
    """Whatever bytes a provider sends, reading gives a value, and what is no JSON is no answer."""
    codec = CODECS[dialect]
    assert not codec.read_reply(body).content
    codec.read_event(sse.SseEvent(body[:5], body))
    codec.read_error(body)
    codec.read_long_event(body, body)


@pytest.mark.parametrize("dialect", Dialect)
def test_nesting_beyond_measure(dialect: Dialect) -> None:
    """A reply of a hundred thousand brackets is no answer, and no crash."""
    body = b'{"choices":' + b"[" * 100_000
    assert CODECS[dialect].read_reply(body) == NOTHING


COUNTS = st.integers(0, 2**53 - 1)
USAGES = st.builds(
    usage_of,
    input_tokens=COUNTS,
    output_tokens=COUNTS,
    cache_read=COUNTS,
    cache_write=COUNTS,
    cache_write_1h=COUNTS,
    reasoning=COUNTS,
    cost_nanodollars=st.none() | COUNTS,
)


@given(USAGES, USAGES)
def test_the_highest_report_holds(first: Usage, second: Usage) -> None:
    """Two reports together are sound, contain neither sum nor loss, and saying a thing twice changes nothing."""
    both = highest(first, second)
    assert both is not None
    assert is_sound(both)
    assert both.input_tokens == max(first.input_tokens, second.input_tokens)
    assert both.output_tokens == max(first.output_tokens, second.output_tokens)
    assert both == highest(second, first)
    assert highest(both, second) == both
    assert highest(first, first) == first
    assert highest(None, first) == highest(first, None) == first


@given(DIALECTS, st.sampled_from([400, 401, 402, 403, 404, 413, 429, 500, 502, 503, 504, 529]), st.text(), CODES)
def test_errors_round_trip(dialect: Dialect, status: int, message: str, code: str) -> None:
    """An error that is written is read again with its type, its words and, where the dialect has one, its code."""
    codec = CODECS[dialect]
    told = codec.read_error(codec.write_error(status, message, code, param="model", request_id="r"))
    assert (told.type, told.message) == (codec.error_type(status), message)
    assert told.code == ("" if dialect is Dialect.MESSAGES else code)
    (event,) = sse.events(codec.write_error_event(status, message, code))
    in_band = codec.read_event(event).error
    assert in_band is not None
    assert in_band.message == message
    assert not codec.read_event(event).content


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"error":"no"}', ErrorInfo(message="no")),
        (b'{"error":{"message":"no","type":"t","code":7}}', ErrorInfo("t", "7", "no")),
        (b'[{"error":{"message":"no","code":429}}]', ErrorInfo("", "429", "no")),
        (b'{"detail":"no"}', ErrorInfo(message="no")),
        (b'{"message":"no","code":"c"}', ErrorInfo("", "c", "no")),
        (b'{"type":"error","error":{"type":"t","message":"no"}}', ErrorInfo("t", "", "no")),
        (b'{"error":{"message":{"x":1}}}', ErrorInfo()),
        (b'{"error":null}', ErrorInfo()),
        (b"<html>", ErrorInfo()),
        (b"", ErrorInfo()),
        (b"[]", ErrorInfo()),
    ],
)
def test_errors_in_any_shape(dialect: Dialect, body: bytes, told: ErrorInfo) -> None:
    """An error is understood in every dialect's shape, wrapped in a list, bare, or as text alone."""
    assert CODECS[dialect].read_error(body) == told


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"null", b"<html></html>", b'{"detail":"no"}', b'{"id":"x"}', b'{"choices":null}']
)
def test_what_is_no_answer(dialect: Dialect, body: bytes) -> None:
    """A 200 without an answer in it has neither content nor an end."""
    note = CODECS[dialect].read_reply(body)
    assert (note.content, note.terminal) == (False, False)


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (Dialect.CHAT, b'{"choices":[{"message":{"content":"x"}}],"error":null}'),
        (Dialect.CHAT, b'{"choices":[{"message":{"content":"x"}}],"base_resp":{"status_code":0}}'),
        (Dialect.CHAT, b'{"choices":[]}'),
        (Dialect.MESSAGES, b'{"type":"message","content":[]}'),
        (Dialect.RESPONSES, b'{"id":"r1","object":"response","status":"queued","error":null,"output":[]}'),
        (Dialect.RESPONSES, b'{"object":"response","status":"incomplete","output":[]}'),
    ],
)
def test_what_is_an_answer(dialect: Dialect, body: bytes) -> None:
    """A whole reply is content and its own end."""
    note = CODECS[dialect].read_reply(body)
    assert (note.content, note.terminal, note.error) == (True, True, None)


@pytest.mark.parametrize(
    ("dialect", "body", "told"),
    [
        (Dialect.CHAT, b'{"error":{"message":"no","code":"c"}}', ErrorInfo("", "c", "no")),
        (Dialect.CHAT, b'{"error":"no","choices":[]}', ErrorInfo(message="no")),
        (Dialect.CHAT, b'{"object":"error","message":"no","code":4}', ErrorInfo("", "4", "no")),
        (
            Dialect.CHAT,
            b'{"choices":null,"base_resp":{"status_code":1008,"status_msg":"no"}}',
            ErrorInfo("", "1008", "no"),
        ),
        (Dialect.MESSAGES, b'{"type":"error","error":{"type":"t","message":"no"}}', ErrorInfo("t", "", "no")),
        (Dialect.MESSAGES, b'{"error":{"type":"t","message":"no"}}', ErrorInfo("t", "", "no")),
        (Dialect.RESPONSES, b'{"error":{"code":"c","message":"no"}}', ErrorInfo("response.failed", "c", "no")),
        (
            Dialect.RESPONSES,
            b'{"object":"response","status":"failed","output":[],"error":{"code":"c","message":"no"}}',
            ErrorInfo("response.failed", "c", "no"),
        ),
    ],
)
def test_errors_under_a_200(dialect: Dialect, body: bytes, told: ErrorInfo) -> None:
    """An error where an answer should be is an error, and no content."""
    note = CODECS[dialect].read_reply(body)
    assert note.error == told
    assert not note.content
    assert not note.terminal


@pytest.mark.parametrize(
    ("block", "usage"),
    [
        ({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}, Usage(11, output_tokens=7)),
        # OpenAI, Groq: cached and reasoning are parts
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "total_tokens": 150,
                "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
            Usage(100, 60, output_tokens=50, reasoning_tokens=30),
        ),
        # OpenRouter: money, cache writes
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 5,
                "cost": 0.00123,
                "prompt_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 80},
            },
            Usage(100, 10, 80, output_tokens=5, cost_nanodollars=1_230_000),
        ),
        # DeepSeek
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 5,
                "prompt_cache_hit_tokens": 64,
                "prompt_cache_miss_tokens": 36,
            },
            Usage(100, 64, output_tokens=5),
        ),
        # Moonshot
        ({"prompt_tokens": 100, "completion_tokens": 5, "cached_tokens": 30}, Usage(100, 30, output_tokens=5)),
        # xAI, Gemini: reasoning beside the completion
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 45,
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
            Usage(10, output_tokens=35, reasoning_tokens=30),
        ),
        # images, speech
        ({"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}, Usage(9, output_tokens=4)),
        # parts larger than their wholes, texts, nulls, nonsense
        (
            {
                "prompt_tokens": "10",
                "completion_tokens": None,
                "prompt_tokens_details": {"cached_tokens": 99, "cache_write_tokens": 99},
                "completion_tokens_details": None,
                "cost": "a lot",
            },
            Usage(10, 10),
        ),
        ({"prompt_tokens": -5, "completion_tokens": 1e300}, Usage(0, output_tokens=2**53 - 1)),
    ],
)
def test_usage_of_chat(block: dict[str, Any], usage: Usage) -> None:
    """Each provider's usage block means the same counts, parts inside their wholes, in a reply and in a stream."""
    body = json.dumps({"choices": [], "usage": block}).encode()
    assert CODECS[Dialect.CHAT].read_reply(body).usage == usage
    note = CODECS[Dialect.CHAT].read_event(sse.SseEvent(b"", body))
    assert (note.usage, note.usage_only) == (usage, True)


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": [{"delta": {}, "finish_reason": "stop", "usage": {"prompt_tokens": 11, "completion_tokens": 7}}]},
        {"choices": [{"delta": {}}], "x_groq": {"usage": {"prompt_tokens": 11, "completion_tokens": 7}}},
        {"choices": [{"delta": {}}], "usage": {"prompt_tokens": 11, "completion_tokens": 7}},
    ],
    ids=["Moonshot", "Groq", "OpenRouter"],
)
def test_usage_beside_a_choice(chunk: dict[str, Any]) -> None:
    """Usage is found where providers put it, and such a chunk is never taken for one with nothing else."""
    note = CODECS[Dialect.CHAT].read_event(sse.SseEvent(b"", json.dumps(chunk).encode()))
    assert (note.usage, note.usage_only) == (Usage(11, output_tokens=7), False)


@pytest.mark.parametrize(
    ("block", "usage"),
    [
        ({"input_tokens": 11, "output_tokens": 7}, Usage(11, output_tokens=7)),
        # the cache is counted beside the input
        (
            {
                "input_tokens": 10,
                "cache_read_input_tokens": 100,
                "cache_creation_input_tokens": 30,
                "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
                "output_tokens": 7,
                "output_tokens_details": {"thinking_tokens": 5},
            },
            Usage(140, 100, 30, 20, 7, 5),
        ),
        ({"input_tokens": 1, "cache_creation": {"ephemeral_1h_input_tokens": 20}}, Usage(21, 0, 20, 20)),
        ({"input_tokens": 1, "cache_creation_input_tokens": 20, "cache_creation": None}, Usage(21, 0, 20)),
        (
            {"output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 9}},
            Usage(output_tokens=3, reasoning_tokens=3),
        ),
        ({"input_tokens": None, "cost": 0.5}, Usage(cost_nanodollars=500_000_000)),
    ],
)
def test_usage_of_messages(block: dict[str, Any], usage: Usage) -> None:
    """What was read from and written to the cache is added to the input, so that parts are parts here too."""
    codec = CODECS[Dialect.MESSAGES]
    assert codec.read_reply(json.dumps({"type": "message", "usage": block}).encode()).usage == usage
    for event in ({"type": "message_start", "message": {"usage": block}}, {"type": "message_delta", "usage": block}):
        assert codec.read_event(sse.SseEvent(b"", json.dumps(event).encode())).usage == usage


@pytest.mark.parametrize(
    ("block", "usage"),
    [
        ({"input_tokens": 11, "output_tokens": 7}, Usage(11, output_tokens=7)),
        (
            {
                "input_tokens": 100,
                "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 20},
                "output_tokens": 50,
                "output_tokens_details": {"reasoning_tokens": 30},
                "total_tokens": 150,
                "cost": 1,
            },
            Usage(100, 60, 20, 0, 50, 30, 1_000_000_000),
        ),
        ({"input_tokens": 1, "input_tokens_details": {"cached_tokens": 60}}, Usage(1, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_usage_of_responses(block: dict[str, Any], usage: Usage, kind: str) -> None:
    """Usage stands in the last event, whichever it is, and in a whole reply."""
    codec = CODECS[Dialect.RESPONSES]
    event = {"type": kind, "response": {"usage": block}}
    assert codec.read_event(sse.SseEvent(b"", json.dumps(event).encode())).usage == usage
    assert codec.read_reply(json.dumps({"object": "response", "usage": block}).encode()).usage == usage


CONTENT = [
    (Dialect.CHAT, {"choices": [{"delta": {"role": "assistant", "content": ""}}]}, False),
    (Dialect.CHAT, {"choices": [{"delta": {"role": "assistant", "content": None, "tool_calls": []}}]}, False),
    (Dialect.CHAT, {"choices": []}, False),
    (Dialect.CHAT, {"choices": [{"delta": {"content": "x"}}]}, True),
    (Dialect.CHAT, {"choices": [{"delta": {"reasoning_content": "x"}}]}, True),
    (Dialect.CHAT, {"choices": [{"delta": {"reasoning_details": [{}]}}]}, True),
    (Dialect.CHAT, {"choices": [{"delta": {"refusal": "x"}}]}, True),
    (Dialect.CHAT, {"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]}, True),
    (Dialect.CHAT, {"choices": [{"delta": {}, "finish_reason": "stop"}]}, True),
    (Dialect.CHAT, {"choices": [{"text": "x"}]}, True),
    (Dialect.CHAT, {"choices": [{"message": {"content": "x"}}]}, True),
    (Dialect.MESSAGES, {"type": "ping"}, False),
    (Dialect.MESSAGES, {"type": "message_start", "message": {}}, False),
    (Dialect.MESSAGES, {"type": "content_block_start", "content_block": {"type": "tool_use", "name": "f"}}, False),
    (Dialect.MESSAGES, {"type": "content_block_start", "content_block": {"type": "redacted_thinking"}}, True),
    (Dialect.MESSAGES, {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": ""}}, False),
    (
        Dialect.MESSAGES,
        {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": ""}},
        False,
    ),
    (Dialect.MESSAGES, {"type": "content_block_delta", "delta": {"type": "signature_delta", "signature": "x"}}, True),
    (Dialect.MESSAGES, {"type": "content_block_stop"}, False),
    (Dialect.MESSAGES, {"type": "message_delta", "delta": {"stop_reason": "refusal"}}, True),
    (Dialect.MESSAGES, {"type": "something_new"}, False),
    (Dialect.RESPONSES, {"type": "response.queued"}, False),
    (Dialect.RESPONSES, {"type": "response.created", "response": {}}, False),
    (Dialect.RESPONSES, {"type": "response.output_item.added", "item": {}}, False),
    (Dialect.RESPONSES, {"type": "response.output_text.delta", "delta": ""}, False),
    (Dialect.RESPONSES, {"type": "response.output_text.delta", "delta": "x"}, True),
    (Dialect.RESPONSES, {"type": "response.reasoning_text.delta", "delta": "x"}, True),
    (Dialect.RESPONSES, {"type": "response.output_item.done", "item": {}}, True),
    (Dialect.RESPONSES, {"type": "codex.rate_limits"}, False),
]


@pytest.mark.parametrize(("dialect", "payload", "content"), CONTENT, ids=lambda value: json.dumps(value)[:60])
def test_what_commits(dialect: Dialect, payload: dict[str, Any], content: bool) -> None:
    """Content is what the client shows or acts on; starts, pings and empty deltas are none."""
    name = payload.get("type", "").encode()
    assert CODECS[dialect].read_event(sse.SseEvent(name, json.dumps(payload).encode())).content is content


@pytest.mark.parametrize("data", [b"", b"{}", b'{"type":"response.comp', b"x"])
@pytest.mark.parametrize("name", [b"response.completed", b"message_stop", b"response.failed"])
@pytest.mark.parametrize("dialect", Dialect)
def test_a_name_alone_ends_nothing(dialect: Dialect, name: bytes, data: bytes) -> None:
    """An event whose data cannot be read is no end and no content, whatever its name promises."""
    assert CODECS[dialect].read_event(sse.SseEvent(name, data)) == NOTHING


@pytest.mark.parametrize("dialect", Dialect)
def test_own_keepalives_commit_to_nothing(dialect: Dialect) -> None:
    """What is sent to keep a waiting client is a whole block without content."""
    keepalive = CODECS[dialect].KEEPALIVE
    assert keepalive.endswith(b"\n\n")
    assert all(CODECS[dialect].read_event(event) == NOTHING for event in sse.events(keepalive))


CARDS = st.builds(
    ModelCard,
    id=st.text(min_size=1),
    base_model=st.text(min_size=1),
    display_name=st.text(),
    created=st.integers(0, 253_402_300_799),
    owned_by=st.text(),
    providers=st.lists(st.text(), min_size=1, max_size=3).map(tuple),
    collapsed=st.booleans(),
    routing_priority=st.integers(),
    limits=st.builds(Limits, context=st.none() | COUNTS, input=st.none() | COUNTS, output=st.none() | COUNTS),
    dialects=st.lists(DIALECTS, max_size=3).map(tuple),
    price=st.none() | st.builds(Price, input=COUNTS),
)


@given(DIALECTS, st.lists(CARDS, max_size=3))
def test_model_lists(dialect: Dialect, cards: list[ModelCard]) -> None:
    """Any list of models can be written, each one once, under the name that requests use."""
    page = json.loads(json.dumps(CODECS[dialect].models_page(cards)))
    assert [entry["id"] for entry in page["data"]] == [card.id for card in cards]
    for entry, card in zip(page["data"], cards, strict=True):
        if dialect is Dialect.MESSAGES:
            assert (entry["type"], entry["display_name"]) == ("model", card.display_name)
            assert entry.get("max_input_tokens") == (card.limits.input or card.limits.context or None)
        else:
            assert (entry["object"], entry["created"], entry["owned_by"]) == ("model", card.created, card.owned_by)
            assert entry["eggpool"]["base_model_id"] == card.base_model
            assert entry.get("context_length") == card.limits.context
