"""A client gets the provider's reply as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.helpers.pool import pool_of, run
from tests.scenarios.asking import CHAT, MESSAGES, PATHS, RESPONSES, STREAM_EVENTS, question, text_of

from eggpool.domain import Dialect
from eggpool.scripted import (
    Script,
    crlf_lines,
    good,
    gzipped,
    huge_event,
    in_chunks,
    multi_line_data,
    reply,
    usage_in_each_chunk,
    with_comments,
    with_trailers,
)

OWN = {"content-type"}  # stands in front of the body too
DIALECTS = [CHAT, MESSAGES, RESPONSES]
WANTS_USAGE = b'{"stream_options":{"include_usage":true},'


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("script", "changed"),
    [
        (good, lambda event: event),
        (in_chunks(1), lambda event: event),
        (in_chunks(7), lambda event: event),
        (in_chunks(100_000), lambda event: event),
        (crlf_lines(), lambda event: event.replace(b"\n", b"\r\n")),
        (with_comments(), lambda event: b": keep-alive\n\n" + event),
        (multi_line_data(), lambda event: event.replace(b"data: {", b"data: {\ndata: ", 1)),
    ],
    ids=["good", "by 1", "by 7", "at once", "crlf", "comments", "two lines"],
)
def test_stream_is_identical(
    tmp_path: Path, dialect: Dialect, script: Script, changed: Callable[[bytes], bytes]
) -> None:
    """A stream in the client's dialect is the provider's, byte for byte, however it was cut into pieces."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": script}) as (pool, upstream):
            asked = question(dialect, stream=True)
            if dialect is CHAT:
                asked = asked.replace(b"{", WANTS_USAGE, 1)
            async with pool.post(PATHS[dialect], asked) as answer:
                assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
                body = await answer.read()
            assert body == b"".join(map(changed, STREAM_EVENTS[dialect](upstream.work[0].body)))
            row = (await pool.booked(1))[0].record
            assert (row.outcome.value, row.usage.output_tokens, row.usage_source.value) == ("completed", 5, "reported")
            assert row.bytes_emitted == len(body)

    run(scenario)


@pytest.mark.parametrize(
    ("script", "line_end"),
    [(good, b"\n"), (in_chunks(1), b"\n"), (crlf_lines(), b"\r\n")],
    ids=["good", "by 1", "crlf"],
)
def test_usage_that_was_not_asked_for_is_withheld(tmp_path: Path, script: Script, line_end: bytes) -> None:
    """The usage chunk that the pool asked for is taken out; everything around it stays byte for byte."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": script}) as (pool, upstream):
            _, body = await pool.answer(PATHS[CHAT], question(stream=True))
            events = STREAM_EVENTS[CHAT](upstream.work[0].body)
            expected = b"".join(event for event in events if b'"choices":[]' not in event)
            assert len(expected) < len(b"".join(events))
            assert body.replace(b"\r\n", b"\n") == expected
            assert (b"\r\n" in body) == (line_end == b"\r\n")
            assert (await pool.booked(1))[0].record.usage.output_tokens == 5

    run(scenario)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_plain_reply_is_identical(tmp_path: Path, dialect: Dialect) -> None:
    """A plain reply is the provider's, byte for byte, with its length."""
    odd = (
        b' {"id":"x", "choices" : [{"message":{"content":"a"}}],"type":"message","content":[],"output":[],\n'
        b'"new":1.50,"usage":{}}\n'
    )

    async def scenario() -> None:
        headers = {"content-type": "application/json", "openai-processing-ms": "12", "x-ratelimit-remaining": "9"}
        async with (
            pool_of(tmp_path, {"one": reply(200, odd, headers)}) as (pool, _),
            pool.post(PATHS[dialect], question(dialect)) as answer,
        ):
            assert await answer.read() == odd
            assert answer.headers["content-length"] == str(len(odd))
            assert answer.headers["openai-processing-ms"] == "12"
            assert answer.headers["x-ratelimit-remaining"] == "9"

    run(scenario)


def test_reply_headers(tmp_path: Path) -> None:
    """Cookies, server names and rules for browsers end at the pool; the provider's own ids and limits pass."""
    vanish = {
        "set-cookie": "a=b",
        "server": "cloudflare",
        "strict-transport-security": "max-age=1",
        "alt-svc": "h3",
        "access-control-allow-origin": "*",
        "keep-alive": "timeout=4",
        "x-proxy-request-id": "forged",
        "x-eggpool-account": "forged",
        "authorization": "echoed",
    }
    survive = {"content-type": "application/json", "retry-after-ms": "5", "x-custom": "kept"}

    async def scenario() -> None:
        script = reply(200, b'{"choices":[{"message":{"content":"a"}}]}', vanish | survive)
        async with pool_of(tmp_path, {"one": script}) as (pool, _), pool.post(PATHS[CHAT], question()) as answer:
            got = {name.lower(): value for name, value in answer.headers.items()}
            assert len(got) == len(answer.headers)
            assert survive.items() <= got.items()
            own = {"content-length", "date", "x-proxy-request-id", "x-proxy-attempt-count", "x-eggpool-account"}
            assert set(got) - set(survive) == own
            assert got["x-eggpool-account"] == "alpha/one"
            assert got["x-proxy-request-id"] != "forged"

    run(scenario)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [good, gzipped()], ids=["identity", "gzip"])
def test_accept_encoding(tmp_path: Path, script: Script, stream: bool) -> None:
    """Whatever encodings a client takes, what it gets can be read, and is announced as what it is."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": script}) as (pool, _):
            async with pool.post(PATHS[CHAT], question(stream=stream), **{"accept-encoding": "br"}) as answer:
                assert "content-encoding" not in answer.headers
                assert text_of(CHAT, await answer.read()) == "You said: say three words"
            assert (await pool.booked(1))[0].record.usage.output_tokens == 5

    run(scenario)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_huge_event(tmp_path: Path, dialect: Dialect) -> None:
    """An event far longer than what is held back passes whole, and the end behind it is understood."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": huge_event(3_000_000)}) as (pool, _):
            _, body = await pool.answer(PATHS[dialect], question(dialect, stream=True))
            assert text_of(dialect, body) == "x" * 3_000_000
            row = (await pool.booked(1))[0].record
            assert (row.outcome.value, row.usage.output_tokens) == ("completed", 1)

    run(scenario)


def test_usage_in_each_chunk(tmp_path: Path) -> None:
    """A stream that reports usage in each chunk is booked with the last report, never with the sum."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": usage_in_each_chunk(11, 7)}) as (pool, _):
            await pool.answer(PATHS[CHAT], question(stream=True))
            usage = (await pool.booked(1))[0].record.usage
            assert (usage.input_tokens, usage.output_tokens) == (11, 7)

    run(scenario)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "trailers",
    [
        (("x-checksum", "abc"),),
        (("set-cookie", "a=b"), ("content-type", "text/html"), ("retry-after", "60"), ("content-encoding", "gzip")),
        tuple((f"x-{number}", "y" * 100) for number in range(40)),
    ],
    ids=["one", "odd", "many"],
)
def test_trailers(tmp_path: Path, trailers: tuple[tuple[str, str], ...], dialect: Dialect, stream: bool) -> None:
    """Fields behind a provider's chunked reply harm nothing: the reply is whole, they are dropped, the next one comes
    over the same connection."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": with_trailers(*trailers)}) as (pool, upstream):
            for _ in range(2):
                async with pool.post(PATHS[dialect], question(dialect, stream=stream)) as answer:
                    body = await answer.read()
                    assert answer.status == 200
                    assert text_of(dialect, body) == "You said: say three words"
                    assert "trailer" not in answer.headers
                    assert not {name for name, _ in trailers} & {name.lower() for name in answer.headers} - OWN
            assert len({request.connection for request in upstream.work}) == 1
            assert [row.record.outcome.value for row in await pool.booked(2)] == ["completed"] * 2
            assert pool.runtime.pool.rests == {}

    run(scenario)
