"""The official openai SDK is served by providers that do not speak its dialect, and cannot tell."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from tests.helpers.pool import run
from tests.scenarios.asking import CHAT, MESSAGES, RESPONSES
from tests.scenarios.crossing import GOLDEN, OTHERS, TRANSLATION, golden, judged, one_dialect, openai_client

from eggpool.domain import Dialect
from eggpool.scripted import good, say
from eggpool.wire.prompt import Effort
from eggpool.wire.reasoning import BUDGETS

MODEL = "scripted-large"
TURN: Any = [{"role": "user", "content": "say three words"}]
SCHEMA: Any = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
NAMES = ("look_up", "write_down")
CHAT_TOOLS: Any = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in NAMES]
RESPONSES_TOOLS: Any = [{"type": "function", "name": name, "parameters": SCHEMA, "strict": False} for name in NAMES]
ASKS_FOR_BOTH = "please look_up and write_down"
ARGUMENTS = '{"word":"sample text"}'
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()


class Words(BaseModel):
    """What the structured answers hold."""

    word: str
    count: int


@pytest.mark.parametrize("theirs", OTHERS[CHAT])
def test_plain_chat(tmp_path: Path, theirs: Dialect) -> None:
    """A plain chat answer has its ids, its time, its reason and its usage, and the provider's own kind of request."""

    async def scenario() -> None:
        async with one_dialect(tmp_path, theirs, {"one": good}) as (pool, upstream), openai_client(pool) as client:
            raw = await client.chat.completions.with_raw_response.create(
                model=MODEL, messages=[{"role": "system", "content": "Be brief."}, *TURN], stop=["END"], temperature=1.5
            )
            reply = raw.parse()
            assert reply.id.startswith("chatcmpl-")
            assert len(reply.id) > len("chatcmpl-")
            assert (reply.object, reply.model) == ("chat.completion", MODEL)
            assert reply.created > 1_700_000_000
            assert reply.choices[0].message.content == "You said: say three words"
            assert reply.choices[0].finish_reason == "stop"
            assert reply.usage is not None
            assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (5, 5, 10)
            asked = judged(upstream.work[0])
            if theirs is MESSAGES:
                assert (asked["max_tokens"], asked["stop_sequences"], asked["temperature"]) == (32_000, ["END"], 1.0)
                assert asked["system"] == "Be brief."
                assert "stop" not in asked
                assert raw.headers[TRANSLATION] == "chat>messages; lost=temperature"
            else:
                assert (asked["store"], asked["temperature"]) == (False, 1.5)
                assert raw.headers[TRANSLATION] == "chat>responses; lost=stop"
            row = (await pool.booked(1))[0].record
            assert (row.usage.input_tokens, row.usage.output_tokens, row.outcome.value) == (5, 5, "completed")
            assert row.dialect is CHAT

    run(scenario)


@pytest.mark.parametrize("theirs", OTHERS[CHAT])
@pytest.mark.parametrize("asked", [True, False])
def test_streamed_chat(tmp_path: Path, theirs: Dialect, asked: bool) -> None:
    """A chat stream begins with the role, ends with one reason and one end marker, and tells usage when asked to."""

    async def scenario() -> None:
        async with one_dialect(tmp_path, theirs, {"one": good}) as (pool, upstream), openai_client(pool) as client:
            options: Any = {"include_usage": True} if asked else openai.omit
            async with await client.chat.completions.create(
                model=MODEL, messages=TURN, stream=True, stream_options=options
            ) as stream:
                chunks = [chunk async for chunk in stream]
            assert chunks[0].choices[0].delta.role == "assistant"
            assert len({chunk.id for chunk in chunks}) == 1
            assert all(chunk.created > 1_700_000_000 and chunk.model == MODEL for chunk in chunks)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            assert text == "You said: say three words"
            reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
            assert [reason for reason in reasons if reason] == ["stop"]
            assert reasons[-1] == "stop"
            usages = [chunk.usage for chunk in chunks if chunk.usage]
            assert [usage.completion_tokens for usage in usages] == ([5] if asked else [])
            assert judged(upstream.work[0])["stream"] is True
            body: Any = {"model": MODEL, "messages": TURN, "stream": True}
            _, raw = await pool.answer("/v1/chat/completions", body)
            assert raw.count(b"[DONE]") == 1
            assert raw.endswith(b"data: [DONE]\n\n")
            assert [row.record.usage.output_tokens for row in await pool.booked(2)] == [5, 5]

    run(scenario)


@pytest.mark.parametrize("theirs", OTHERS[CHAT])
@pytest.mark.parametrize("streamed", [False, True])
def test_chat_tools_there_and_back(tmp_path: Path, theirs: Dialect, streamed: bool) -> None:
    """Two calls at once come with whole arguments, and both results reach the provider as results of these calls."""

    async def scenario() -> None:
        async with one_dialect(tmp_path, theirs, {"one": good}) as (pool, upstream), openai_client(pool) as client:
            turn: Any = {"role": "user", "content": ASKS_FOR_BOTH}
            asked: Any = {"model": MODEL, "messages": [turn], "tools": CHAT_TOOLS, "parallel_tool_calls": True}
            first: Any
            if streamed:
                async with client.chat.completions.stream(**asked) as stream:
                    first = await stream.get_final_completion()
            else:
                first = await client.chat.completions.create(**asked)
            assert first.choices[0].finish_reason == "tool_calls"
            calls = first.choices[0].message.tool_calls
            assert [call.function.name for call in calls] == list(NAMES)
            assert [call.function.arguments for call in calls] == [ARGUMENTS, ARGUMENTS]
            assert len({call.id for call in calls}) == 2
            said = {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.function.name, "arguments": call.function.arguments},
                    }
                    for call in calls
                ],
            }
            results = [
                {"role": "tool", "tool_call_id": call.id, "content": f"found {place}"}
                for place, call in enumerate(calls)
            ]
            messages: Any = [turn, said, *results]
            last = await client.chat.completions.create(model=MODEL, messages=messages, tools=CHAT_TOOLS)
            assert "found 1" in (last.choices[0].message.content or "")
            judged(upstream.work[0])
            again = judged(upstream.work[1])
            if theirs is MESSAGES:
                called, resulted = again["messages"][1]["content"], again["messages"][2]["content"]
                assert [block["input"] for block in called] == [{"word": "sample text"}] * 2
                assert [(one["type"], one["tool_use_id"]) for one in resulted] == [
                    ("tool_result", call.id) for call in calls
                ]
                assert "found 0" in str(resulted[0]["content"])
            else:
                called, resulted = again["input"][1:3], again["input"][3:5]
                assert [(one["type"], one["arguments"]) for one in called] == [("function_call", ARGUMENTS)] * 2
                assert [(one["call_id"], one["output"]) for one in resulted] == [
                    (call.id, f"found {place}") for place, call in enumerate(calls)
                ]

    run(scenario)


@pytest.mark.parametrize("theirs", OTHERS[CHAT])
def test_parsed_chat(tmp_path: Path, theirs: Dialect) -> None:
    """A schema crosses to the provider, and the SDK parses what comes back."""

    async def scenario() -> None:
        accounts = {"one": say('{"word":"egg","count":3}')}
        async with one_dialect(tmp_path, theirs, accounts) as (pool, upstream), openai_client(pool) as client:
            parsed = await client.chat.completions.parse(model=MODEL, messages=TURN, response_format=Words)
            assert parsed.choices[0].message.parsed == Words(word="egg", count=3)
            asked = judged(upstream.work[0])
            told = asked["output_config"]["format"] if theirs is MESSAGES else asked["text"]["format"]
            assert told["type"] == "json_schema"
            assert set(told["schema"]["properties"]) == {"word", "count"}

    run(scenario)


@pytest.mark.parametrize("theirs", OTHERS[CHAT])
def test_pictures_in_a_chat(tmp_path: Path, theirs: Dialect) -> None:
    """A picture crosses as data and as an address."""

    async def scenario() -> None:
        async with one_dialect(tmp_path, theirs, {"one": good}) as (pool, upstream), openai_client(pool) as client:
            url, data = "https://example.com/egg.png", f"data:image/png;base64,{PIXEL}"
            parts: Any = [{"type": "text", "text": "what is this"}]
            parts += [{"type": "image_url", "image_url": {"url": one}} for one in (url, data)]
            await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": parts}])
            asked = judged(upstream.work[0])
            if theirs is MESSAGES:
                sources = [part["source"] for part in asked["messages"][0]["content"][1:]]
                assert sources == [
                    {"type": "url", "url": url},
                    {"type": "base64", "media_type": "image/png", "data": PIXEL},
                ]
            else:
                assert [part["image_url"] for part in asked["input"][0]["content"][1:]] == [url, data]

    run(scenario)


def test_thoughts_in_a_chat(tmp_path: Path) -> None:
    """What a Messages model thinks stands beside the answer, where chat clients look for it."""

    async def scenario() -> None:
        accounts = {"one": golden(MESSAGES, "tools.sse")}
        async with one_dialect(tmp_path, MESSAGES, accounts) as (pool, upstream), openai_client(pool) as client:
            async with await client.chat.completions.create(
                model=MODEL, messages=TURN, tools=CHAT_TOOLS, stream=True, reasoning_effort="high"
            ) as stream:
                chunks = [chunk async for chunk in stream]
            thoughts = "".join(
                (chunk.choices[0].delta.model_extra or {}).get("reasoning_content", "") for chunk in chunks
            )
            assert thoughts
            assert chunks[-1].choices[0].finish_reason == "tool_calls"
            assert judged(upstream.work[0])["thinking"] == {"type": "enabled", "budget_tokens": BUDGETS[Effort.HIGH]}

    run(scenario)


@pytest.mark.parametrize("theirs", OTHERS[RESPONSES])
def test_plain_response(tmp_path: Path, theirs: Dialect) -> None:
    """A response is completed, has output, usage and its request's own fields."""

    async def scenario() -> None:
        async with one_dialect(tmp_path, theirs, {"one": good}) as (pool, upstream), openai_client(pool) as client:
            reply = await client.responses.create(
                model=MODEL, input="say three words", instructions="Be brief.", store=False, max_output_tokens=77
            )
            assert (reply.status, reply.error, reply.incomplete_details) == ("completed", None, None)
            assert reply.output_text == "You said: say three words"
            assert reply.id.startswith("resp_")
            assert reply.created_at > 1_700_000_000
            assert reply.instructions == "Be brief."
            assert reply.usage is not None
            assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.total_tokens) == (5, 5, 10)
            assert judged(upstream.work[0])["max_tokens"] == 77
            short = await client.responses.create(model=MODEL, input="say three words", max_output_tokens=2)
            assert (short.status, short.output_text) == ("incomplete", "You said:")
            assert short.incomplete_details is not None
            assert short.incomplete_details.reason == "max_output_tokens"

    run(scenario)


@pytest.mark.parametrize("theirs", OTHERS[RESPONSES])
@pytest.mark.parametrize("tools", [False, True])
def test_streamed_response(tmp_path: Path, theirs: Dialect, tools: bool) -> None:
    """A responses stream has its events in order, without a gap in their numbers, and the helper accumulates it."""

    async def scenario() -> None:
        async with one_dialect(tmp_path, theirs, {"one": good}) as (pool, upstream), openai_client(pool) as client:
            words = ASKS_FOR_BOTH if tools else "say three words"
            asked: Any = {"model": MODEL, "input": words, "tools": RESPONSES_TOOLS}
            async with await client.responses.create(stream=True, **asked) as raw:
                events = [event async for event in raw]
            assert [event.sequence_number for event in events] == list(range(len(events)))
            kinds = [event.type for event in events]
            assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
            assert kinds[-1] == "response.completed"
            assert kinds.count("response.output_item.done") == kinds.count("response.output_item.added")
            async with client.responses.stream(**asked) as stream:
                final = await stream.get_final_response()
            assert final.status == "completed"
            if tools:
                calls: Any = final.output
                assert [(call.name, call.arguments) for call in calls] == [(name, ARGUMENTS) for name in NAMES]
            else:
                assert final.output_text == "You said: say three words"
            assert judged(upstream.work[0])["stream"] is True

    run(scenario)


@pytest.mark.parametrize("theirs", OTHERS[RESPONSES])
def test_response_tools_there_and_back(tmp_path: Path, theirs: Dialect) -> None:
    """The output of a response is sent back as input with the results of its calls, as agents do."""

    async def scenario() -> None:
        async with one_dialect(tmp_path, theirs, {"one": good}) as (pool, upstream), openai_client(pool) as client:
            turn: Any = {"role": "user", "content": ASKS_FOR_BOTH}
            first = await client.responses.create(model=MODEL, input=[turn], tools=RESPONSES_TOOLS, store=False)
            calls: Any = [item for item in first.output if item.type == "function_call"]
            assert [call.name for call in calls] == list(NAMES)
            results = [
                {"type": "function_call_output", "call_id": call.call_id, "output": f"found {place}"}
                for place, call in enumerate(calls)
            ]
            given: Any = [turn, *[item.model_dump(exclude_none=True) for item in first.output], *results]
            last = await client.responses.create(model=MODEL, input=given, tools=RESPONSES_TOOLS, store=False)
            assert "found 1" in last.output_text
            again = judged(upstream.work[1])["messages"]
            if theirs is CHAT:
                assert [call["function"]["arguments"] for call in again[1]["tool_calls"]] == [ARGUMENTS, ARGUMENTS]
                assert [(one["role"], one["tool_call_id"]) for one in again[2:]] == [
                    ("tool", call.call_id) for call in calls
                ]
            else:
                assert [block["tool_use_id"] for block in again[2]["content"]] == [call.call_id for call in calls]

    run(scenario)


@pytest.mark.parametrize("theirs", OTHERS[RESPONSES])
def test_parsed_response_and_pictures(tmp_path: Path, theirs: Dialect) -> None:
    """A schema and a picture cross, and the SDK parses what comes back."""

    async def scenario() -> None:
        accounts = {"one": say('{"word":"egg","count":3}')}
        async with one_dialect(tmp_path, theirs, accounts) as (pool, upstream), openai_client(pool) as client:
            data = f"data:image/png;base64,{PIXEL}"
            content = [
                {"type": "input_text", "text": "what is this"},
                {"type": "input_image", "image_url": data, "detail": "auto"},
            ]
            given: Any = [{"role": "user", "content": content}]
            parsed = await client.responses.parse(model=MODEL, input=given, text_format=Words)
            assert parsed.output_parsed == Words(word="egg", count=3)
            asked = judged(upstream.work[0])
            if theirs is CHAT:
                assert asked["messages"][0]["content"][1]["image_url"]["url"] == data
                assert asked["response_format"]["json_schema"]["strict"] is True
            else:
                assert asked["messages"][0]["content"][1]["source"]["data"] == PIXEL

    run(scenario)


def test_sealed_thoughts_come_back_to_their_maker(tmp_path: Path) -> None:
    """A Responses client returns a Messages model's signed thoughts, and the provider gets them as it made them."""

    async def scenario() -> None:
        accounts = {"one": golden(MESSAGES, "tools.reply.json")}
        async with one_dialect(tmp_path, MESSAGES, accounts) as (pool, upstream), openai_client(pool) as client:
            turn: Any = {"role": "user", "content": "go"}
            asked: Any = {
                "model": MODEL,
                "tools": RESPONSES_TOOLS,
                "include": ["reasoning.encrypted_content"],
                "reasoning": {"effort": "low", "summary": "auto"},
                "store": False,
            }
            first = await client.responses.create(input=[turn], **asked)
            sealed: Any = next(item for item in first.output if item.type == "reasoning")
            made = next(
                block
                for block in json.loads((GOLDEN / "messages/tools.reply.json").read_bytes())["content"]
                if block["type"] == "thinking"
            )
            assert sealed.encrypted_content.endswith(made["signature"])
            results: Any = [
                {"type": "function_call_output", "call_id": item.call_id, "output": "done"}
                for item in first.output
                if item.type == "function_call"
            ]
            given: Any = [turn, *[item.model_dump(exclude_none=True) for item in first.output], *results]
            await client.responses.create(input=given, **asked)
            again = judged(upstream.work[1])["messages"][1]["content"]
            assert [block for block in again if block["type"] == "thinking"] == [made]

    run(scenario)
