"""The official openai SDK, through a running pool, cannot tell it from OpenAI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.helpers.pool import CLIENT_KEY, RunningPool, key_of, pool_of, provider, run, running_pool, settings

from eggpool.scripted import Behaviour, ScriptedProvider, cut_stream, error, error_in_stream, good, rate_limited

TURN: Any = [{"role": "user", "content": "say three words"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "look_up",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}
ASKS_FOR_TOOL: Any = [{"role": "user", "content": "please look_up this"}]


@asynccontextmanager
async def client_of(pool: RunningPool, key: str = CLIENT_KEY) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key=key, base_url=f"{pool.url}/v1", max_retries=0, timeout=10) as client:
        yield client


def test_plain_answer(tmp_path: Path) -> None:
    """A plain chat answer comes whole, with its usage and the pool's own headers."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, _), client_of(pool) as client:
            raw = await client.chat.completions.with_raw_response.create(model="scripted-large", messages=TURN)
            reply = raw.parse()
            assert reply.choices[0].message.content == "You said: say three words"
            assert reply.choices[0].finish_reason == "stop"
            assert reply.usage is not None
            assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (3, 5)
            assert raw.headers["x-eggpool-account"] == "alpha/one"
            assert raw.headers["x-proxy-attempt-count"] == "1"
            assert len(raw.headers["x-proxy-request-id"]) == 16
            row = (await pool.booked(1))[0].record
            assert (row.usage.input_tokens, row.usage.output_tokens) == (3, 5)
            assert f"{row.id:016x}" == raw.headers["x-proxy-request-id"]

    run(scenario)


@pytest.mark.parametrize("asked", [True, False, None])
def test_streamed_answer(tmp_path: Path, asked: bool | None) -> None:
    """A stream comes whole; its usage reaches the books always and the client exactly when it asked for it."""

    async def scenario() -> None:
        options: Any = openai.omit if asked is None else {"include_usage": asked}
        async with pool_of(tmp_path, {"one": good}) as (pool, upstream), client_of(pool) as client:
            async with await client.chat.completions.create(
                model="scripted-large", messages=TURN, stream=True, stream_options=options
            ) as stream:
                chunks = [chunk async for chunk in stream]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            assert text == "You said: say three words"
            assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
            usages = [chunk.usage for chunk in chunks if chunk.usage]
            assert [usage.completion_tokens for usage in usages] == ([5] if asked else [])
            # Where the client says no, the provider is not asked behind its back; it is when the client says nothing.
            sent = upstream.work[0].payload["stream_options"]
            assert sent == {"include_usage": asked is not False}
            row = (await pool.booked(1))[0].record
            assert row.usage.output_tokens == (0 if asked is False else 5)

    run(scenario)


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_round_trip(tmp_path: Path, streamed: bool) -> None:
    """A tool is called with whole arguments, and its result comes back to the model."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, upstream), client_of(pool) as client:
            if streamed:
                async with client.chat.completions.stream(
                    model="scripted-large", messages=ASKS_FOR_TOOL, tools=[TOOL]
                ) as stream:
                    first = await stream.get_final_completion()
            else:
                first = await client.chat.completions.create(  # type: ignore[assignment]
                    model="scripted-large", messages=ASKS_FOR_TOOL, tools=[TOOL]
                )
            assert first.choices[0].finish_reason == "tool_calls"
            message = first.choices[0].message
            assert message.tool_calls is not None
            call = message.tool_calls[0]
            assert call.type == "function"
            assert (call.function.name, call.function.arguments) == ("look_up", '{"word":"sample text"}')
            said = {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.function.name, "arguments": call.function.arguments},
                    }
                ],
            }
            result = {"role": "tool", "tool_call_id": call.id, "content": "found it"}
            messages: Any = [*ASKS_FOR_TOOL, said, result]
            last = await client.chat.completions.create(model="scripted-large", messages=messages, tools=[TOOL])
            assert last.choices[0].message.content == "You said: found it"
            assert upstream.work[1].payload["messages"] == messages

    run(scenario)


def test_models(tmp_path: Path) -> None:
    """The list has every model with its provider's name behind it; both forms can be retrieved and asked for."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, _), client_of(pool) as client:
            names = [model.id async for model in client.models.list()]
            assert names == ["claude-scripted/alpha", "scripted-large/alpha", "scripted-small/alpha"]
            entry = await client.models.retrieve("scripted-large/alpha")
            assert entry.owned_by == "alpha"
            extra: Any = entry.model_extra
            assert extra["eggpool"]["base_model_id"] == "scripted-large"
            assert extra["eggpool"]["limits"] == {"context": 200_000, "input": None, "output": 32_000}
            assert extra["context_length"] == 200_000
            assert (await client.models.retrieve("scripted-large")).id == "scripted-large"
            for name in (*names, "scripted-small"):
                reply = await client.chat.completions.create(model=name, messages=TURN)
                assert reply.choices[0].finish_reason == "stop"
            with pytest.raises(openai.NotFoundError, match="no-such-model"):
                await client.models.retrieve("no-such-model")

    run(scenario)


def test_embeddings(tmp_path: Path) -> None:
    """Embeddings pass, and their tokens are booked."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, _), client_of(pool) as client:
            found = await client.embeddings.create(model="scripted-small", input=["one text", "another text"])
            assert [len(item.embedding) for item in found.data] == [8, 8]
            row = (await pool.booked(1))[0].record
            assert (row.path, row.usage.input_tokens, row.status) == ("/v1/embeddings", 4, 200)

    run(scenario)


def test_transcription(tmp_path: Path) -> None:
    """A multipart form reaches the provider as it is, routed by the model named inside."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, upstream), client_of(pool) as client:
            heard = await client.audio.transcriptions.create(
                model="scripted-small", file=("speech.wav", b"\x00\x01" * 500, "audio/wav")
            )
            assert heard.text == "A recording of 1000 bytes."
            assert upstream.work[0].path == "/v1/audio/transcriptions"
            row = (await pool.booked(1))[0].record
            assert row.model_asked == "scripted-small"

    run(scenario)


def test_legacy_completions(tmp_path: Path) -> None:
    """The old completions endpoint passes, plain and streamed."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, _), client_of(pool) as client:
            reply = await client.completions.create(model="scripted-small", prompt="two words")
            assert reply.choices[0].text == "You said: two words"
            async with await client.completions.create(
                model="scripted-small", prompt="two words", stream=True
            ) as stream:
                assert "".join([chunk.choices[0].text async for chunk in stream]) == "You said: two words"
            assert {row.record.outcome.value for row in await pool.booked(2)} == {"completed"}

    run(scenario)


def test_images(tmp_path: Path) -> None:
    """Pictures pass."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, _), client_of(pool) as client:
            made = await client.images.generate(model="scripted-small", prompt="a pixel")
            assert made.data is not None
            assert made.data[0].b64_json

    run(scenario)


def test_responses(tmp_path: Path) -> None:
    """Responses come plain and streamed, and go on from one another at the account that keeps them."""

    async def scenario() -> None:
        accounts = {"one": good, "two": good, "three": good}
        async with pool_of(tmp_path, accounts) as (pool, upstream), client_of(pool) as client:
            first = await client.responses.create(model="scripted-large", input="say three words")
            assert first.output_text == "You said: say three words"
            made_by = upstream.work[0].api_key
            async with await client.responses.create(
                model="scripted-large", input="and more words", stream=True
            ) as stream:
                kinds = [event.type async for event in stream]
            assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
            for _ in range(4):
                kept = await client.responses.retrieve(first.id)
                assert kept.output_text == first.output_text
            following = await client.responses.create(
                model="scripted-large", input="go on", previous_response_id=first.id
            )
            assert following.status == "completed"
            await client.responses.input_items.list(first.id)
            await client.responses.delete(first.id)
            used = [request.api_key for request in upstream.work[2:]]
            assert used == [made_by] * 7
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(first.id)
            with pytest.raises(openai.NotFoundError, match="remembers"):
                await client.responses.retrieve("resp_of_somebody_else")
            streamed_row = (await pool.booked(9))[-2].record
            assert (streamed_row.streamed, streamed_row.outcome.value) == (True, "completed")
            assert streamed_row.usage.output_tokens == 5

    run(scenario)


def test_streamed_response_is_remembered(tmp_path: Path) -> None:
    """A response that was streamed is found again at its account too."""

    async def scenario() -> None:
        async with (
            pool_of(tmp_path, {"one": good, "two": good}) as (pool, _),
            client_of(pool) as client,
        ):
            for _ in range(3):
                async with await client.responses.create(model="scripted-large", input="say it", stream=True) as stream:
                    ids = [event.response.id async for event in stream if event.type == "response.completed"]
                assert (await client.responses.retrieve(ids[0])).id == ids[0]

    run(scenario)


def test_wrong_key(tmp_path: Path) -> None:
    """A wrong key is the SDK's own AuthenticationError, and nothing reaches a provider."""

    async def scenario() -> None:
        async with (
            pool_of(tmp_path, {"one": good}) as (pool, upstream),
            client_of(pool, "ep_wrong") as client,
        ):
            with pytest.raises(openai.AuthenticationError) as told:
                await client.chat.completions.create(model="scripted-large", messages=TURN)
            assert told.value.code == "invalid_api_key"
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
            assert upstream.work == []

    run(scenario)


def test_wrong_key_with_a_long_prompt(tmp_path: Path) -> None:
    """A wrong key is told as such even while a large body is still being sent."""

    async def scenario() -> None:
        long: Any = [{"role": "user", "content": "word " * 2_000_000}]
        async with pool_of(tmp_path, {"one": good}) as (pool, _), client_of(pool, "ep_wrong") as client:
            for _ in range(3):
                with pytest.raises(openai.AuthenticationError):
                    await client.chat.completions.create(model="scripted-large", messages=long)

    run(scenario)


def test_unknown_model(tmp_path: Path) -> None:
    """A model that nobody serves is the SDK's NotFoundError, with names that are near."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, _), client_of(pool) as client:
            with pytest.raises(openai.NotFoundError, match="scripted-large") as told:
                await client.chat.completions.create(model="scripted-larg", messages=TURN)
            assert (told.value.code, told.value.param) == ("model_not_found", "model")

    run(scenario)


def test_wrong_dialect(tmp_path: Path) -> None:
    """A model that is served in another dialect only is a BadRequestError that says so."""

    async def scenario() -> None:
        async with ScriptedProvider({key_of("one"): good}) as upstream:
            text = provider("alpha", upstream, "one", extra='protocols = ["anthropic"]')
            config = settings(tmp_path, text, "[translation]\nenabled = false\n")
            async with running_pool(config) as pool, client_of(pool) as client:
                with pytest.raises(openai.BadRequestError, match="messages") as told:
                    await client.chat.completions.create(model="claude-scripted", messages=TURN)
                assert told.value.code == "wrong_dialect"
                assert upstream.work == []

    run(scenario)


def test_all_limited(tmp_path: Path) -> None:
    """When every account is limited, the SDK raises RateLimitError and knows when to come back."""

    async def scenario() -> None:
        accounts = {"one": rate_limited(30), "two": rate_limited(20)}
        async with pool_of(tmp_path, accounts) as (pool, upstream), client_of(pool) as client:
            for _ in range(3):
                with pytest.raises(openai.RateLimitError) as told:
                    await client.chat.completions.create(model="scripted-large", messages=TURN)
                assert 19 <= int(told.value.response.headers["retry-after"]) <= 30
            assert len(upstream.work) == 2

    run(scenario)


def test_upstream_400_is_passed_on(tmp_path: Path) -> None:
    """A provider's refusal of the request reaches the client in the provider's words, and no account suffers."""

    async def scenario() -> None:
        words = "messages.0: the role 'narrator' is not known"
        accounts = {"one": Behaviour(error(400, message=words)), "two": Behaviour(error(400, message=words))}
        async with pool_of(tmp_path, accounts) as (pool, upstream), client_of(pool) as client:
            with pytest.raises(openai.BadRequestError, match="narrator"):
                await client.chat.completions.create(model="scripted-large", messages=TURN)
            assert len(upstream.work) == 1
            assert pool.runtime.pool.rests == {}
            row = (await pool.booked(1))[0].record
            assert (row.outcome.value, row.status) == ("client_error", 400)

    run(scenario)


def test_stream_that_breaks(tmp_path: Path) -> None:
    """An error inside a stream after its first words is raised by the SDK; a cut never looks like an end."""

    async def scenario() -> None:
        accounts = {"one": Behaviour(error_in_stream(3), cut_stream(3))}
        async with pool_of(tmp_path, accounts) as (pool, _), client_of(pool) as client:
            for _ in range(2):
                async with await client.chat.completions.create(
                    model="scripted-large", messages=TURN, stream=True
                ) as stream:
                    with pytest.raises(openai.APIError):
                        async for _chunk in stream:
                            pass
            assert [row.record.outcome.value for row in await pool.booked(2)] == ["error", "error"]

    run(scenario)
