"""Errors that come oddly: without their body, with an odd status, or with half an answer behind them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers.pool import key_of, pool_of, run
from tests.scenarios.asking import CHAT, PATHS, WORDS, question, text_of

from eggpool.engine import judging
from eggpool.scripted import Behaviour, Drop, Hang, Play, Reply, Send, Steps, good, reply
from eggpool.scripted.received import ReceivedRequest
from eggpool.scripted.steps import SendChunk

LIMITED = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 60\r\ncontent-type: application/json\r\n"


def error_then_answer(request: ReceivedRequest, good_reply: Reply) -> Steps:
    """An error, and in the same chunk what looks like an answer."""
    events = good_reply.events or ()
    return (
        good_reply.stream_head(),
        SendChunk(b'data: {"error":{"message":"busy"}}\n\n' + b"".join(events)),
        SendChunk(b""),
    )


@pytest.mark.parametrize(
    "script",
    [
        (Send(LIMITED + b'content-length: 100\r\n\r\n{"err'), Drop()),
        (Send(LIMITED + b"content-length: 100\r\n\r\n"), Hang()),
    ],
    ids=["broken off", "silent"],
)
def test_a_limit_whose_body_does_not_come(script: Steps, tmp_path: Path) -> None:
    """The status and its Retry-After count, and another account answers soon."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": Behaviour(script), "b": good}) as (pool, _):
            status, body = await pool.answer(PATHS[CHAT], question())
            assert (status, text_of(CHAT, body)) == (200, f"You said: {WORDS}")
            (row,) = await pool.booked(1)
            assert row.attempts[0].error_class == "rate"
            assert row.attempts[0].rest_ms is not None and 59_000 < row.attempts[0].rest_ms <= 60_000

    assert judging.ERROR_BODY_S < 10
    run(scenario)


@pytest.mark.parametrize(
    "status", [b"101 Switching Protocols", b"204 No Content", b"304 Not Modified", b"600 What", b"999 No"]
)
def test_a_status_that_is_no_answer(status: bytes, tmp_path: Path) -> None:
    """A status that no API gives is a failure of that account, not a broken connection of the client."""

    async def scenario() -> None:
        odd = (Send(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n"), Drop())
        async with pool_of(tmp_path, {"a": Behaviour(odd), "b": good}) as (pool, _):
            answered, body = await pool.answer(PATHS[CHAT], question())
            assert (answered, text_of(CHAT, body)) == (200, f"You said: {WORDS}")

    run(scenario)


@pytest.mark.parametrize("script", [error_then_answer])
def test_what_came_first_counts(script: Play, tmp_path: Path) -> None:
    """An error before the first word is a failure, even when an answer comes in the same breath."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": Behaviour(script), "b": good}) as (pool, upstream):
            status, body = await pool.answer(PATHS[CHAT], question(stream=True))
            assert (status, text_of(CHAT, body)) == (200, f"You said: {WORDS}")
            assert b"busy" not in body
            assert [request.api_key for request in upstream.work] == [key_of("a"), key_of("b")]

    run(scenario)


def test_an_encoding_that_cannot_be_undone(tmp_path: Path) -> None:
    """What comes encoded in a way that only the client may know is passed on as it is, with the header that says so."""

    async def scenario() -> None:
        encoded = reply(200, b"\x0b\x02\x80{}\x03", {"content-type": "application/json", "content-encoding": "zz"})
        async with (
            pool_of(tmp_path, {"a": Behaviour(encoded)}) as (pool, _),
            pool.post(PATHS[CHAT], question(), **{"accept-encoding": "zz"}) as answer,
        ):
            assert (answer.status, answer.headers["content-encoding"]) == (200, "zz")
            assert await answer.read() == b"\x0b\x02\x80{}\x03"
            (row,) = await pool.booked(1)
            assert (row.record.outcome.value, row.record.usage_source.value) == ("completed", "none")

    run(scenario)
