"""A cut stream never looks finished: the client is told in its dialect, or its connection is aborted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.helpers.pool import BEARER, RunningPool, pool_of, run
from tests.helpers.upstream import chunks
from tests.scenarios.asking import CHAT, HELD_BACK, MESSAGES, PATHS, RESPONSES, STREAM_EVENTS, payloads, question

from eggpool.domain import Dialect
from eggpool.scripted import (
    Drop,
    Hang,
    ReceivedRequest,
    Reply,
    Script,
    SendChunk,
    Steps,
    cut_stream,
    error_in_stream,
    good,
    no_terminal_marker,
)

DIALECTS = [CHAT, MESSAGES, RESPONSES]
SUCCESS = {CHAT: b"[DONE]", MESSAGES: b"message_stop", RESPONSES: b"response.completed"}
BIG = b"x" * 400_000


async def streamed(pool: RunningPool, dialect: Dialect, words: str = "say three words") -> bytes:
    """What comes over the socket in answer to a stream, up to its close."""
    body = question(dialect, stream=True, words=words)
    lines = [f"POST {PATHS[dialect]} HTTP/1.1", "host: pool", "connection: close", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in BEARER.items()]
    received = await pool.raw("\r\n".join([*lines, "", ""]).encode() + body)
    head, _, rest = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"transfer-encoding: chunked" in head
    return rest


def told(dialect: Dialect, event: Any) -> str:
    """The message of an error event in its dialect; fails when it is none."""
    if dialect is RESPONSES:
        assert event["type"] == "error"
        return str(event["message"])
    if dialect is MESSAGES:
        assert (event["type"], event["error"]["type"]) == ("error", "api_error")
    return str(event["error"]["message"])


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("options", "kind"),
    [({}, "broken"), ({"reset": True}, "broken"), ({"mid_event": True}, "broken")],
    ids=["cut", "reset", "in an event"],
)
def test_cut_after_the_first_word(tmp_path: Path, dialect: Dialect, options: dict[str, bool], kind: str) -> None:
    """After content came, a cut is told by the dialect's error event behind the whole events that had come."""

    async def scenario() -> None:
        count = HELD_BACK[dialect] + 2
        accounts: dict[str, Script] = {"a": cut_stream(count, **options), "b": good}
        async with pool_of(tmp_path, accounts) as (pool, upstream):
            body = b"".join(chunks(await streamed(pool, dialect)))
            came = b"".join(STREAM_EVENTS[dialect](upstream.work[0].body)[:count])
            assert body.startswith(came)
            events = payloads(body.removeprefix(came))
            assert len(events) == 1
            assert "broke off" in told(dialect, events[0])
            assert SUCCESS[dialect] not in body
            assert len(upstream.work) == 1
            row = (await pool.booked(1))[0]
            assert (row.record.outcome.value, row.record.error_class) == ("error", kind)
            assert (row.record.account, row.record.status) == ("alpha/a", 200)
            assert [attempt.error_class for attempt in row.attempts] == [kind]
            assert row.record.usage_source.value == ("partial" if dialect is MESSAGES else "none")

    run(scenario)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_end_without_the_terminal_marker(tmp_path: Path, dialect: Dialect) -> None:
    """A stream that ends properly, but without its dialect's last word, is told as broken."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": no_terminal_marker()}) as (pool, _):
            body = b"".join(chunks(await streamed(pool, dialect)))
            assert "without saying" in told(dialect, payloads(body)[-1])
            assert SUCCESS[dialect] not in body
            assert (await pool.booked(1))[0].record.outcome.value == "error"

    run(scenario)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("end", ["break", "proper end"])
def test_cut_inside_a_long_event(tmp_path: Path, dialect: Dialect, end: str) -> None:
    """When a part of an event was passed on already, nothing may follow it: the connection is aborted."""

    def script(_request: ReceivedRequest, reply: Reply) -> Steps:
        assert reply.events is not None
        opening = reply.events[: HELD_BACK[dialect]]
        long = reply.events[HELD_BACK[dialect]].replace(b"You", BIG)
        last = Drop() if end == "break" else SendChunk(b"")
        return (reply.stream_head(), *map(SendChunk, opening), SendChunk(long[:-1000]), last)

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": script}) as (pool, _):
            rest = await streamed(pool, dialect)
            assert rest.count(b"x") > 300_000
            assert not rest.endswith(b"0\r\n\r\n")
            assert b"broke off" not in rest
            row = (await pool.booked(1))[0].record
            assert (row.outcome.value, row.error_class) == ("error", "broken")

    run(scenario)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_break_after_the_terminal_marker(tmp_path: Path, dialect: Dialect) -> None:
    """A stream that has said that it is whole is whole, however its connection ends."""

    def script(_request: ReceivedRequest, reply: Reply) -> Steps:
        assert reply.events is not None
        return (reply.stream_head(), *map(SendChunk, reply.events), Drop())

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": script}) as (pool, _):
            body = b"".join(chunks(await streamed(pool, dialect)))
            assert SUCCESS[dialect] in body
            assert b"broke off" not in body
            row = (await pool.booked(1))[0].record
            assert (row.outcome.value, row.usage.output_tokens) == ("completed", 5)
            assert pool.runtime.pool.rests == {}

    run(scenario)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_error_event_in_the_middle(tmp_path: Path, dialect: Dialect) -> None:
    """An error that a provider tells after content is passed on as it is, and booked as an error."""

    async def scenario() -> None:
        script = error_in_stream(HELD_BACK[dialect] + 2, "too busy now")
        async with pool_of(tmp_path, {"a": script, "b": good}) as (pool, upstream):
            body = b"".join(chunks(await streamed(pool, dialect)))
            assert b"too busy now" in body
            assert len(upstream.work) == 1
            row = (await pool.booked(1))[0]
            assert row.record.outcome.value == "error"
            assert (row.record.error_class, row.attempts[0].error_class) == ("overloaded", "overloaded")

    run(scenario)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_silence_in_the_middle(tmp_path: Path, dialect: Dialect) -> None:
    """A stream that falls silent for longer than read_timeout_s is cut and told as such."""

    def script(_request: ReceivedRequest, reply: Reply) -> Steps:
        assert reply.events is not None
        return (reply.stream_head(), *map(SendChunk, reply.events[: HELD_BACK[dialect] + 1]), Hang())

    async def scenario() -> None:
        more = 'protocols = ["openai", "anthropic", "responses"]\nread_timeout_s = 0.2'
        async with pool_of(tmp_path, {"a": script}, more=more) as (pool, upstream):
            body = b"".join(chunks(await streamed(pool, dialect)))
            assert "within 0.2 s" in told(dialect, payloads(body)[-1])
            row = (await pool.booked(1))[0].record
            assert (row.outcome.value, row.error_class) == ("error", "timeout")
            await upstream.wait_for(lambda there: there.work[0].end == "client_left")

    run(scenario)
