"""What a caller gets when a request cannot be taken: the right status, in the shape of its dialect."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.pool import BEARER, CLIENT_KEY, RunningPool, pool_of, run
from tests.helpers.upstream import head_and_body

from eggpool.scripted import ScriptedProvider, good

ASK = b'{"model":"scripted-large","max_tokens":9,"messages":[{"role":"user","content":"hi"}],"input":"hi"}'
OPENAI_PATHS = ["/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/models", "/v1/nothing", "/nothing"]
ANTHROPIC_PATHS = ["/v1/messages", "/v1/messages/count_tokens"]


@asynccontextmanager
async def one(folder: Path, server: str = "", extra: str = "") -> AsyncIterator[tuple[RunningPool, ScriptedProvider]]:
    """A pool with one good account; whatever happens, no provider is asked for work."""
    async with pool_of(folder, {"a": good}, server=server, extra=extra) as (pool, upstream):
        yield pool, upstream
        assert upstream.work == []
        # Whoever has a key finds the refusal in the books, whole; whoever has none leaves no trace.
        booked = await pool.rows("SELECT outcome, status, attempts, account, input_tokens FROM requests")
        assert all(row == ("client_error", row[1], 0, None, 0) and 400 <= row[1] < 500 for row in booked)
        assert {row[1] for row in booked}.isdisjoint({401, 403})
        assert await pool.rows("SELECT * FROM begun") == []
        assert await pool.rows("SELECT * FROM attempts") == []


def told(path: str, body: bytes) -> dict[str, Any]:
    """The inner object of an error in the shape that belongs to the path; fails when it has another one."""
    payload = json.loads(body)
    if path in ANTHROPIC_PATHS:
        assert set(payload) == {"type", "error", "request_id"}
        assert payload["type"] == "error"
        assert set(payload["error"]) == {"type", "message"}
    else:
        assert set(payload) == {"error"}
        assert set(payload["error"]) == {"message", "type", "param", "code"}
    inner: dict[str, Any] = payload["error"]
    return inner


@pytest.mark.parametrize("path", OPENAI_PATHS + ANTHROPIC_PATHS)
@pytest.mark.parametrize(
    "credentials",
    [
        {},
        {"authorization": "Bearer ep_wrong-key"},
        {"authorization": CLIENT_KEY},
        {"authorization": f"Basic {CLIENT_KEY}"},
        {"x-api-key": "ep_wrong-key"},
        {"authorization": "Bearer "},
        {"cookie": f"key={CLIENT_KEY}"},
    ],
    ids=["none", "wrong", "bare", "basic", "wrong x-api-key", "empty", "cookie"],
)
def test_no_valid_key(tmp_path: Path, path: str, credentials: dict[str, str]) -> None:
    """Without a valid key, every path is 401 in its dialect's shape, and tells how to send one."""

    async def scenario() -> None:
        method = "GET" if path in ("/v1/models", "/nothing") else "POST"
        async with (
            one(tmp_path) as (pool, _),
            pool.http.request(method, pool.url + path, data=ASK, headers=credentials) as answer,
        ):
            assert answer.status == 401
            inner = told(path, await answer.read())
            assert inner["type"] == "authentication_error"
            assert "key" in inner["message"]
            assert CLIENT_KEY not in inner["message"]
            assert "ep_wrong" not in inner["message"]
            assert answer.headers["www-authenticate"] == "Bearer"

    run(scenario)


def test_both_headers_are_taken(tmp_path: Path) -> None:
    """The key is taken from either header; a query parameter is not one of them."""

    async def scenario() -> None:
        async with one(tmp_path) as (pool, _):
            for headers in (BEARER, {"authorization": f"bearer {CLIENT_KEY}"}, {"x-api-key": CLIENT_KEY}):
                async with pool.http.get(pool.url + "/v1/models", headers=headers) as answer:
                    assert answer.status == 200
            async with pool.http.get(f"{pool.url}/v1/models?key={CLIENT_KEY}&api_key={CLIENT_KEY}") as answer:
                assert answer.status == 401
            for near in (CLIENT_KEY[:-1], CLIENT_KEY + "0", CLIENT_KEY.upper()):  # although the right one was accepted
                async with pool.http.get(pool.url + "/v1/models", headers={"x-api-key": near}) as answer:
                    assert answer.status == 401

    run(scenario)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/embeddings"])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b'{"model":', "cut off"),
        (b"{nonsense}", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"{}", "names no model"),
        (b'{"model":7}', "must be a text"),
        (b'{"model":" "}', "empty"),
        (b'{"model":"m","stream":"yes"}', "stream"),
        (b'{"model":"m","model":"n"}', "twice"),
        (b'{"model":"m","\xff":1}', "UTF-8"),
        (b'{"model":"m","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deeply"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"model":"m","x":NaN}', "not valid JSON at byte"),
        (b'{"model":"m","x":"\x00"}', "not valid JSON at byte"),
        (b'{"model":"m\\u0000"}', "control character"),
        (b'{"model":"m","x":"\\ud83d"}', "surrogate pair"),
        (b'{"model":"' + b"m" * 1_000_000 + b'"}', "longer than 512"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_malformed_body(tmp_path: Path, path: str, body: bytes, words: str) -> None:
    """A body that cannot be read is a 400 that names the fault, and leaves no trace in the books."""

    async def scenario() -> None:
        async with one(tmp_path) as (pool, _), pool.post(path, body) as answer:
            assert answer.status == 400
            inner = told(path, await answer.read())
            assert inner["type"] == "invalid_request_error"
            assert words in inner["message"]
            assert answer.headers["x-proxy-attempt-count"] == "0"

    run(scenario)


def test_malformed_form(tmp_path: Path) -> None:
    """A form without the field model is a 400 that says so."""

    async def scenario() -> None:
        async with one(tmp_path) as (pool, _):
            headers = {"content-type": "multipart/form-data; boundary=x"}
            body = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nmodel\r\n--x--\r\n'
            async with pool.post("/v1/audio/transcriptions", body, **headers) as answer:
                assert answer.status == 400
                assert told("/v1/audio/transcriptions", await answer.read())["param"] == "model"

    run(scenario)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
@pytest.mark.parametrize("size", [1001, 1_000_000, 5_000_000])
def test_body_too_large(tmp_path: Path, path: str, announced: bool, size: int) -> None:
    """A body over max_body_bytes is a 413 that arrives, whether its length was announced or not."""

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, size, 500):
            yield b"x" * min(500, size - start)

    async def scenario() -> None:
        async with one(tmp_path, "max_body_bytes = 1000") as (pool, _):
            body: Any = io.BytesIO(b"x" * size) if announced else chunks()
            async with pool.http.post(pool.url + path, data=body, headers=BEARER) as answer:
                assert answer.status == 413
                assert "max_body_bytes" in told(path, await answer.read())["message"]

    run(scenario)


def test_largest_body(tmp_path: Path) -> None:
    """A body of exactly max_body_bytes is taken."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}, server=f"max_body_bytes = {len(ASK)}") as (pool, _):
            assert (await pool.answer("/v1/messages", ASK))[0] == 200
            assert (await pool.answer("/v1/messages", ASK + b" "))[0] == 413

    run(scenario)


def test_expect_continue(tmp_path: Path) -> None:
    """A caller that asks before it sends its body gets the refusal without sending it."""

    async def scenario() -> None:
        async with one(tmp_path) as (pool, _):
            head = "POST /v1/messages HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 500\r\n\r\n"
            received = await pool.raw(head.encode())
            assert received.startswith(b"HTTP/1.1 401")
            assert b"100 Continue" not in received

    run(scenario)


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/v1", "/v1/", "/v2/messages", "/nothing", "/v1/chat", "/v1/messages/"]
)
def test_unknown_path(tmp_path: Path, path: str) -> None:
    """A path that is not there is a 404 that says so."""

    async def scenario() -> None:
        async with one(tmp_path) as (pool, _), pool.post(path, ASK) as answer:
            assert answer.status == 404
            assert "There is nothing at" in (json.loads(await answer.read()))["error"]["message"]

    run(scenario)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("GET", "/v1/messages", "POST"),
        ("PUT", "/v1/embeddings", "POST"),
        ("PATCH", "/v1/responses/resp_1", "DELETE, GET, POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/scripted-large", "GET, HEAD"),
        ("POST", "/v1/healthz", "GET, HEAD"),
        ("POST", "/api/stats/summary", "GET, HEAD"),
    ],
)
def test_wrong_method(tmp_path: Path, method: str, path: str, allowed: str) -> None:
    """A method that a path does not have is a 405 that names those which it has."""

    async def scenario() -> None:
        async with (
            one(tmp_path) as (pool, _),
            pool.http.request(method, pool.url + path, data=ASK, headers=BEARER) as answer,
        ):
            assert answer.status == 405
            assert answer.headers["allow"] == allowed
            assert told(path, await answer.read())["message"]

    run(scenario)


def test_refusal_keeps_the_connection(tmp_path: Path) -> None:
    """A refused request does not cost the caller its connection: the next one on it is served."""

    async def scenario() -> None:
        async with one(tmp_path) as (pool, _):
            head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: {len(ASK)}\r\n"
            refused = f"{head}\r\n".encode() + ASK
            last = b"GET /v1/healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            received = await pool.raw(refused + refused + last)
            assert received.count(b"HTTP/1.1 401") == 2
            assert received.count(b"HTTP/1.1 200") == 1

    run(scenario)


def test_stream_over_http_1_0(tmp_path: Path) -> None:
    """A stream cannot be told from a cut one over HTTP/1.0, so it is refused with a hint; a plain reply is not."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, _):
            for stream, status in ((b"true", b"426"), (b"false", b"200")):
                body = ASK.replace(b"{", b'{"stream":' + stream + b",", 1)
                head = f"POST /v1/messages HTTP/1.0\r\nx-api-key: {CLIENT_KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
                received = await pool.raw(head.encode() + body)
                assert received.split(b" ")[1] == status
                assert b"content-length" in received

    run(scenario)


def test_allowed_hosts(tmp_path: Path) -> None:
    """With allowed_hosts, another Host header is refused before the key is looked at, on every path."""

    async def scenario() -> None:
        async with one(tmp_path, extra='[security]\nallowed_hosts = ["pool.lan"]') as (pool, _):
            for host, status in (("pool.lan", b"200"), ("POOL.lan:11300", b"200"), ("evil.example", b"403")):
                for path in ("/v1/healthz", "/v1/models"):
                    sent = (
                        f"GET {path} HTTP/1.1\r\nhost: {host}\r\nx-api-key: {CLIENT_KEY}\r\nconnection: close\r\n\r\n"
                    )
                    assert (await pool.raw(sent.encode())).split(b" ")[1] == status

    run(scenario)


def test_cross_origin(tmp_path: Path) -> None:
    """Web pages may call only from origins that the operator named."""

    async def scenario() -> None:
        async with one(tmp_path, extra='[security]\ncors_origins = ["https://page.example"]') as (pool, _):
            for origin, allowed in (("https://page.example", "https://page.example"), ("https://evil.example", None)):
                headers = {"origin": origin, "access-control-request-method": "POST"}
                async with pool.http.options(pool.url + "/v1/messages", headers=headers) as answer:
                    assert answer.headers.get("access-control-allow-origin") == allowed

    run(scenario)


def test_pipelined_requests(tmp_path: Path) -> None:
    """Requests that are sent before the answers have come are answered one after another, in order."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, _):
            sent = b""
            for word in ("one", "two", "three"):
                body = ASK.replace(b'"hi"', json.dumps(word).encode(), 1)
                close = "connection: close\r\n" if word == "three" else ""
                head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {CLIENT_KEY}\r\n{close}"
                sent += f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
            received = await pool.raw(sent)
            assert received.count(b"HTTP/1.1 200") == 3
            places = [received.index(b"You said: " + word) for word in (b"one", b"two", b"three")]
            assert places == sorted(places)
            assert len(await pool.booked(3)) == 3

    run(scenario)


def test_slow_refused_body(tmp_path: Path) -> None:
    """A stranger that announces a body and does not send it is let go when it closes."""

    async def scenario() -> None:
        async with one(tmp_path) as (pool, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", pool.port)
            writer.write(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\nabc")
            await pool.until(lambda: pool.runtime.server.connections == 1)
            writer.write_eof()
            received = await reader.read()
            assert received == b"" or head_and_body(received)[0].startswith("HTTP/1.1 401")
            writer.close()
            await pool.until(lambda: pool.runtime.server.connections == 0)

    run(scenario)


def test_a_refusal_is_in_the_books_of_its_client(tmp_path: Path) -> None:
    """A refused request of a known client is booked once, with what the client saw."""

    async def scenario() -> None:
        async with one(tmp_path) as (pool, _):
            for path, body in (("/v1/chat/completions", b"{"), ("/v1/nothing", ASK), ("/v1/messages", b"[]")):
                status, _ = await pool.answer(path, body)
                (row, *_) = await pool.booked(1)
                assert (row.record.path, row.record.status, row.record.client) == (path, status, "default")
            assert len(await pool.booked(3)) == 3

    run(scenario)


def test_strangers_are_counted(tmp_path: Path) -> None:
    """Requests without a valid key, and those for another host, are counted and leave no row."""

    async def scenario() -> None:
        async with one(tmp_path, extra='[security]\nallowed_hosts = ["127.0.0.1"]') as (pool, _):
            refused = [{}, {"x-api-key": "ep_wrong-key"}, BEARER | {"host": "evil.example"}]
            for path in ("/v1/messages", "/v1/models", "/api/events"):
                for headers in refused:
                    async with pool.http.post(pool.url + path, data=ASK, headers=headers) as answer:
                        assert answer.status in (401, 403, 405)
            async with pool.get("/api/stats/summary") as answer:
                told = await answer.json()
            # A wrong method at a known path of the control plane is told before the key is looked at.
            assert told["refused_at_the_door"] == 3 + 1 + 1
            assert told["total_requests"] == 0

    run(scenario)
