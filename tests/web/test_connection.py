"""What a client may do to its connection: nothing it sends gets into an answer, costs memory, or holds up an end."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.helpers.pool import BEARER, RunningPool, pool_of, run
from tests.helpers.upstream import head_and_body
from tests.scenarios.asking import CHAT, HELD_BACK, question

from eggpool.engine.connection import MAX_HELD_BYTES, Connection
from eggpool.scripted import ReceivedRequest, Reply, Script, ScriptedProvider, SendChunk, Steps, WaitFor, good

HEALTH = b"GET /v1/healthz HTTP/1.1\r\nhost: pool\r\n\r\n"
LAST_HEALTH = HEALTH[:-2] + b"connection: close\r\n\r\n"
BOTH_LOOPS = pytest.mark.parametrize("debug", [True, False], ids=["asyncio", "uvloop"])
SHORT_S = 0.02
SOON_S = 2.0


def ask(body: bytes, *headers: str, framed: str | None = None) -> bytes:
    """A chat request."""
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: pool", framed or f"content-length: {len(body)}", *headers]
    lines += [f"{name}: {value}" for name, value in BEARER.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def statuses(received: bytes) -> list[int]:
    """The status of each answer."""
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


class Client:
    """One connection to the pool, and the pool's side of it."""

    def __init__(self, pool: RunningPool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._pool = pool
        self.reader = reader
        self.writer = writer

    @property
    def side(self) -> Connection:
        (found,) = self._pool.client_connections
        return found


@asynccontextmanager
async def client(pool: RunningPool) -> AsyncIterator[Client]:
    """Connect, and wait until the pool knows it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", pool.port)
    try:
        await pool.until(lambda: bool(pool.client_connections))
        yield Client(pool, reader, writer)
    finally:
        writer.close()


def held_by(gate: asyncio.Event) -> Script:
    """A provider's script: its stream stops after its first word until the gate opens, a plain answer before it."""

    def script(_request: ReceivedRequest, reply: Reply) -> Steps:
        if reply.events is None:
            return (WaitFor(gate), *reply.steps())
        events = [SendChunk(event) for event in reply.events]
        first = HELD_BACK[CHAT] + 1
        return (reply.stream_head(), *events[:first], WaitFor(gate), *events[first:], SendChunk(b""))

    return script


@asynccontextmanager
async def held(folder: Path) -> AsyncIterator[tuple[RunningPool, ScriptedProvider, asyncio.Event]]:
    """A pool whose one account waits for the gate."""
    gate = asyncio.Event()
    async with pool_of(folder, {"a": held_by(gate)}) as (pool, upstream):
        yield pool, upstream, gate


@pytest.mark.parametrize("late", [b"\r\n", b"POST /v1/chat/comp", b"garbage\r\n\r\n", b"\x16\x03\x01"])
def test_nothing_gets_into_a_running_answer(tmp_path: Path, late: bytes) -> None:
    """What comes during a stream, whatever it is, is looked at when the stream has ended; the stream stays whole."""

    async def scenario() -> None:
        async with held(tmp_path) as (pool, _, gate), client(pool) as one:
            one.side.header_timeout_s = SHORT_S
            one.side.timeout_keep_alive = 0
            one.writer.write(ask(question(stream=True)))
            begun = await one.reader.readuntil(b"data: ")
            one.writer.write(late)
            await pool.until(lambda: one.side._inbox[one.side._at :] == late)
            asyncio.get_running_loop().call_later(5 * SHORT_S, gate.set)
            received = begun + await one.reader.read()
            end = received.index(b"\r\n0\r\n\r\n") + len(b"\r\n0\r\n\r\n")
            assert b"[DONE]" in head_and_body(received[:end])[1]
            assert statuses(received[end:]) == ([] if late == b"\r\n" else [408] if late[:4] == b"POST" else [400])
            assert statuses(received) == [200, *statuses(received[end:])]

    run(scenario)


def test_garbage_behind_a_request(tmp_path: Path) -> None:
    """A good request in one segment with garbage is answered; then the connection closes."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, upstream):
            received = await pool.raw(ask(question()) + b"garbage\r\n\r\n")
            assert statuses(received) == [200, 400]
            assert received.index(b"choices") < received.index(b"HTTP/1.1 400")
            assert len(upstream.work) == 1

    run(scenario)


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    """Requests that were sent together, with every framing of a body, are answered one after the other."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, upstream):
            body = question()
            chunked = ask(b"", framed="transfer-encoding: chunked")
            chunked += b"5;name=value\r\n%s\r\n%X\r\n%s\r\n0\r\n\r\n" % (body[:5], len(body) - 5, body[5:])
            together = ask(body) + HEALTH + b"\r\n" + chunked + HEALTH + ask(body, "connection: close")
            received = await pool.raw(together + HEALTH)
            assert statuses(received) == [200] * 5
            assert len(upstream.work) == 3
            async with client(pool) as one:
                for byte in together:
                    one.writer.write(bytes([byte]))
                    await one.writer.drain()
                    await asyncio.sleep(0)
                assert statuses(await one.reader.read()) == [200] * 5

    run(scenario)


@BOTH_LOOPS
def test_a_flood_of_requests_costs_no_memory(tmp_path: Path, debug: bool) -> None:
    """Megabytes of requests behind a running one stay in the network; when it ends, they are answered."""

    async def scenario() -> None:
        async with held(tmp_path) as (pool, _, gate), client(pool) as one:
            one.writer.write(ask(question()))
            flood = HEALTH * (8 * MAX_HELD_BYTES // len(HEALTH))
            one.writer.write(flood)
            await pool.until(lambda: one.side.flow.read_paused)
            assert len(one.side._inbox) < 4 * MAX_HELD_BYTES
            gc.collect()
            assert not one.side.pipeline
            gate.set()
            answered = 0
            while answered < 100:
                answered += (await one.reader.read(65536)).count(b"HTTP/1.1 200")
            one.writer.transport.abort()

    run(scenario, debug=debug)


@BOTH_LOOPS
@pytest.mark.parametrize(
    "waiting", [ask(question()), HEALTH * (8 * MAX_HELD_BYTES // len(HEALTH))], ids=["one", "many"]
)
def test_client_leaves_while_requests_wait(tmp_path: Path, waiting: bytes, debug: bool) -> None:
    """It is noticed within a second, however much waits; nothing that waited is started."""

    async def scenario() -> None:
        async with held(tmp_path) as (pool, upstream, _), client(pool) as one:
            one.writer.write(ask(question()))
            await upstream.wait_for(lambda there: bool(there.work))
            one.writer.write(waiting)
            await pool.until(lambda: bool(one.side._inbox[one.side._at :]))
            if len(waiting) > MAX_HELD_BYTES:
                await pool.until(lambda: one.side.flow.read_paused)
            if len(waiting) > MAX_HELD_BYTES:
                # What was sent and is not read stands before a polite end; only a reset gets past it.
                linger = struct.pack("ii", 1, 0)
                one.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            one.writer.transport.abort()
            left = time.monotonic()
            await pool.until(lambda: not pool.in_flight)
            assert time.monotonic() - left < 1.0
            assert [row.record.outcome.value for row in await pool.booked(1)] == ["cancelled"]
            assert len(upstream.work) == 1

    run(scenario, debug=debug)


def test_trailers_are_dropped(tmp_path: Path) -> None:
    """Fields behind a chunked body do not become headers of the request."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, upstream):
            body = question()
            sent = ask(b"", "connection: close", framed="transfer-encoding: chunked")
            sent += b"%x\r\n%s\r\n0\r\nx-trailer: yes\r\nopenai-organization: other\r\n\r\n" % (len(body), body)
            assert statuses(await pool.raw(sent)) == [200]
            names = {name.lower() for name, _ in upstream.work[0].headers}
            assert names.isdisjoint({"x-trailer", "openai-organization"})

    run(scenario)


@pytest.mark.parametrize("piece", [b"x: " + b"a" * 1000 + b"\r\n", b"a" * 1000], ids=["many", "one"])
def test_endless_trailers(tmp_path: Path, piece: bytes) -> None:
    """Fields behind a body, many or one without an end, are refused at 64 KiB."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, _):
            sent = ask(b"", framed="transfer-encoding: chunked") + b"2\r\n{}\r\n0\r\n" + piece * 80
            assert statuses(await pool.raw(sent)) == [400]

    run(scenario)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_upgrade_with_a_body(tmp_path: Path, protocol: str, together: bool) -> None:
    """An upgrade is ignored, and the body is the body, even one that looks like a request."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, upstream), client(pool) as one:
            upgrade = ["connection: upgrade", f"upgrade: {protocol}"]
            for body, status in ((question(), 200), (HEALTH, 400)):
                sent = ask(body, *upgrade)
                if together:
                    one.writer.write(sent)
                else:
                    one.writer.write(sent[: -len(body)])
                    await pool.until(lambda: not one.side._in_headers)
                    one.writer.write(body)
                head = await one.reader.readuntil(b"\r\n\r\n")
                assert statuses(head) == [status]
                length = re.search(rb"content-length: (\d+)", head)
                assert length is not None
                await one.reader.readexactly(int(length[1]))
            one.writer.write(LAST_HEALTH)
            assert statuses(await one.reader.read()) == [200]
            assert len(upstream.work) == 1

    run(scenario)


REFUSED = {
    "no host": b"GET /v1/healthz HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v1/healthz HTTP/1.1\r\nhost: a\r\nHost: a\r\n\r\n",
    "gzip": ask(b"0\r\n\r\n", framed="transfer-encoding: gzip, chunked"),
    "chunked twice": ask(b"0\r\n\r\n", "transfer-encoding: chunked", framed="transfer-encoding: chunked"),
    "identity": ask(b"", framed="transfer-encoding: identity"),
    "length and chunks": ask(b"0\r\n\r\n", "content-length: 5", framed="transfer-encoding: chunked"),
    "chunks in 1.0": ask(b"0\r\n\r\n", framed="transfer-encoding: chunked").replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "two lengths": ask(b"{}", "content-length: 3"),
    "a signed length": ask(b"{}", framed="content-length: +2"),
    "a signed chunk": ask(b"+2\r\n{}\r\n0\r\n\r\n", framed="transfer-encoding: chunked"),
    "a chunk that is longer than it says": ask(b"1\r\n{}\r\n0\r\n\r\n", framed="transfer-encoding: chunked"),
    "an upgrade with chunks": ask(
        b"0\r\n\r\n", "connection: upgrade", "upgrade: h2c", framed="transfer-encoding: chunked"
    ),
    "connect": b"CONNECT pool:80 HTTP/1.1\r\nhost: pool\r\n\r\n",
    "bare line ends": b"GET /v1/healthz HTTP/1.1\nhost: pool\n\r\n\r\n",
    "a hello of TLS": b"\x16\x03\x01\x02\x00",
}


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED.keys())
def test_refused(tmp_path: Path, sent: bytes) -> None:
    """A request whose borders are not beyond doubt is refused, and nothing behind it is looked at."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, upstream):
            assert statuses(await pool.raw(sent + HEALTH)) == [400]
            assert upstream.work == []

    run(scenario)


@pytest.mark.parametrize("border", [1, 2, 3])
def test_border_of_segments_in_the_empty_line(tmp_path: Path, border: int) -> None:
    """A head whose last bytes come with a large body is not too long."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, _), client(pool) as one:
            body = question(words="x" * 100_000)
            sent = ask(body, "connection: close")
            cut = len(sent) - len(body) - border
            one.writer.write(sent[:cut])
            await pool.until(lambda: bool(one.side._inbox))
            one.writer.write(sent[cut:])
            assert statuses(await one.reader.read()) == [200]

    run(scenario)


def test_an_unread_body_closes(tmp_path: Path) -> None:
    """A body that was announced and answered without being read is not waited for: the connection closes."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, _):
            sent = ask(b"", "expect: 100-continue", framed="content-length: 9").replace(
                b"chat/completions", b"models", 1
            )
            received = await pool.raw(sent)
            assert statuses(received) == [405]
            assert b"connection: close" in received

    run(scenario)


@pytest.mark.parametrize("framed", ["content-length: 100", "transfer-encoding: chunked"])
def test_an_upload_that_stops(tmp_path: Path, framed: str) -> None:
    """A body of which nothing comes any more is given up."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, _), client(pool) as one:
            one.side.upload_timeout_s = SHORT_S
            one.writer.write(ask(b"1", framed=framed))
            assert statuses(await one.reader.read()) == [408]
            await pool.until(lambda: not pool.client_connections)

    run(scenario)


@pytest.mark.parametrize("sent", [ask(b"1", framed="content-length: 100"), b"POST /v1/chat", b""])
def test_unfinished_requests_do_not_delay_the_end(tmp_path: Path, sent: bytes) -> None:
    """On shutdown, a request that is not whole is closed at once."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, _), client(pool) as one:
            if sent:
                one.writer.write(sent)
                await pool.until(lambda: bool(one.side._inbox) or not one.side._in_headers)
            begun = time.monotonic()
            assert await pool.runtime.server.drain(10.0, asyncio.Event())
            assert time.monotonic() - begun < SOON_S

    run(scenario)


@pytest.mark.parametrize(
    "piece", [b"x: " + b"a" * 1000 + b"\r\n", b"a" * 1000], ids=["very many lines", "one endless line"]
)
def test_headers_without_end(tmp_path: Path, piece: bytes) -> None:
    """Headers of more than 64 KiB are a 431 as soon as they are, with a key or without, and nothing more is read."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, upstream):
            received = await pool.raw(b"POST /v1/messages HTTP/1.1\r\nhost: pool\r\nx: " + piece * 80)
            assert statuses(received) == [431]
            assert b"64 KiB" in received
            assert upstream.work == []

    run(scenario)


def test_headers_that_do_not_come(tmp_path: Path) -> None:
    """A request whose headers are begun and not ended is a 408 after the header time-out, however they drip."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, _), client(pool) as one:
            one.side.header_timeout_s = SHORT_S
            one.writer.write(HEALTH + b"GET /v1/healthz HTTP/1.1\r\n")
            assert statuses(await one.reader.read()) == [200, 408]
            await pool.until(lambda: not pool.client_connections)

    run(scenario)


@pytest.mark.parametrize(
    "begun",
    [b"", b"POST /v1/chat/completions HTTP/1.1\r\nhost: p", ask(b"{", framed="content-length: 1000")],
    ids=["nothing", "half a head", "half a body"],
)
@BOTH_LOOPS
def test_hundreds_of_unfinished_requests(tmp_path: Path, begun: bytes, debug: bool) -> None:
    """Three hundred connections that have begun and do not go on leave the others what they need, and then go."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, upstream):
            opened = [await asyncio.open_connection("127.0.0.1", pool.port) for _ in range(300)]
            for _, writer in opened:
                writer.write(begun)
            await pool.until(lambda: len(pool.client_connections) == 300)
            for _ in range(20):
                async with asyncio.timeout(SOON_S):
                    assert (await pool.answer("/v1/chat/completions", question()))[0] == 200
            assert len(upstream.work) == 20
            for _, writer in opened:
                writer.close()
            await pool.until(lambda: len(pool.client_connections) <= 1)

    run(scenario, debug=debug)
