"""The scripted provider behaves well: the official SDKs understand it in every dialect, and it forgets nothing."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest
import uvloop
from tests.helpers.upstream import (
    CHAT,
    CHAT_STREAM,
    MESSAGES_STREAM,
    RESPONSES_STREAM,
    TURN,
    Loop,
    ask,
    exchange,
    head_and_body,
    raw_request,
    with_provider,
)

from eggpool.domain import ListedModel
from eggpool.scripted import (
    DEFAULT_MODELS,
    ScriptedProvider,
    chat_reply,
    chat_stream_events,
    good,
    hang_after_events,
    messages_reply,
    messages_stream_events,
    responses_reply,
    responses_stream_events,
)

CHAT_TOOL: Any = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks something up.",
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string"}, "times": {"type": "integer"}},
            "required": ["word", "times"],
        },
    },
}
MESSAGES_TOOL: Any = {"name": "look_up", "input_schema": CHAT_TOOL["function"]["parameters"]}
ARGUMENTS = {"word": "sample text", "times": 3}


def openai_client(provider: ScriptedProvider, key: str = "sk-a") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=key, base_url=provider.base_url, max_retries=0)


def anthropic_client(provider: ScriptedProvider, key: str = "sk-a") -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(api_key=key, base_url=provider.origin, max_retries=0)


# The good provider, judged by the official SDKs.


@pytest.mark.parametrize("loop", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_chat_answer_is_understood_by_the_sdk(loop: Loop | None) -> None:
    """A plain and a streamed chat answer carry text, stop reason and the same counted usage."""

    async def test(provider: ScriptedProvider) -> None:
        async with openai_client(provider) as client:
            plain = await client.chat.completions.create(model="scripted-large", messages=TURN)
            assert plain.choices[0].message.content == "You said: count these four"
            assert plain.choices[0].finish_reason == "stop"
            assert plain.usage is not None
            assert (plain.usage.prompt_tokens, plain.usage.completion_tokens) == (3, 5)
            async with await client.chat.completions.create(
                model="scripted-large", messages=TURN, stream=True, stream_options={"include_usage": True}
            ) as arriving:
                streamed = [chunk async for chunk in arriving]
        assert streamed[0].choices[0].delta.role == "assistant"
        text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)
        assert text == "You said: count these four"
        assert streamed[-2].choices[0].finish_reason == "stop"
        assert not streamed[-1].choices
        assert streamed[-1].usage is not None
        assert (streamed[-1].usage.prompt_tokens, streamed[-1].usage.completion_tokens) == (3, 5)
        assert all(chunk.usage is None for chunk in streamed[:-1])

    with_provider(test, {"sk-a": good}, loop=loop)


def test_a_chat_stream_reports_usage_only_when_asked() -> None:
    """Without `stream_options.include_usage` no chunk mentions usage."""
    assert b"usage" not in b"".join(chat_stream_events(CHAT_STREAM))


@pytest.mark.parametrize("loop", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_messages_answer_is_understood_by_the_sdk(loop: Loop | None) -> None:
    """A plain and a streamed message are the same message."""

    async def test(provider: ScriptedProvider) -> None:
        async with anthropic_client(provider) as client:
            plain = await client.messages.create(model="claude-scripted", max_tokens=99, messages=TURN)
            async with client.messages.stream(model="claude-scripted", max_tokens=99, messages=TURN) as arriving:
                streamed = await arriving.get_final_message()
            counted = await client.messages.count_tokens(model="claude-scripted", messages=TURN)
        for message in (plain, streamed):
            assert [block.text for block in message.content if block.type == "text"] == ["You said: count these four"]
            assert message.stop_reason == "end_turn"
            assert (message.usage.input_tokens, message.usage.output_tokens) == (3, 5)
        assert counted.input_tokens == 3

    with_provider(test, {"sk-a": good}, loop=loop)


def test_messages_events_come_in_the_documented_order() -> None:
    """message_start, the block with a ping after its start, message_delta, message_stop."""
    names = [event.split(b"\n")[0].removeprefix(b"event: ") for event in messages_stream_events(MESSAGES_STREAM)]
    assert names == [
        b"message_start",
        b"content_block_start",
        b"ping",
        *[b"content_block_delta"] * 5,
        b"content_block_stop",
        b"message_delta",
        b"message_stop",
    ]


def test_a_response_is_understood_by_the_sdk() -> None:
    """A plain and a streamed response agree, their events are numbered, and a stored one can be fetched and deleted."""

    async def test(provider: ScriptedProvider) -> None:
        async with openai_client(provider) as client:
            plain = await client.responses.create(model="scripted-large", input="count these four")
            async with client.responses.stream(model="scripted-large", input="count these four") as arriving:
                events = [event async for event in arriving]
                streamed = await arriving.get_final_response()
            assert [event.sequence_number for event in events] == list(range(len(events)))
            assert events[0].type == "response.created"
            assert events[-1].type == "response.completed"
            for response in (plain, streamed):
                assert response.output_text == "You said: count these four"
                assert response.usage is not None
                assert (response.usage.input_tokens, response.usage.output_tokens) == (3, 5)
            assert (await client.responses.retrieve(plain.id)).output_text == plain.output_text
            following = await client.responses.create(
                model="scripted-large", input="and now", previous_response_id=plain.id
            )
            assert following.previous_response_id == plain.id
            async with openai_client(provider, "sk-b") as stranger:
                with pytest.raises(openai.NotFoundError):
                    await stranger.responses.retrieve(plain.id)
            await client.responses.delete(plain.id)
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(plain.id)

    with_provider(test, {"sk-a": good, "sk-b": good})


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_a_chat_tool_round_trip(streamed: bool) -> None:
    """A tool that the user mentions is called with arguments of its schema; its result leads to a text."""

    async def test(provider: ScriptedProvider) -> None:
        turns: list[Any] = [{"role": "user", "content": "please look_up something"}]
        async with openai_client(provider) as client:

            async def complete() -> Any:
                if not streamed:
                    return await client.chat.completions.create(
                        model="scripted-large", messages=turns, tools=[CHAT_TOOL]
                    )
                async with client.chat.completions.stream(
                    model="scripted-large", messages=turns, tools=[CHAT_TOOL]
                ) as arriving:
                    return await arriving.get_final_completion()

            called = await complete()
            assert called.choices[0].finish_reason == "tool_calls"
            (call,) = called.choices[0].message.tool_calls
            assert call.function.name == "look_up"
            assert json.loads(call.function.arguments) == ARGUMENTS
            plain_call = {"name": call.function.name, "arguments": call.function.arguments}
            turns.append(
                {"role": "assistant", "tool_calls": [{"id": call.id, "type": "function", "function": plain_call}]}
            )
            turns.append({"role": "tool", "tool_call_id": call.id, "content": "found by look_up"})
            final = await complete()
        assert final.choices[0].finish_reason == "stop"
        assert final.choices[0].message.content == "You said: found by look_up"

    with_provider(test)


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_a_messages_tool_round_trip(streamed: bool) -> None:
    """The same in Messages: tool_use with input, tool_result, text."""

    async def test(provider: ScriptedProvider) -> None:
        turns: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "please look_up something"}]}]
        async with anthropic_client(provider) as client:

            async def complete() -> Any:
                wanted: Any = {"model": "claude-scripted", "max_tokens": 99, "messages": turns}
                if not streamed:
                    return await client.messages.create(**wanted, tools=[MESSAGES_TOOL])
                async with client.messages.stream(**wanted, tools=[MESSAGES_TOOL]) as arriving:
                    return await arriving.get_final_message()

            called = await complete()
            assert called.stop_reason == "tool_use"
            (block,) = called.content
            assert (block.type, block.name, block.input) == ("tool_use", "look_up", ARGUMENTS)
            use = {"type": "tool_use", "id": block.id, "name": block.name, "input": block.input}
            turns.append({"role": "assistant", "content": [use]})
            result = {"type": "tool_result", "tool_use_id": block.id, "content": "found by look_up"}
            turns.append({"role": "user", "content": [result]})
            final = await complete()
        assert final.stop_reason == "end_turn"
        assert final.content[0].text == "You said: found by look_up"

    with_provider(test)


def test_a_responses_tool_round_trip() -> None:
    """The same in Responses: function_call streamed, function_call_output, text."""

    async def test(provider: ScriptedProvider) -> None:
        tool: Any = {"type": "function", "strict": False, **CHAT_TOOL["function"]}
        turns: list[Any] = [{"role": "user", "content": "please look_up something"}]
        async with openai_client(provider) as client:
            async with client.responses.stream(model="scripted-large", input=turns, tools=[tool]) as arriving:
                called = await arriving.get_final_response()
            (item,) = called.output
            assert item.type == "function_call"
            assert (item.name, json.loads(item.arguments)) == ("look_up", ARGUMENTS)
            use: Any = {
                "type": "function_call",
                "call_id": item.call_id,
                "name": item.name,
                "arguments": item.arguments,
            }
            result: Any = {"type": "function_call_output", "call_id": item.call_id, "output": "found by look_up"}
            final = await client.responses.create(model="scripted-large", input=[*turns, use, result], tools=[tool])
        assert final.output_text == "You said: found by look_up"

    with_provider(test)


def test_an_output_limit_cuts_the_answer() -> None:
    """A limit below the answer's length ends it with the dialect's word for that."""

    async def test(provider: ScriptedProvider) -> None:
        async with openai_client(provider) as chat, anthropic_client(provider) as messages:
            short = await chat.chat.completions.create(model="scripted-small", messages=TURN, max_completion_tokens=2)
            assert short.choices[0].finish_reason == "length"
            assert short.choices[0].message.content == "You said:"
            cut = await messages.messages.create(model="claude-scripted", max_tokens=2, messages=TURN)
            assert cut.stop_reason == "max_tokens"
            unfinished = await chat.responses.create(model="scripted-small", input="some words", max_output_tokens=1)
            assert unfinished.status == "incomplete"

    with_provider(test)


def test_the_other_endpoints_answer_the_sdk() -> None:
    """Embeddings, completions, pictures and transcriptions are understood."""

    async def test(provider: ScriptedProvider) -> None:
        async with openai_client(provider) as client:
            vectors = await client.embeddings.create(model="scripted-small", input=["one two", "three"])
            assert [len(entry.embedding) for entry in vectors.data] == [8, 8]
            assert vectors.usage.prompt_tokens == 3
            completion = await client.completions.create(model="scripted-small", prompt="once upon")
            assert completion.choices[0].text == "You said: once upon"
            async with await client.completions.create(
                model="scripted-small", prompt="once upon", stream=True
            ) as arriving:
                assert "".join([chunk.choices[0].text async for chunk in arriving]) == "You said: once upon"
            picture = await client.images.generate(model="scripted-small", prompt="a grey dot")
            assert picture.data is not None
            assert picture.data[0].b64_json is not None
            heard = await client.audio.transcriptions.create(model="scripted-small", file=("a.wav", b"\r\n12345678"))
            assert heard.text == "A recording of 10 bytes."
        ranked = await exchange(
            provider,
            raw_request(
                b'{"model":"scripted-small","query":"red egg","documents":["a hen",{"text":"an egg"},"red egg"]}',
                "/v1/rerank",
                "Connection: close\r\n",
            ),
        )
        results = json.loads(head_and_body(ranked)[1])["results"]
        assert [result["index"] for result in results] == [2, 1, 0]

    with_provider(test)


def test_models_are_listed_in_both_shapes() -> None:
    """The OpenAI shape has limits and prices per token where known; the Anthropic shape comes in pages."""
    many = (*DEFAULT_MODELS, *(ListedModel(f"extra/{number}") for number in range(30)))

    async def test(provider: ScriptedProvider) -> None:
        async with openai_client(provider) as chat, anthropic_client(provider) as messages:
            listed = [model async for model in await chat.models.list()]
            paged = [model.id async for model in messages.models.list()]
            one = await chat.models.retrieve("extra/7")
        assert [model.id for model in listed] == paged == [model.id for model in many]
        assert one.id == "extra/7"
        first = listed[0].model_dump()
        assert first["context_length"] == 200_000
        assert Decimal(first["pricing"]["completion"]) == Decimal("0.000015")
        assert "pricing" not in listed[1].model_dump()
        assert [request.path for request in provider.work] == []

    with_provider(test, models=many)


def test_refusals_have_the_dialects_shape() -> None:
    """An unknown key, an unknown model and a missing field are 401, 404 and 400 that the SDKs recognise."""

    async def test(provider: ScriptedProvider) -> None:
        async with openai_client(provider, "sk-no") as chat, anthropic_client(provider, "sk-no") as messages:
            with pytest.raises(openai.AuthenticationError) as openai_error:
                await chat.models.list()
            assert openai_error.value.code == "invalid_api_key"
            with pytest.raises(anthropic.AuthenticationError) as anthropic_error:
                await messages.messages.create(model="claude-scripted", max_tokens=1, messages=TURN)
            assert anthropic_error.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]
        async with openai_client(provider) as chat, anthropic_client(provider) as messages:
            with pytest.raises(openai.NotFoundError) as missing:
                await chat.chat.completions.create(model="nobody", messages=TURN)
            assert missing.value.code == "model_not_found"
            with pytest.raises(anthropic.NotFoundError):
                await messages.messages.create(model="nobody", max_tokens=1, messages=TURN)
            with pytest.raises(openai.BadRequestError):
                await chat.chat.completions.create(model="scripted-large", messages=[])
            with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
                await messages.post("/v1/messages", cast_to=object, body={"model": "claude-scripted", "messages": TURN})

    with_provider(test, {"sk-a": good})


# What it remembers.


def test_a_request_is_recorded_as_it_came() -> None:
    """Method, path, query, header names and order, body, key and connection are kept."""

    async def test(provider: ScriptedProvider) -> None:
        sent = (
            b"POST /v1/messages?beta=true&x HTTP/1.1\r\nHost: x\r\nX-Api-Key: sk-a\r\naNtHrOpIc-Beta:  a,b \r\n"
            b"aNtHrOpIc-Beta: c\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        sent += b"5;note=1\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
        await exchange(provider, sent)
        (request,) = provider.requests
        assert (request.method, request.path, request.query) == ("POST", "/v1/messages", "beta=true&x")
        assert request.headers[1:4] == (("X-Api-Key", "sk-a"), ("aNtHrOpIc-Beta", "a,b"), ("aNtHrOpIc-Beta", "c"))
        assert request.body == b"hello world"
        assert request.api_key == "sk-a"
        assert (request.connection, request.place_on_connection) == (1, 1)
        assert "sk-a" not in repr(request)

    with_provider(test, {"sk-a": good})


@pytest.mark.parametrize(
    ("header", "key"),
    [("Authorization: Bearer k-1", "k-1"), ("Authorization: k-1", "k-1"), ("X-API-Key: k-1", "k-1"), ("A: b", None)],
)
def test_a_key_is_found_wherever_it_is_put(header: str, key: str | None) -> None:
    """Bearer, the bare Authorization header and x-api-key are keys."""

    async def test(provider: ScriptedProvider) -> None:
        await exchange(provider, raw_request(CHAT, extra=f"{header}\r\nConnection: close\r\n"))
        assert provider.requests[0].api_key == key

    with_provider(test)


def test_a_connection_is_kept_for_the_next_request() -> None:
    """Two requests of one SDK client share a connection, and each reply is complete with its bytes counted."""

    async def test(provider: ScriptedProvider) -> None:
        async with openai_client(provider) as client:
            for _ in range(2):
                await client.chat.completions.create(model="scripted-large", messages=TURN)
        first, second = provider.requests
        assert (first.connection, second.connection) == (1, 1)
        assert (first.place_on_connection, second.place_on_connection) == (1, 2)
        assert first.end == second.end == "complete"
        assert first.bytes_written > len(chat_reply(first.body))
        await provider.wait_for(lambda p: p.open_connections == 0)

    with_provider(test)


def test_replies_equal_the_exported_helpers_byte_for_byte() -> None:
    """What the helpers build from a body is what comes over the wire for it."""

    async def test(provider: ScriptedProvider) -> None:
        assert head_and_body(await ask(provider, CHAT))[1] == chat_reply(CHAT)
        assert head_and_body(await ask(provider, CHAT_STREAM))[1] == b"".join(chat_stream_events(CHAT_STREAM))
        streamed = head_and_body(await ask(provider, MESSAGES_STREAM))[1]
        assert streamed == b"".join(messages_stream_events(MESSAGES_STREAM))
        streamed = head_and_body(await ask(provider, RESPONSES_STREAM))[1]
        assert streamed == b"".join(responses_stream_events(RESPONSES_STREAM))
        for path, body, helper in (
            ("/v1/messages", MESSAGES_STREAM.replace(b"true", b"false"), messages_reply),
            ("/v1/responses", RESPONSES_STREAM.replace(b"true", b"false"), responses_reply),
        ):
            plain = await exchange(provider, raw_request(body, path, "Connection: close\r\n"))
            assert head_and_body(plain)[1] == helper(body)

    with_provider(test)


@pytest.mark.parametrize("loop", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_client_that_leaves_is_seen_at_once(loop: Loop | None) -> None:
    """A client that closes inside a stream ends it there: the request says so, with the time and the bytes so far."""

    async def test(provider: ScriptedProvider) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
        writer.write(raw_request(CHAT_STREAM))
        await reader.readuntil(b'"content":"You"')
        assert provider.open_connections == 1
        writer.close()
        await writer.wait_closed()
        await provider.wait_for(lambda p: p.closed_early == 1 and p.open_connections == 0)
        (request,) = provider.requests
        assert request.end == "client_left"
        assert request.ended_at_s is not None
        assert request.ended_at_s >= request.received_at_s
        assert 0 < request.bytes_written < len(b"".join(chat_stream_events(CHAT_STREAM)))

    with_provider(test, default=hang_after_events(2), loop=loop)


def test_memory_is_bounded() -> None:
    """Only the last requests are kept; all are counted, and each reply has an id of its own."""

    async def test(provider: ScriptedProvider) -> None:
        heads = [head_and_body(await ask(provider, body))[0] for body in (CHAT, CHAT, CHAT_STREAM)]
        assert [request.body for request in provider.requests] == [CHAT, CHAT_STREAM]
        assert provider.received_requests == 3
        for number, head in enumerate(heads, 1):
            assert f"x-request-id: req_{number:06}" in head

    with_provider(test, remember=2)


def test_waiting_is_bounded() -> None:
    """A predicate that never comes true raises TimeoutError."""

    async def test(provider: ScriptedProvider) -> None:
        with pytest.raises(TimeoutError):
            await provider.wait_for(lambda p: bool(p.requests), timeout_s=0.01)

    with_provider(test)
