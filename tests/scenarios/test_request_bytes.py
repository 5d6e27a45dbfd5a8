"""A provider gets the client's request as it is, but for the three changes that are permitted."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers.pool import BEARER, CLIENT_KEY, key_of, pool_of, run
from tests.scenarios.asking import CHAT, MESSAGES, PATHS, RESPONSES, question

from eggpool.domain import Dialect
from eggpool.scripted import error, good, reply

ODD = (
    b'{ "zeta" : 1e400,\r\n\t"messages":[ {"role":"user","content":"caf\\u00e9 \xc3\xa9 \\ud83d\\ude00","extra":{}}],'
    b'"model":"scripted-large" , "max_tokens": 9, "unknown_field":[1.0,1.00,-0, 12345678901234567890123] ,'
    b'"stream":false}\n '
)


ANSWER = reply(200, b'{"choices":[{"message":{"content":"a"}}],"type":"message","content":[]}')


@pytest.mark.parametrize("dialect", [CHAT, MESSAGES])
def test_body_is_untouched(tmp_path: Path, dialect: Dialect) -> None:
    """Without a reason for a change, every byte of the body reaches the provider: white space, order, numbers."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": ANSWER}) as (pool, upstream):
            status, _ = await pool.answer(PATHS[dialect], ODD)
            assert status == 200
            assert upstream.work[0].body == ODD
            assert upstream.work[0].header("content-length") == str(len(ODD))

    run(scenario)


def test_model_name_is_replaced_in_place(tmp_path: Path) -> None:
    """A name with its provider behind it becomes the provider's own name; the rest stays as it is."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": ANSWER}) as (pool, upstream):
            asked = ODD.replace(b'"scripted-large"', b'"scripted-large\\/alpha"')
            assert (await pool.answer(PATHS[CHAT], asked))[0] == 200
            assert upstream.work[0].body == ODD

    run(scenario)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (b"", b',"stream_options":{"include_usage":true}'),
        (b',"stream_options":null', b',"stream_options":{"include_usage":true}'),
        (b',"stream_options":{ }', b',"stream_options":{ "include_usage":true}'),
        (b',"stream_options":{"x":1}', b',"stream_options":{"x":1,"include_usage":true}'),
        (b',"stream_options":{"include_usage":false}', b',"stream_options":{"include_usage":false}'),
        (b',"stream_options":{"include_usage":true}', b',"stream_options":{"include_usage":true}'),
    ],
)
def test_usage_is_asked_for(tmp_path: Path, given: bytes, sent: bytes) -> None:
    """A chat stream that does not say whether it wants usage is sent with that one member more."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, upstream):
            start = b'{"model":"scripted-large", "stream" : true,"messages":[{"role":"user","content":"hi"}]'
            await pool.answer(PATHS[CHAT], start + given + b"}")
            assert upstream.work[0].body == start + sent + b"}"

    run(scenario)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/completions", "/v1/embeddings"])
def test_usage_is_asked_for_in_chat_only(tmp_path: Path, path: str) -> None:
    """Other endpoints report usage unasked, so their bodies stay as they are."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, upstream):
            asked = (
                b'{"model":"scripted-large","max_tokens":9,"stream":true,"prompt":"hi","messages":[{"content":"hi"}]}'
            )
            await pool.answer(path, asked)
            assert upstream.work[0].body == asked

    run(scenario)


def test_query_string(tmp_path: Path) -> None:
    """The query string is kept as it was written."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, upstream):
            head = f"POST /v1/messages?beta=true&a=%20b&c=d%2Fe HTTP/1.1\r\nHost: x\r\nx-api-key: {CLIENT_KEY}\r\n"
            body = question(MESSAGES)
            await pool.raw(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            assert upstream.work[0].query == "beta=true&a=%20b&c=d%2Fe"

    run(scenario)


def test_headers(tmp_path: Path) -> None:
    """Headers that nobody knows survive; credentials, cookies and what tells about the way here do not."""
    survive = {
        "anthropic-beta": "context-1m-2025-08-07,other",
        "anthropic-version": "2023-06-01",
        "anthropic-dangerous-direct-browser-access": "true",
        "openai-beta": "assistants=v2",
        "user-agent": "claude-cli/9.9 (external, cli)",
        "x-app": "cli",
        "x-stainless-lang": "js",
        "x-session-id": "42",
        "accept": "text/event-stream",
        "content-type": "application/json; charset=utf-8",
    }
    vanish = {
        "x-api-key": "ep_another-key",
        "api-key": "sk-azure",
        "x-goog-api-key": "goog",
        "cookie": "session=secret",
        "proxy-authorization": "Basic c2VjcmV0",
        "forwarded": "for=10.0.0.1",
        "x-forwarded-for": "10.0.0.1",
        "x-forwarded-proto": "https",
        "x-real-ip": "10.0.0.1",
        "via": "1.1 somewhere",
        "origin": "http://localhost:3000",
        "referer": "http://localhost:3000/page",
        "sec-fetch-mode": "cors",
        "sec-ch-ua": '"Browser"',
        "accept-encoding": "br, zstd",
        "te": "trailers",
        "keep-alive": "timeout=5",
        "connection": "close, x-private-hop",
        "x-private-hop": "between us",
        "x-proxy-request-id": "forged",
        "x-eggpool-account": "forged",
    }

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, upstream):
            body = question(MESSAGES)
            lines = [f"{name}: {value}" for name, value in (BEARER | survive | vanish).items()]
            head = "\r\n".join(["POST /v1/messages HTTP/1.1", "host: pool", *lines, f"content-length: {len(body)}"])
            reply = await pool.raw(f"{head}\r\n\r\n".encode() + body)
            assert reply.startswith(b"HTTP/1.1 200")
            sent = {name.lower(): value for name, value in upstream.work[0].headers}
            assert len(sent) == len(upstream.work[0].headers)
            own = {
                "host": f"127.0.0.1:{upstream.port}",
                "authorization": f"Bearer {key_of('one')}",
                "accept-encoding": "identity",
                "content-length": str(len(body)),
            }
            assert sent == survive | own

    run(scenario)


def test_providers_own_auth_and_headers(tmp_path: Path) -> None:
    """A provider that wants its key in another header gets it there, with the headers that the operator adds."""

    async def scenario() -> None:
        more = (
            'protocols = ["anthropic"]\nauth = { mode = "api_key" }\n'
            'headers = [{ name = "HTTP-Referer", value = "https://example.org" }, { name = "X-App", value = "ours" }]'
        )
        async with pool_of(tmp_path, {"one": good}, more=more) as (pool, upstream):
            assert (await pool.answer("/v1/messages", question(MESSAGES), **{"x-app": "theirs"}))[0] == 200
            sent = upstream.work[0]
            assert (sent.header("x-api-key"), sent.header("authorization")) == (key_of("one"), None)
            assert sent.header("http-referer") == "https://example.org"
            assert [value for name, value in sent.headers if name.lower() == "x-app"] == ["ours"]
            assert sent.header("anthropic-version") == "2023-06-01"

    run(scenario)


def test_paths_of_the_provider(tmp_path: Path) -> None:
    """Requests go to the paths that the provider's table and its model overrides name."""

    async def scenario() -> None:
        more = (
            'protocols = ["openai"]\nopenai_path = "/elsewhere/chat"\n'
            'model_overrides = { "scripted-small" = { path = "/small/chat" } }'
        )
        async with pool_of(tmp_path, {"one": good}, more=more) as (pool, upstream):
            await pool.answer(PATHS[CHAT], question())
            await pool.answer(PATHS[CHAT], question(model="scripted-small"))
            assert [request.path for request in upstream.work] == ["/v1/elsewhere/chat", "/v1/small/chat"]

    run(scenario)


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "!"]
)
@pytest.mark.parametrize("dialect", [CHAT, MESSAGES, RESPONSES])
def test_any_content_type(tmp_path: Path, dialect: Dialect, content_type: str | None) -> None:
    """A body that can be read is taken under whatever content type, and goes on as it came."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, upstream):
            body = question(dialect)
            skipped = ["content-type"] if content_type is None else []
            headers = BEARER if content_type is None else BEARER | {"content-type": content_type}
            async with pool.http.post(
                pool.url + PATHS[dialect], data=body, headers=headers, skip_auto_headers=skipped
            ) as answer:
                assert answer.status == 200
            assert upstream.work[0].body == body

    run(scenario)


@pytest.mark.parametrize("number", [b"9" * 4000, b"-1e999999", b"1.0000000000000000000000001", b"9007199254740993"])
def test_numbers_of_any_size(tmp_path: Path, number: bytes) -> None:
    """Numbers that no machine can hold are the provider's to judge: they go on digit by digit."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": error(400)}) as (pool, upstream):
            body = b'{"model":"scripted-large","seed":' + number + b',"messages":[]}'
            assert (await pool.answer(PATHS[CHAT], body))[0] == 400
            assert upstream.work[0].body == body

    run(scenario)
