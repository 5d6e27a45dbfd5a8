"""Asking a provider for its models: every shape of list, pages, and every way to fail."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.pool import run
from tests.upstream.calling import calling, provider, target

from eggpool.config.schema import ModelsEndpoint, Provider
from eggpool.domain import Capabilities, Dialect, Limits, ListedModel, Price
from eggpool.scripted import (
    Behaviour,
    Drop,
    ReceivedRequest,
    Reply,
    Script,
    ScriptedProvider,
    Steps,
    cut_body,
    drop_before_reply,
    error,
    gzipped,
    html_200,
    reply,
)
from eggpool.upstream.discovery import MAX_PAGES, Found, fetch_models, lists_models, read_list

ENTRIES: list[tuple[Any, ListedModel]] = [
    ("plain", ListedModel("plain")),
    (
        {"id": "gpt", "object": "model", "created": 1_700_000_000, "owned_by": "x"},
        ListedModel("gpt", None, 1_700_000_000),
    ),
    ({"id": "ms", "created": 1_700_000_000_123}, ListedModel("ms", None, 1_700_000_000)),
    (
        {
            "type": "model",
            "id": "claude",
            "display_name": "Claude",
            "created_at": "2026-01-02T03:04:05Z",
            "max_input_tokens": 7,
        },
        ListedModel("claude", "Claude", 1_767_323_045, Limits(input=7)),
    ),
    ({"id": "naive", "created_at": "2026-01-02T03:04:05"}, ListedModel("naive", None, 1_767_323_045)),
    (
        {  # OpenRouter
            "id": "a/b",
            "name": "A: B",
            "context_length": 1000,
            "top_provider": {"context_length": 900, "max_completion_tokens": 100},
            "pricing": {"prompt": "0.000003", "completion": "0.000015"},
        },
        ListedModel(
            "a/b",
            "A: B",
            None,
            Limits(1000, None, 100),
            price=Price(input=3_000_000_000, output=15_000_000_000, source="provider"),
        ),
    ),
    ({"id": "groq", "context_window": 10, "max_completion_tokens": 5}, ListedModel("groq", limits=Limits(10, None, 5))),
    ({"id": "mistral", "max_context_length": 10}, ListedModel("mistral", limits=Limits(10))),
    ({"id": "vllm", "max_model_len": 10}, ListedModel("vllm", limits=Limits(10))),
    (
        {"name": "models/gemini", "displayName": "Gemini", "inputTokenLimit": 10, "outputTokenLimit": 5},
        ListedModel("gemini", "Gemini", limits=Limits(None, 10, 5)),
    ),
    ({"name": "ollama:7b", "model": "ollama:7b"}, ListedModel("ollama:7b")),
    ({"id": "go", "api_type": "anthropic"}, ListedModel("go", dialects=frozenset({Dialect.MESSAGES}))),
    (
        {"id": "go2", "protocols": ["openai", "responses", "new"]},
        ListedModel("go2", dialects=frozenset({Dialect.CHAT, Dialect.RESPONSES})),
    ),
    # odd values are left out
    (
        {
            "id": "odd",
            "created": "x",
            "created_at": 5,
            "context_length": "many",
            "max_output_tokens": -1,
            "pricing": "free",
        },
        ListedModel("odd"),
    ),
    ({"id": "far", "created": 10**15, "display_name": 7}, ListedModel("far", None, None)),
    ({"id": "early", "created_at": "0001-01-01T00:00:00Z"}, ListedModel("early")),
]


@pytest.mark.parametrize(("entry", "model"), ENTRIES, ids=lambda value: str(value)[:30])
def test_each_shape_of_entry(entry: Any, model: ListedModel) -> None:
    """Names, ages, limits, dialects and prices are found under the names that providers use."""
    assert [*read_list({"data": [entry]})] == [model]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            {
                "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
                "supported_parameters": ["max_tokens", "tools", "tool_choice"],
            },
            Capabilities(images=True, tools=True),
        ),
        (
            {"architecture": {"input_modalities": ["text"]}, "supported_parameters": ["max_tokens"]},
            Capabilities(images=False, tools=False),
        ),
        ({"input_modalities": ["text"], "supported_features": ["json_mode"]}, Capabilities(images=False, tools=False)),
        ({"modalities": {"input": ["text", "image"]}, "tool_call": False}, Capabilities(images=True, tools=False)),
        (
            {"capabilities": {"completion_chat": True, "function_calling": True, "vision": False}},
            Capabilities(images=False, tools=True),
        ),
        ({"capabilities": {"image_input": {"supported": True}}}, Capabilities(images=True)),
        ({}, Capabilities()),
        ({"architecture": {"input_modalities": []}, "supported_parameters": None}, Capabilities()),
        ({"architecture": "dense", "capabilities": ["vision"], "tool_call": "yes"}, Capabilities()),
        ({"capabilities": {"vision": "no", "function_calling": 0, "image_input": True}}, Capabilities()),
        ({"input_modalities": "text", "supported_parameters": "tools"}, Capabilities()),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_models_can_take(entry: dict[str, Any], told: Capabilities) -> None:
    """Lists that say what a model takes are believed; what is missing or odd says nothing."""
    (model,) = read_list({"data": [{"id": "m", **entry}]})
    assert model.capabilities == told


@pytest.mark.parametrize(
    "payload",
    [
        {"data": [{"id": "m"}]},
        {"object": "list", "data": [{"id": "m"}]},
        {"models": [{"name": "m"}]},
        {"data": None, "models": [{"name": "m"}]},
        [{"id": "m"}],
        ["m"],
        {"data": [None, 7, {}, {"id": 5}, {"id": ""}, {"id": " "}, {"id": "m"}, {"id": "m"}]},
        {"data": [{"id": "m"}, {"id": "x" * 513}, {"id": "a\nb"}, {"id": "\x00"}]},
    ],
)
def test_each_shape_of_list(payload: Any) -> None:
    """A list is found wherever it is; entries that no request could name, and repeated ones, are left out."""
    assert [*read_list(payload)] == [ListedModel("m")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "data",
                    "models",
                    "id",
                    "name",
                    "created",
                    "created_at",
                    "pricing",
                    "prompt",
                    "top_provider",
                    "protocols",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(JSON, JSON)
def test_any_json(payload: Any, entry: Any) -> None:
    """Whatever a provider sends as its list, what comes of it is models or nothing."""
    for list_of in (payload, {"data": [entry, {"id": "m", "created": entry, "pricing": payload, "protocols": entry}]}):
        for model in read_list(list_of):
            assert model.id
            assert model.created is None or 0 < model.created < 253_402_300_800


def found(script: Script | Behaviour, settings: dict[str, Any] | None = None) -> tuple[Found, list[ReceivedRequest]]:
    """What comes of asking a provider that answers so, and what it was asked."""
    answers: list[Found] = []
    asked: list[ReceivedRequest] = []

    async def scenario() -> None:
        async with ScriptedProvider(default=script) as there, calling() as client:
            answers.append(await fetch_models(client, target(provider(there.base_url, **settings or {}))))
            asked.extend(there.requests)

    run(scenario, 10)
    return answers[0], asked


def listing(script: Script) -> Behaviour:
    """A provider that answers questions for models so."""
    return Behaviour(then=script, lists_then=script)


def test_a_good_list() -> None:
    """A list comes with its latency and status, asked for with the account's own key."""
    result, asked = found(Behaviour())
    assert [model.id for model in result.models] == ["scripted-large", "scripted-small", "claude-scripted"]
    assert (result.status, result.error) == (200, None)
    assert 0 < result.latency_us < 10_000_000
    assert result.models[0].limits == Limits(200_000, None, 32_000)
    assert result.models[0].price is not None
    (request,) = asked
    assert (request.method, request.path, request.query) == ("GET", "/v1/models", "")
    assert request.api_key == "test-one-key-0000"
    assert request.header("accept-encoding") == "identity"


def test_a_compressed_list() -> None:
    """A list that comes compressed is read."""
    result, _ = found(listing(gzipped()))
    assert len(result.models) == 3


def test_asking_with_post() -> None:
    """A list may be asked for with POST, with the body and the query that the configuration names."""
    endpoint = ModelsEndpoint(method="POST", path="/models", body={"a": [1]}, query={"b": "c d"})
    result, (request,) = found(Behaviour(), {"models_endpoint": endpoint})
    assert len(result.models) == 3
    assert (request.method, request.query, request.payload) == ("POST", "b=c+d", {"a": [1]})
    assert request.header("content-type") == "application/json"
    _, (request,) = found(Behaviour(), {"models_method": "POST"})
    assert (request.method, request.payload) == ("POST", {})


@pytest.mark.parametrize(
    ("endpoint", "lists"),
    [
        (None, True),
        (ModelsEndpoint(), True),
        (ModelsEndpoint(method="POST"), True),
        (ModelsEndpoint(method="DISABLED"), False),
    ],
)
def test_providers_without_a_list(endpoint: ModelsEndpoint | None, lists: bool) -> None:
    """Only an endpoint that is switched off is not asked."""
    assert lists_models(target(Provider(id="p", base_url="http://h", models_endpoint=endpoint))) is lists


def pages(request: ReceivedRequest, _answer: Reply) -> Steps:
    """Anthropic's pages: three of two models each, the last of one overlapping the first of the next."""
    number = int(request.query.partition("after_id=m")[2] or 0)
    data = [{"id": f"m{place}", "type": "model"} for place in range(max(1, number), number + 3)]
    more = number < 4
    return reply(200, {"data": data, "has_more": more, "last_id": f"m{number + 2}"})


def test_pages() -> None:
    """All pages are asked for, in Anthropic's way; each model is there once."""
    result, asked = found(listing(pages), {"protocols": ("anthropic",)})
    assert [model.id for model in result.models] == [f"m{number}" for number in range(1, 7)]
    assert [request.query for request in asked] == ["limit=1000", "limit=1000&after_id=m2", "limit=1000&after_id=m4"]
    assert all(request.header("anthropic-version") for request in asked)


def test_a_kept_connection_that_closes() -> None:
    """A page for which the kept connection turns out to be closed is asked for once more, on a fresh one."""

    def script(request: ReceivedRequest, answer: Reply) -> Steps:
        return pages(request, answer) if request.place_on_connection == 1 else (Drop(),)

    result, asked = found(listing(script))
    whole, pages_asked = found(listing(pages))
    assert (result.error, result.models) == (None, whole.models)
    assert len(asked) == 2 * len(pages_asked) - 1


def test_endless_pages() -> None:
    """A provider whose list never ends is asked a bounded number of times."""
    result, asked = found(listing(reply(200, {"data": [{"id": "m"}], "has_more": True, "last_id": "m"})))
    assert len(asked) == MAX_PAGES
    assert [model.id for model in result.models] == ["m"]


def test_a_page_that_fails() -> None:
    """Half a list is no list."""
    first = reply(200, {"data": [{"id": "m"}], "has_more": True, "last_id": "m"})
    result, _ = found(Behaviour(lists=(first,), lists_then=error(500)))
    assert (result.models, result.status) == ((), 500)
    assert result.error == "The model list was answered with status 500."


@pytest.mark.parametrize(
    ("script", "status", "words"),
    [
        (error(401), 401, "answered with status 401"),
        (error(500), 500, "answered with status 500"),
        (reply(204), 204, "answered with status 204"),
        (reply(307, b"", {"location": "/other"}), 307, "answered with status 307"),
        (html_200(), 200, "not JSON"),
        (reply(200, b""), 200, "not JSON"),
        (reply(200, b"[" * 100_000), 200, "not JSON"),
        (reply(200, b'{"data":[]}'), 200, "is empty"),
        (reply(200, b'{"error":{"message":"no"}}'), 200, "is empty"),
        (drop_before_reply(), None, "closed the connection"),
        (cut_body(5), None, "broke off"),
    ],
)
def test_lists_that_fail(script: Script, status: int | None, words: str) -> None:
    """Whatever a provider does, nothing raises: there is an error that can be shown, and no models."""
    result, _ = found(listing(script))
    assert result.models == ()
    assert result.status == status
    assert result.error is not None
    assert words in result.error
    assert "test-one-key" not in result.error


def test_a_list_without_end() -> None:
    """A list beyond all measure is given up, not kept."""
    big = reply(200, json.dumps({"data": ["x" * 1_000_000] * 34}).encode())
    result, _ = found(listing(big))
    assert result.error == "The model list is longer than 32 MiB."


def test_nobody_there() -> None:
    """A provider that cannot be reached is an error like any other."""

    async def scenario() -> None:
        async with calling() as client:
            result = await fetch_models(client, target(provider("http://127.0.0.1:1/v1")))
            assert (result.status, result.models) == (None, ())
            assert result.error == "No connection to 127.0.0.1:1: connection refused."

    run(scenario, 10)
