"""The other endpoints: passed on to an account that has the model and speaks the dialect, bytes as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.helpers.pool import CLIENT_KEY, key_of, pool_of, run

from eggpool.scripted import (
    Behaviour,
    Script,
    Send,
    cut_stream,
    empty_200,
    error,
    error_in_stream,
    good,
    html_200,
    reply,
    reshaped,
)

FORM = (
    b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nscripted-small/alpha\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n\x00\xff\r\n--b--\r\n'
)


def test_rerank(tmp_path: Path) -> None:
    """Documents are ranked by the provider."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, _):
            asked = {"model": "scripted-small", "query": "red fox", "documents": ["blue sky", "a red fox"]}
            status, body = await pool.answer("/v1/rerank", asked)
            assert (status, json.loads(body)["results"][0]["index"]) == (200, 1)

    run(scenario)


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/images/edits"])
def test_binary_replies(tmp_path: Path, path: str) -> None:
    """What comes back need not be JSON: sound and pictures pass byte for byte."""
    sound = bytes(range(256)) * 300

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": reply(200, sound, {"content-type": "audio/mpeg"})}) as (pool, _):
            async with pool.post(path, {"model": "scripted-small", "input": "hi"}) as answer:
                assert (answer.status, answer.headers["content-type"]) == (200, "audio/mpeg")
                assert await answer.read() == sound
            row = (await pool.booked(1))[0].record
            assert (row.outcome.value, row.bytes_emitted, row.usage_source.value) == ("completed", len(sound), "none")

    run(scenario)


@pytest.mark.parametrize("asked", [FORM, FORM.replace(b"/alpha", b"")], ids=["with provider", "bare"])
def test_forms(tmp_path: Path, asked: bytes) -> None:
    """A multipart form is passed on as it came, with its boundary; only the model's name becomes the provider's."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": reply(200, {"data": []})}) as (pool, upstream):
            headers = {"content-type": "multipart/form-data; boundary=b"}
            assert (await pool.answer("/v1/images/edits", asked, **headers))[0] == 200
            assert upstream.work[0].body == FORM.replace(b"/alpha", b"")
            assert upstream.work[0].header("content-type") == headers["content-type"]
            assert (await pool.booked(1))[0].record.model_served == "scripted-small"

    run(scenario)


def test_failover_works_here_too(tmp_path: Path) -> None:
    """An account that fails is passed over; a page that a provider sends on purpose is its answer."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": error(500), "b": html_200()}) as (pool, upstream):
            async with pool.post("/v1/rerank", {"model": "scripted-small"}) as answer:
                assert (answer.status, await answer.read()) == (200, b"<html><body>Welcome</body></html>\n")
            assert [request.api_key for request in upstream.work] == [key_of("a"), key_of("b")]

    run(scenario)


def test_endpoint_that_a_provider_lacks(tmp_path: Path) -> None:
    """A provider's 404 for an endpoint that it does not have is passed on, and its models are used on."""

    async def scenario() -> None:
        lacks = reply(404, {"error": {"message": "Unknown URL /v1/rerank"}})
        async with pool_of(tmp_path, {"one": lacks}) as (pool, _):
            assert (await pool.answer("/v1/rerank", {"model": "scripted-small"}))[0] == 404
            assert pool.runtime.pool.rests == {}

    run(scenario)


def test_dialect_that_nobody_speaks(tmp_path: Path) -> None:
    """What is not translated needs an account of the dialect; without one, a 400 names the dialects that there are."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}, more='protocols = ["anthropic"]') as (pool, upstream):
            for path in ("/v1/embeddings", "/v1/completions"):
                status, body = await pool.answer(path, {"model": "scripted-small", "input": "hi"})
                assert status == 400
                assert "messages only" in json.loads(body)["error"]["message"]
            assert upstream.work == []

    run(scenario)


def test_counting_input_tokens(tmp_path: Path) -> None:
    """`/v1/responses/input_tokens` counts; it makes no response to come back to."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, upstream):
            body = b'{"model": "scripted-small", "input": "three words here"}'
            status, told = await pool.answer("/v1/responses/input_tokens", body)
            assert (status, json.loads(told)["input_tokens"]) == (200, 3)
            assert (upstream.work[0].path, upstream.work[0].body) == ("/v1/responses/input_tokens", body)

    run(scenario)


COMPLETION = {"model": "scripted-small", "prompt": "say three words", "stream": True}


def test_legacy_completions_in_a_stream(tmp_path: Path) -> None:
    """A stream of the endpoint before chat is passed on byte for byte, and is whole with its end marker."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, upstream):
            status, body = await pool.answer("/v1/completions", COMPLETION)
            assert status == 200
            assert body.endswith(b"data: [DONE]\n\n")
            assert json.loads(upstream.work[0].body) == COMPLETION
            assert (await pool.booked(1))[0].record.outcome.value == "completed"

    run(scenario)


@pytest.mark.parametrize(
    "script",
    [cut_stream(3), reshaped(lambda events: events[:3])],
    ids=["broken", "ended"],
)
def test_legacy_completions_that_are_cut(tmp_path: Path, script: Script) -> None:
    """A stream of that endpoint without its end is told as broken, and booked as an error."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": script}) as (pool, _):
            status, body = await pool.answer("/v1/completions", COMPLETION)
            assert status == 200
            assert b"[DONE]" not in body
            assert json.loads(body.rpartition(b"data: ")[2])["error"]["code"] == "upstream_broken"
            assert (await pool.booked(1))[0].record.outcome.value == "error"

    run(scenario)


@pytest.mark.parametrize(
    "script", [cut_stream(0), error_in_stream(0), html_200(), empty_200()], ids=["cut", "error", "page", "nothing"]
)
def test_legacy_completions_elsewhere(tmp_path: Path, script: Script) -> None:
    """Before its first word, a stream of that endpoint is tried at another account like any other."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": script, "b": good}) as (pool, upstream):
            status, body = await pool.answer("/v1/completions", COMPLETION)
            assert (status, body.endswith(b"data: [DONE]\n\n")) == (200, True)
            assert [request.api_key for request in upstream.work] == [key_of("a"), key_of("b")]

    run(scenario)


def test_an_answer_without_content(tmp_path: Path) -> None:
    """A 204 comes without a body and without a length, and the connection goes on behind it."""

    async def scenario() -> None:
        deleted = (Send(b"HTTP/1.1 204 No Content\r\nx-custom: kept\r\n\r\n"),)
        async with pool_of(tmp_path, {"one": Behaviour(good, deleted)}) as (pool, upstream):
            created = {"model": "scripted-small", "input": "hi"}
            _, body = await pool.answer("/v1/responses", created)
            path = f"/v1/responses/{json.loads(body)['id']}"
            head = f"DELETE {path} HTTP/1.1\r\nhost: pool\r\nx-api-key: {CLIENT_KEY}\r\n\r\n"
            last = "GET /v1/healthz HTTP/1.1\r\nhost: pool\r\nconnection: close\r\n\r\n"
            received = await pool.raw((head + last).encode())
            first, _, rest = received.partition(b"\r\n\r\n")
            assert first.startswith(b"HTTP/1.1 204 ")
            assert b"x-custom: kept" in first
            assert b"content-length" not in first.lower()
            assert b"transfer-encoding" not in first.lower()
            assert rest.startswith(b"HTTP/1.1 200 ")
            assert upstream.work[-1].method == "DELETE"

    run(scenario)
