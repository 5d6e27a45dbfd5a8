"""The official anthropic SDK is served by providers that do not speak its dialect, and cannot tell."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel
from tests.helpers.pool import run
from tests.scenarios.asking import CHAT, MESSAGES
from tests.scenarios.crossing import OTHERS, TRANSLATION, anthropic_client, golden, judged, one_dialect

from eggpool.domain import Dialect
from eggpool.scripted import good, say

MODEL = "scripted-large"
TURN: Any = [{"role": "user", "content": "say three words"}]
SCHEMA: Any = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
NAMES = ("look_up", "write_down")
TOOLS: Any = [{"name": name, "description": "A tool.", "input_schema": SCHEMA} for name in NAMES]
ASKS_FOR_BOTH: Any = {"role": "user", "content": "please look_up and write_down"}
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()


class Words(BaseModel):
    """What the structured answers hold."""

    word: str
    count: int


@pytest.mark.parametrize("theirs", OTHERS[MESSAGES])
def test_plain_message(tmp_path: Path, theirs: Dialect) -> None:
    """A plain message has its id, its reason and usage in this dialect's names, and the limit reaches the provider."""

    async def scenario() -> None:
        async with one_dialect(tmp_path, theirs, {"one": good}) as (pool, upstream), anthropic_client(pool) as client:
            asked: Any = {"model": MODEL, "max_tokens": 77, "system": "Be brief.", "messages": TURN}
            raw = await client.messages.with_raw_response.create(
                **asked, stop_sequences=["END"], extra_body={"top_k": 5}
            )
            reply = await raw.parse()
            assert (reply.type, reply.role, reply.model) == ("message", "assistant", MODEL)
            assert reply.id.startswith("msg_")
            assert [block.model_dump(include={"type", "text"}) for block in reply.content] == [
                {"type": "text", "text": "You said: say three words"}
            ]
            assert (reply.stop_reason, reply.stop_sequence) == ("end_turn", None)
            assert (reply.usage.input_tokens, reply.usage.output_tokens) == (5, 5)
            assert b"prompt_tokens" not in await raw.read()
            sent = judged(upstream.work[0])
            if theirs is CHAT:
                assert (sent["max_tokens"], sent["stop"]) == (77, ["END"])
                assert raw.headers[TRANSLATION] == "messages>chat; lost=top_k"
            else:
                assert (sent["max_output_tokens"], sent["instructions"]) == (77, "Be brief.")
                assert raw.headers[TRANSLATION] == "messages>responses; lost=top_k,stop"
            cut_short = await client.messages.create(model=MODEL, max_tokens=2, messages=TURN)
            assert cut_short.stop_reason == "max_tokens"

    run(scenario)


@pytest.mark.parametrize("theirs", OTHERS[MESSAGES])
def test_streamed_message(tmp_path: Path, theirs: Dialect) -> None:
    """A message stream begins with message_start, numbers its blocks, ends once, and the helper accumulates it."""

    async def scenario() -> None:
        async with one_dialect(tmp_path, theirs, {"one": good}) as (pool, upstream), anthropic_client(pool) as client:
            asked: Any = {"model": MODEL, "max_tokens": 99, "messages": TURN}
            async with await client.messages.create(stream=True, **asked) as raw:
                kinds = [event.type async for event in raw]
            assert kinds[:2] == ["message_start", "content_block_start"]
            assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
            assert kinds.count("message_start") == kinds.count("message_stop") == 1
            assert set(kinds[2:-3]) == {"content_block_delta"}
            async with client.messages.stream(**asked) as stream:
                assert await stream.get_final_text() == "You said: say three words"
                final = await stream.get_final_message()
            assert (final.usage.input_tokens, final.usage.output_tokens) == (3, 5)
            assert final.stop_reason == "end_turn"
            assert judged(upstream.work[0])["stream"] is True
            assert [row.record.usage.output_tokens for row in await pool.booked(2)] == [5, 5]

    run(scenario)


@pytest.mark.parametrize("theirs", OTHERS[MESSAGES])
@pytest.mark.parametrize("streamed", [False, True])
def test_tools_there_and_back(tmp_path: Path, theirs: Dialect, streamed: bool) -> None:
    """Two calls at once come as objects, and both results, a failed one too, reach the provider behind their calls."""

    async def scenario() -> None:
        async with one_dialect(tmp_path, theirs, {"one": good}) as (pool, upstream), anthropic_client(pool) as client:
            asked: Any = {"model": MODEL, "max_tokens": 99, "tools": TOOLS}
            first: anthropic.types.Message
            if streamed:
                async with client.messages.stream(messages=[ASKS_FOR_BOTH], **asked) as stream:
                    first = await stream.get_final_message()
            else:
                first = await client.messages.create(messages=[ASKS_FOR_BOTH], **asked)
            assert first.stop_reason == "tool_use"
            calls: Any = first.content
            assert [(call.type, call.name, call.input) for call in calls] == [
                ("tool_use", name, {"word": "sample text"}) for name in NAMES
            ]
            assert len({call.id for call in calls}) == 2
            results = [
                {"type": "tool_result", "tool_use_id": calls[0].id, "content": "found 0"},
                {
                    "type": "tool_result",
                    "tool_use_id": calls[1].id,
                    "content": [{"type": "text", "text": "found 1"}],
                    "is_error": True,
                },
            ]
            said = {"role": "assistant", "content": [block.model_dump() for block in first.content]}
            words = {"type": "text", "text": "and now"}
            messages: Any = [ASKS_FOR_BOTH, said, {"role": "user", "content": [*results, words]}]
            last = await client.messages.create(messages=messages, **asked)
            assert "and now" in str(last.content)
            again = judged(upstream.work[1])
            if theirs is CHAT:
                assert [call["function"]["arguments"] for call in again["messages"][1]["tool_calls"]] == [
                    '{"word":"sample text"}'
                ] * 2
                assert [one.get("tool_call_id") for one in again["messages"][2:]] == [calls[0].id, calls[1].id, None]
                assert [one["content"] for one in again["messages"][2:]] == ["found 0", "found 1", "and now"]
            else:
                kinds = [item["type"] for item in again["input"]]
                assert kinds == ["message", *["function_call"] * 2, *["function_call_output"] * 2, "message"]
                assert [item["call_id"] for item in again["input"][3:5]] == [calls[0].id, calls[1].id]

    run(scenario)


@pytest.mark.parametrize(
    ("choice", "chat", "responses"),
    [
        ({"type": "any"}, "required", "required"),
        ({"type": "none"}, "none", "none"),
        (
            {"type": "tool", "name": "look_up", "disable_parallel_tool_use": True},
            {"type": "function", "function": {"name": "look_up"}},
            {"type": "function", "name": "look_up"},
        ),
    ],
    ids=["any", "none", "named"],
)
@pytest.mark.parametrize("theirs", OTHERS[MESSAGES])
def test_choice_of_tools(tmp_path: Path, theirs: Dialect, choice: Any, chat: Any, responses: Any) -> None:
    """Which tool must be called is told in the provider's words."""

    async def scenario() -> None:
        async with one_dialect(tmp_path, theirs, {"one": good}) as (pool, upstream), anthropic_client(pool) as client:
            await client.messages.create(model=MODEL, max_tokens=9, messages=TURN, tools=TOOLS, tool_choice=choice)
            sent = judged(upstream.work[0])
            assert sent["tool_choice"] == (chat if theirs is CHAT else responses)
            one_at_a_time = choice.get("disable_parallel_tool_use")
            assert sent.get("parallel_tool_calls") == (None if one_at_a_time is None else not one_at_a_time)

    run(scenario)


@pytest.mark.parametrize("streamed", [False, True])
def test_thinking(tmp_path: Path, streamed: bool) -> None:
    """What a chat model thinks is a thinking block before its calls, and an agent can send it back."""

    async def scenario() -> None:
        accounts = {"one": golden(CHAT, "thinking_tools.sse" if streamed else "thinking_tools.json")}
        async with one_dialect(tmp_path, CHAT, accounts) as (pool, upstream), anthropic_client(pool) as client:
            asked: Any = {
                "model": MODEL,
                "max_tokens": 9000,
                "thinking": {"type": "enabled", "budget_tokens": 8192},
                "tools": [{"name": "read_file", "input_schema": {"type": "object", "properties": {}}}],
            }
            first: Any
            if streamed:
                async with client.messages.stream(messages=TURN, **asked) as stream:
                    first = await stream.get_final_message()
            else:
                first = await client.messages.create(messages=TURN, **asked)
            assert [block.type for block in first.content] == ["thinking", "text", "tool_use", "tool_use"]
            assert first.content[0].thinking == "Two files to read."
            assert first.stop_reason == "tool_use"
            usage = first.usage
            assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (44, 256, 60)
            assert judged(upstream.work[0])["reasoning_effort"] == "medium"
            results = [
                {"type": "tool_result", "tool_use_id": block.id, "content": "text"} for block in first.content[2:]
            ]
            said = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]}
            messages: Any = [*TURN, said, {"role": "user", "content": results}]
            if streamed:
                async with client.messages.stream(messages=messages, **asked) as stream:
                    await stream.get_final_message()
            else:
                await client.messages.create(messages=messages, **asked)
            again = judged(upstream.work[1])["messages"]
            assert [one["role"] for one in again] == ["user", "assistant", "tool", "tool"]
            assert again[1]["reasoning_content"] == "Two files to read."

    run(scenario)


@pytest.mark.parametrize("theirs", OTHERS[MESSAGES])
def test_parsed_and_pictures(tmp_path: Path, theirs: Dialect) -> None:
    """A schema and pictures cross, and the SDK parses what comes back."""

    async def scenario() -> None:
        accounts = {"one": say('{"word":"egg","count":3}')}
        async with one_dialect(tmp_path, theirs, accounts) as (pool, upstream), anthropic_client(pool) as client:
            content: Any = [
                {"type": "text", "text": "what is this"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
                {"type": "image", "source": {"type": "url", "url": "https://example.com/egg.png"}},
            ]
            parsed = await client.messages.parse(
                model=MODEL, max_tokens=99, messages=[{"role": "user", "content": content}], output_format=Words
            )
            assert parsed.parsed_output == Words(word="egg", count=3)
            sent = judged(upstream.work[0])
            urls = [f"data:image/png;base64,{PIXEL}", "https://example.com/egg.png"]
            if theirs is CHAT:
                assert [part["image_url"]["url"] for part in sent["messages"][0]["content"][1:]] == urls
                assert sent["response_format"]["type"] == "json_schema"
            else:
                assert [part["image_url"] for part in sent["input"][0]["content"][1:]] == urls
                assert sent["text"]["format"]["type"] == "json_schema"

    run(scenario)


@pytest.mark.parametrize("theirs", OTHERS[MESSAGES])
def test_count_tokens(tmp_path: Path, theirs: Dialect) -> None:
    """Where no provider counts, an estimate is given that says what it is, and nobody is asked."""

    async def scenario() -> None:
        async with one_dialect(tmp_path, theirs, {"one": good}) as (pool, upstream), anthropic_client(pool) as client:
            raw = await client.messages.with_raw_response.count_tokens(model=MODEL, messages=TURN)
            counted = (await raw.parse()).input_tokens
            assert raw.headers["x-eggpool-estimate"] == "true"
            assert 1 <= counted < 100
            assert upstream.work == []
            with pytest.raises(anthropic.NotFoundError, match="no-such-model"):
                await client.messages.count_tokens(model="no-such-model", messages=TURN)

    run(scenario)
