"""The official anthropic SDK, through a running pool, cannot tell it from Anthropic."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import pytest
from tests.helpers.pool import CLIENT_KEY, RunningPool, key_of, pool_of, provider, run, running_pool, settings

from eggpool.domain import Dialect
from eggpool.scripted import (
    Behaviour,
    ScriptedProvider,
    cut_stream,
    error,
    error_in_stream,
    good,
    rate_limited,
    usage_in_each_delta,
)

TURN: Any = [{"role": "user", "content": "say three words"}]
TOOL: Any = {
    "name": "look_up",
    "input_schema": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
}
ASKS_FOR_TOOL: Any = [{"role": "user", "content": "please look_up this"}]
MODEL = "claude-scripted"


@asynccontextmanager
async def client_of(
    pool: RunningPool, key: str | None = CLIENT_KEY, token: str | None = None
) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        api_key=key, auth_token=token, base_url=pool.url, max_retries=0, timeout=10
    ) as client:
        yield client


def test_plain_answer(tmp_path: Path) -> None:
    """A plain answer comes whole, and the client's key is not what the provider gets."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, upstream), client_of(pool) as client:
            reply = await client.messages.create(model=MODEL, max_tokens=99, messages=TURN)
            assert reply.content[0].type == "text"
            assert reply.content[0].text == "You said: say three words"
            assert (reply.usage.input_tokens, reply.usage.output_tokens) == (3, 5)
            sent = upstream.work[0]
            assert (sent.header("authorization"), sent.header("x-api-key")) == (f"Bearer {key_of('one')}", None)
            assert sent.header("anthropic-version") == client.default_headers["anthropic-version"]
            row = (await pool.booked(1))[0].record
            assert (row.usage.input_tokens, row.usage.output_tokens) == (3, 5)

    run(scenario)


def test_auth_token(tmp_path: Path) -> None:
    """Agents that send their key as a bearer token are served as well."""

    async def scenario() -> None:
        async with (
            pool_of(tmp_path, {"one": good}) as (pool, _),
            client_of(pool, None, CLIENT_KEY) as client,
        ):
            reply = await client.messages.create(model=MODEL, max_tokens=99, messages=TURN)
            assert reply.stop_reason == "end_turn"

    run(scenario)


def test_streamed_answer(tmp_path: Path) -> None:
    """A stream comes whole, pings included, and its last report of tokens is booked."""

    async def scenario() -> None:
        accounts = {"one": Behaviour(good, usage_in_each_delta(11, 7))}
        async with pool_of(tmp_path, accounts) as (pool, _), client_of(pool) as client:
            async with client.messages.stream(model=MODEL, max_tokens=99, messages=TURN) as stream:
                assert await stream.get_final_text() == "You said: say three words"
                final = await stream.get_final_message()
            assert (final.usage.input_tokens, final.usage.output_tokens) == (3, 5)
            async with client.messages.stream(model=MODEL, max_tokens=99, messages=TURN) as stream:
                final = await stream.get_final_message()
            assert (final.usage.input_tokens, final.usage.output_tokens) == (11, 7)
            usages = [row.record.usage for row in await pool.booked(2)]
            assert [(usage.input_tokens, usage.output_tokens) for usage in usages] == [(11, 7), (3, 5)]

    run(scenario)


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_round_trip(tmp_path: Path, streamed: bool) -> None:
    """A tool is called with whole arguments, and its result comes back to the model."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, _), client_of(pool) as client:
            asked: Any = {"model": MODEL, "max_tokens": 99, "tools": [TOOL]}
            if streamed:
                async with client.messages.stream(messages=ASKS_FOR_TOOL, **asked) as stream:
                    first = await stream.get_final_message()
            else:
                first = await client.messages.create(messages=ASKS_FOR_TOOL, **asked)
            assert first.stop_reason == "tool_use"
            call = first.content[0]
            assert call.type == "tool_use"
            assert (call.name, call.input) == ("look_up", {"word": "sample text"})
            said = {"role": "assistant", "content": [block.model_dump() for block in first.content]}
            result = {"type": "tool_result", "tool_use_id": call.id, "content": "found it"}
            messages: Any = [*ASKS_FOR_TOOL, said, {"role": "user", "content": [result]}]
            last = await client.messages.create(messages=messages, **asked)
            assert last.content[0].type == "text"
            assert last.content[0].text == "You said: found it"

    run(scenario)


def test_models(tmp_path: Path) -> None:
    """The list and its entries come in Anthropic's shape to a client that names its version."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, _), client_of(pool) as client:
            page = await client.models.list()
            assert [model.id for model in page.data] == [
                "claude-scripted/alpha",
                "scripted-large/alpha",
                "scripted-small/alpha",
            ]
            assert (page.has_more, page.first_id, page.last_id) == (
                False,
                "claude-scripted/alpha",
                "scripted-small/alpha",
            )
            entry = await client.models.retrieve("scripted-large")
            assert (entry.type, entry.display_name) == ("model", "Scripted Large")
            assert entry.created_at.year == 2026
            with pytest.raises(anthropic.NotFoundError, match="no-such-model"):
                await client.models.retrieve("no-such-model")

    run(scenario)


def test_count_tokens(tmp_path: Path) -> None:
    """Tokens are counted by the provider, and nothing is booked as spent."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, upstream), client_of(pool) as client:
            counted = await client.messages.count_tokens(model=MODEL, messages=TURN)
            assert counted.input_tokens == 3
            assert upstream.work[0].path == "/v1/messages/count_tokens"
            row = (await pool.booked(1))[0].record
            assert (row.path, row.usage.input_tokens, row.outcome.value) == (
                "/v1/messages/count_tokens",
                0,
                "completed",
            )

    run(scenario)


def test_beta_features(tmp_path: Path) -> None:
    """The beta surface keeps its query string and its header on the way to the provider."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, upstream), client_of(pool) as client:
            await client.beta.messages.create(
                model=MODEL, max_tokens=9, messages=TURN, betas=["some-feature-2026"], extra_query={"beta": "true"}
            )
            sent = upstream.work[0]
            assert (sent.path, sent.query) == ("/v1/messages", "beta=true")
            assert sent.header("anthropic-beta") == "some-feature-2026"

    run(scenario)


def test_wrong_key(tmp_path: Path) -> None:
    """A wrong key is the SDK's own AuthenticationError in Anthropic's shape."""

    async def scenario() -> None:
        async with (
            pool_of(tmp_path, {"one": good}) as (pool, upstream),
            client_of(pool, "ep_wrong") as client,
        ):
            with pytest.raises(anthropic.AuthenticationError) as told:
                await client.messages.create(model=MODEL, max_tokens=9, messages=TURN)
            body: Any = told.value.body
            assert (body["type"], body["error"]["type"]) == ("error", "authentication_error")
            assert body["request_id"] == told.value.response.headers["x-proxy-request-id"]
            with pytest.raises(anthropic.AuthenticationError):
                await client.models.list()
            assert upstream.work == []

    run(scenario)


def test_unknown_model_and_wrong_dialect(tmp_path: Path) -> None:
    """A model that nobody serves is a NotFoundError, one of another dialect a BadRequestError that says so."""

    async def scenario() -> None:
        async with ScriptedProvider({key_of("one"): good}) as upstream:
            text = provider("alpha", upstream, "one", extra='protocols = ["openai"]')
            config = settings(tmp_path, text, "[translation]\nenabled = false\n")
            async with running_pool(config) as pool, client_of(pool) as client:
                with pytest.raises(anthropic.NotFoundError, match="claude-scripted"):
                    await client.messages.create(model="claude-scriptd", max_tokens=9, messages=TURN)
                with pytest.raises(anthropic.BadRequestError, match="chat") as told:
                    await client.messages.create(model=MODEL, max_tokens=9, messages=TURN)
                body: Any = told.value.body
                assert body["error"]["type"] == "invalid_request_error"
                assert upstream.work == []

    run(scenario)


def test_all_limited(tmp_path: Path) -> None:
    """When every account is limited, the SDK raises RateLimitError and knows when to come back."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": rate_limited(30)}) as (pool, upstream), client_of(pool) as client:
            for _ in range(2):
                with pytest.raises(anthropic.RateLimitError) as told:
                    await client.messages.create(model=MODEL, max_tokens=9, messages=TURN)
                assert 29 <= int(told.value.response.headers["retry-after"]) <= 30
            assert len(upstream.work) == 1

    run(scenario)


def test_upstream_errors_are_passed_on(tmp_path: Path) -> None:
    """The last error of a provider reaches the client with its status and its words."""

    async def scenario() -> None:
        accounts = {
            "one": Behaviour(
                error(400, Dialect.MESSAGES, "tools.0: a name is missing"),
                *[error(529, Dialect.MESSAGES, "Overloaded, truly")] * 2,  # the only account is asked once more
            )
        }
        async with pool_of(tmp_path, accounts) as (pool, _), client_of(pool) as client:
            with pytest.raises(anthropic.BadRequestError, match=r"tools\.0: a name is missing"):
                await client.messages.create(model=MODEL, max_tokens=9, messages=TURN)
            with pytest.raises(anthropic.APIStatusError, match="Overloaded, truly") as told:
                await client.messages.create(model=MODEL, max_tokens=9, messages=TURN)
            assert told.value.status_code == 529

    run(scenario)


def test_stream_that_breaks(tmp_path: Path) -> None:
    """An error inside a stream and a cut are both raised by the SDK; a cut never looks like an end."""

    async def scenario() -> None:
        accounts = {"one": Behaviour(error_in_stream(5), cut_stream(5))}
        async with pool_of(tmp_path, accounts) as (pool, _), client_of(pool) as client:
            for _ in range(2):
                with pytest.raises(anthropic.APIError):
                    async with client.messages.stream(model=MODEL, max_tokens=99, messages=TURN) as stream:
                        await stream.get_final_message()
            assert [row.record.outcome.value for row in await pool.booked(2)] == ["error", "error"]

    run(scenario)
