"""What the server makes of an application's answer: right framing, and an honest end when the answer is none."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.helpers.pool import run

from eggpool.config.schema import Server
from eggpool.engine.server import App, HttpServer, Message, Receive, Scope, Send

GET = b"GET / HTTP/1.1\r\nhost: pool\r\nconnection: close\r\n\r\n"
HEAD = GET.replace(b"GET", b"HEAD")


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> Message:
    """The head of an answer."""
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes, *, more: bool = False) -> Message:
    """A part of its body."""
    return {"type": "http.response.body", "body": data, "more_body": more}


def sending(*messages: Message) -> App:
    """An application that sends these."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


def answered(app: App, sent: bytes = GET) -> bytes:
    """All that a client gets that sends so and reads until the end."""
    received: list[bytes] = []

    async def scenario() -> None:
        server = HttpServer(Server(port=0), app)
        await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            writer.write(sent)
            received.append(await reader.read())
        finally:
            writer.close()
            await server.drain(1.0, asyncio.Event())

    run(scenario)
    return received[0]


def split(answer: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Status line, header lines and body."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    line, *headers = head.split(b"\r\n")
    return line, headers, rest


def test_an_answer_of_known_length() -> None:
    """Its parts follow its headers as they are."""
    line, headers, rest = split(
        answered(sending(start(201, (b"content-length", b"3")), body(b"ab", more=True), body(b"c")))
    )
    assert line == b"HTTP/1.1 201 Created"
    assert headers[0].startswith(b"date: ")
    assert headers[1:] == [b"content-length: 3", b"connection: close"]
    assert rest == b"abc"


def test_an_answer_of_unknown_length() -> None:
    """It comes in chunks; a part without bytes makes none, because an empty chunk would be the end."""
    messages = (start(), body(b"ab", more=True), body(b"", more=True), body(b"c" * 20, more=True), body(b""))
    _, headers, rest = split(answered(sending(*messages)))
    assert b"transfer-encoding: chunked" in headers
    assert rest == b"2\r\nab\r\n14\r\n" + b"c" * 20 + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize("length", [(), ((b"content-length", b"5"),)])
def test_an_answer_to_head(length: tuple[tuple[bytes, bytes], ...]) -> None:
    """It has the headers that were given, and no body."""
    _, headers, rest = split(answered(sending(start(200, *length), body(b"12345")), HEAD))
    assert rest == b""
    assert (b"content-length: 5" in headers) == bool(length)
    assert b"transfer-encoding: chunked" not in headers


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body(status: int) -> None:
    """Statuses that have no body get no framing of one."""
    _, headers, rest = split(answered(sending(start(status), body(b""))))
    assert rest == b""
    assert not any(line.startswith((b"transfer-encoding", b"content-length")) for line in headers)


@pytest.mark.parametrize(
    "header",
    [
        (b"x-a", b"b\r\nx-c: d"),
        (b"x-a", b"b\nx-c: d"),
        (b"x-a", b"b\x00"),
        (b"x-a", b"b\x7f"),
        (b"x-a\r\nx-c", b"b"),
        (b"x a", b"b"),
        (b"x-a:", b"b"),
        (b"x(a)", b"b"),
    ],
)
def test_forbidden_headers(header: tuple[bytes, bytes], caplog: pytest.LogCaptureFixture) -> None:
    """A header that would become two, or none, is a defect: the client gets an error instead, and nothing of it."""
    line, headers, _ = split(answered(sending(start(200, (b"x-good", b"caf\xe9\tau lait"), header), body(b"x"))))
    assert line == b"HTTP/1.1 500 Internal Server Error"
    assert not any(b"x-" in one for one in headers)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_values_of_any_other_bytes() -> None:
    """Tabs and bytes above ASCII are permitted in values."""
    _, headers, _ = split(
        answered(sending(start(200, (b"x-a", b"caf\xe9\tau lait"), (b"content-length", b"0")), body(b"")))
    )
    assert b"x-a: caf\xe9\tau lait" in headers


async def failing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """An application with a defect."""
    raise LookupError("a defect")


@pytest.mark.parametrize("app", [failing, sending(), sending(body(b"x"))], ids=["raises", "nothing", "no head"])
def test_no_answer(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """An application that does not begin an answer costs its client a 500 and leaves a line in the log."""
    line, headers, rest = split(answered(app))
    assert line == b"HTTP/1.1 500 Internal Server Error"
    assert b"content-length: %d" % len(rest) in headers
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize(
    ("messages", "rest"),
    [
        ((start(), body(b"ab", more=True)), b"2\r\nab\r\n"),
        ((start(), start()), b""),
        ((start(200, (b"content-length", b"3")), body(b"ab")), b"ab"),
        ((start(200, (b"content-length", b"3")), body(b"ab", more=True), body(b"cd")), b"ab"),
    ],
    ids=["no end", "two heads", "too short", "too long"],
)
def test_half_an_answer(messages: tuple[Message, ...], rest: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """An answer that was begun and is none never looks finished: the connection closes before its end."""
    assert split(answered(sending(*messages)))[2] == rest
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_more_after_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """What an application sends behind a whole answer reaches nobody."""
    assert answered(sending(start(200, (b"content-length", b"1")), body(b"a"), body(b"b"))).endswith(b"\r\n\r\na")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_body_that_was_waited_for() -> None:
    """The body comes whole in one message; the client is asked for it when it waits to be."""
    received: list[Message] = []

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        received.append(await receive())
        await send(start(200, (b"content-length", b"0")))
        await send(body(b""))
        received.append(await receive())

    head = GET.replace(b"GET", b"POST")[:-2] + b"expect: 100-continue\r\ncontent-length: 4\r\n\r\n"
    answer = answered(app, head + b"body")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert received == [{"type": "http.request", "body": b"body", "more_body": False}, {"type": "http.disconnect"}]
