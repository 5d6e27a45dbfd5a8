"""Replies as bytes: where a head and a body end, what is forgiven, and after what a connection is used again."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.pool import run
from tests.upstream.calling import LOOPS, call, calling, check, fetched, rude, whole

from eggpool.errors import ConnectFailed, UpstreamBroken
from eggpool.scripted import (
    Drop,
    Hang,
    Pause,
    ReceivedRequest,
    Reply,
    Reset,
    ScriptedProvider,
    Send,
    Steps,
    WaitFor,
    good,
)
from eggpool.upstream.client import Client
from eggpool.upstream.connection import MAX_HELD_BYTES, Connection

PLAIN = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def asked(client: Client, provider: ScriptedProvider) -> tuple[int, bytes, bool]:
    """Status, body, and whether the next request was given the same connection."""
    accepted = provider.accepted_connections
    answer = await client.send(call(provider))
    try:
        body = await whole(answer)
    finally:
        answer.close()
    status, reused = answer.status, answer.reused_connection
    (await client.send(call(provider))).close()
    return status, body, provider.accepted_connections == accepted + (not reused)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (PLAIN + b"body", (200, b"body", True)),
        (b"HTTP/1.1 200 OK\r\nContent-Length:4\r\n\r\nbody", (200, b"body", True)),
        (b"HTTP/1.1 200 OK\ncontent-length: 4\n\nbody", (200, b"body", True)),
        (b"HTTP/1.1 200\r\ncontent-length: 4\r\n\r\nbody", (200, b"body", True)),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbody", (200, b"body", False)),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\nbody", (200, b"body", False)),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 4\r\n\r\nbody", (200, b"body", True)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"", True)),
        (CHUNKED + b"2\r\nbo\r\n2;x=y\r\ndy\r\n0\r\n\r\n", (200, b"body", True)),
        (CHUNKED + b"4 \r\nbody\r\n0\r\n\r\n", (200, b"body", True)),
        (CHUNKED + b"4\r\nbody\r\n0\r\nx-checksum: 1\r\nset-cookie: a=b\r\n\r\n", (200, b"body", True)),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN + b"body", (200, b"body", True)),
        (b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 3 + PLAIN + b"body", (200, b"body", True)),
        (PLAIN + b"bodyand more", (200, b"body", False)),
        (PLAIN + b"body" + PLAIN + b"more", (200, b"body", False)),
        (CHUNKED + b"4\r\nbody\r\n0\r\n\r\n\0", (200, b"body", False)),
        (b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nwhat?", (101, b"", False)),
    ],
)
def test_where_a_reply_ends(sent: bytes, expected: tuple[int, bytes, bool]) -> None:
    """A reply has its status and its body, whatever stands around them; a doubtful connection is not used again."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        assert await asked(client, provider) == expected

    check((Send(sent),), scenario)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_split_anywhere(data: st.DataObject) -> None:
    """In however many pieces a reply comes, it is the same one."""
    sent = b"HTTP/1.1 103 Early\r\na: b\r\n\r\n" + CHUNKED + b"2\r\nbo\r\n2\r\ndy\r\n0\r\nt: 1\r\n\r\n"
    borders = sorted(data.draw(st.sets(st.integers(1, len(sent) - 1), max_size=6)))
    parts = [sent[start:end] for start, end in zip([0, *borders], [*borders, len(sent)], strict=True)]

    def script(_request: ReceivedRequest, _good: Reply) -> Steps:
        return tuple(step for part in parts for step in (Send(part), Pause(0)))

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        answer = await client.send(call(provider))
        assert (answer.status, answer.headers) == (200, [(b"transfer-encoding", b"chunked")])
        assert await whole(answer) == b"body"
        assert (await client.send(call(provider))).reused_connection

    check(script, scenario, debug=False)


@LOOPS
def test_a_body_that_ends_with_its_connection(debug: bool) -> None:
    """Without a length, the provider's end of the connection is the end of the body, and no other end is."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n"
    endings: list[Drop | Reset | Hang] = [Drop(), Reset(), Hang()]

    def script(request: ReceivedRequest, _good: Reply) -> Steps:
        return (Send(head + b"all of "), Pause(0.02), Send(b"it"), Pause(0.02), endings[int(request.body)])

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        assert await fetched(client, call(provider, body=b"0")) == b"all of it"
        with pytest.raises(UpstreamBroken):
            await fetched(client, call(provider, body=b"1"))
        hanging = await client.send(call(provider, body=b"2"))
        assert await hanging.read() == b"all of "
        await client.aclose()
        with pytest.raises(UpstreamBroken):
            await whole(hanging)

    check(script, scenario, debug=debug)


def test_what_came_before_a_break() -> None:
    """What a provider sent before its connection broke is read first, and then the break."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        answer = await client.send(call(provider))
        await provider.wait_for(lambda provider: provider.open_connections == 0)
        await asyncio.sleep(0)
        assert await answer.read() == b"four"
        for _ in range(2):
            with pytest.raises(UpstreamBroken):
                await answer.read()
        answer.close()

    check((Send(CHUNKED + b"4\r\nfour\r\n"), Drop()), scenario)


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\n" + b"x-a: " + b"y" * 900_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x-a: y\r\n" * 60_000 + b"\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20_000,
        CHUNKED + b"zz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\ncontent-length: -4\r\n\r\nbody",
    ],
    ids=["a long field", "many fields", "interim without end", "no chunk", "two lengths", "negative"],
)
def test_nonsense(sent: bytes) -> None:
    """A head without an end, and framing that cannot be right, are told as no HTTP, and the connection is closed."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        with pytest.raises(UpstreamBroken, match="not valid HTTP"):
            await fetched(client, call(provider))
        await provider.wait_for(lambda provider: provider.open_connections == 0)

    check((Send(sent), Hang()), scenario, debug=False)


@LOOPS
def test_an_answer_before_the_request_is_read(debug: bool) -> None:
    """A provider that refuses a long request without reading it is heard, and what was not sent is given up."""

    async def main() -> None:
        refused = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 4\r\n\r\nlong"
        hung_up = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(refused)
            reader._transport.pause_reading()  # type: ignore[attr-defined] # it does not read the rest
            await hung_up.wait()
            writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        request = call(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", body=b"x" * 50_000_000)
        async with calling() as client:
            answer = await client.send(request)
            assert (answer.status, await whole(answer)) == (413, b"long")
            hung_up.set()
            other = await client.send(call(request.url.origin, method="GET"))
            assert not other.reused_connection
            other.close()
        server.close()

    run(main, 10, debug=debug)


def test_idle_connections_are_closed() -> None:
    """A connection that nobody needs for so long is closed, one that is younger is not, and a lost one is forgotten."""

    async def main() -> None:
        gate = asyncio.Event()

        def script(request: ReceivedRequest, reply: Reply) -> Steps:
            return (WaitFor(gate), *reply.steps()) if request.header("x-waits") else reply.steps()

        async with ScriptedProvider(default=script) as provider, calling(keepalive_timeout_s=0.2) as client:
            waiting = asyncio.create_task(fetched(client, call(provider, headers=[(b"x-waits", b"1")])))
            await provider.wait_for(lambda provider: len(provider.requests) == 1)
            await fetched(client, call(provider))
            await provider.wait_for(lambda provider: provider.open_connections == 1)
            gate.set()
            await waiting
            await fetched(client, call(provider))
            assert provider.accepted_connections == 2
            await provider.wait_for(lambda provider: provider.open_connections == 0)
            await fetched(client, call(provider))
            assert provider.accepted_connections == 3

    run(main, 10)


def test_a_kept_connection_that_the_provider_closed() -> None:
    """One that is known to be gone is not taken: the next request is answered on a fresh one, at the first try."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        for _ in range(3):
            await fetched(client, call(provider))
            await provider.wait_for(lambda provider: provider.open_connections == 0)
            for _ in range(5):
                await asyncio.sleep(0)  # its end is there, and the loop tells
        assert provider.accepted_connections == 3

    check((Send(PLAIN + b"body"), Drop()), scenario, debug=False)


def test_half_a_reply_that_nobody_asked_for() -> None:
    """What comes on an idle connection closes it at once, so that it is not the beginning of the next answer."""

    async def main() -> None:
        closed = asyncio.Event()
        there: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there.append(writer)
            while await reader.read(65536):
                writer.write(PLAIN + b"body")
            closed.set()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        request = call(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", method="GET")
        async with calling() as client:
            await fetched(client, request)
            there[0].write(b"HTTP/1.1 200 OK\r\nx-a: ")
            await closed.wait()
            assert await fetched(client, request) == b"body"
        server.close()
        for writer in there:
            await writer.wait_closed()

    run(main, 10)


def test_a_reader_that_takes_its_time() -> None:
    """Of a long body no more than a bound waits here for its reader, who gets all of it."""

    async def main() -> None:
        size = 20_000_000

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + bytes(size))
            await writer.drain()
            await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with calling() as client:
            answer = await client.send(call(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", method="GET"))
            received = 0
            while not answer.bytes_received or received < size:
                for _ in range(20):
                    await asyncio.sleep(0)  # the provider could send megabytes meanwhile
                part = await answer.read()
                assert 0 < len(part) <= MAX_HELD_BYTES + 300_000
                received += len(part)
            assert await answer.read() == b""
        server.close()

    run(main, 20, debug=False)


def test_a_slow_reader_is_no_silence_of_the_provider() -> None:
    """Time in which nobody waits for the reply does not count against its provider."""
    goes_on = asyncio.Event()

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        answer = await client.send(call(provider, idle_s=0.2))
        assert await answer.read() == b"one,"
        goes_on.set()
        assert await answer.read() == b"two,"  # what is awaited starts the clock
        await provider.wait_for(lambda there: there.work[0].bytes_written >= len(head) + 13)
        assert await whole(answer) == b"three"
        answer.close()

    head = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n"
    check((Send(head + b"one,"), WaitFor(goes_on), Send(b"two,"), Pause(0.5), Send(b"three")), scenario)


@LOOPS
@pytest.mark.parametrize("stray", [PLAIN + b"stray", b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"])
def test_a_stray_reply_that_the_loop_has_not_seen(stray: bytes, debug: bool) -> None:
    """What lies in the kernel when a kept connection is taken answers nobody, and shifts no answer to the next one."""

    async def main() -> None:
        class Provider(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.append(cast("asyncio.Transport", transport))  # uvloop's is one without saying so

            def data_received(self, data: bytes) -> None:
                path = data.split()[1]
                made[-1].write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(path), path))

        made: list[asyncio.Transport] = []
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Provider, "127.0.0.1", 0)
        origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with calling() as client:
            assert await fetched(client, call(origin, method="GET", path="/first")) == b"/first"
            there = socket.socket(fileno=os.dup(made[0].get_extra_info("socket").fileno()))
            there.sendall(stray)  # it arrives at once, and the loop has had no turn to tell
            for path in ("/second", "/third"):
                assert await fetched(client, call(origin, method="GET", path=path)) == path.encode()
            there.close()
            assert len(made) == 2
        server.close()
        await server.wait_closed()

    run(main, 10, debug=debug)


@LOOPS
@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", None),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil close", b"until close"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\nhalf", None),
    ],
    ids=["nothing", "until close", "half"],
)
def test_a_provider_that_stops_in_the_middle_of_a_request(sent: bytes, expected: bytes | None, debug: bool) -> None:
    """One that ends its side and reads no more of a long request ends the exchange: nobody waits for the rest to go."""

    async def main() -> None:
        async with rude(sent, hangs_up=True) as origin, calling() as client:
            request = call(origin, body=b"x" * 50_000_000, header_s=None, idle_s=30.0)
            if expected is None:
                with pytest.raises(UpstreamBroken):
                    await fetched(client, request)
            else:
                assert await fetched(client, request) == expected

    run(main, 10, debug=debug)


@LOOPS
def test_a_long_request_that_is_refused(debug: bool) -> None:
    """Who refuses a long request may never read the rest of it: the next request gets another connection."""

    async def main() -> None:
        refused = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 4\r\n\r\nlong"
        async with rude(refused) as origin, calling() as client:
            first = await client.send(call(origin, body=b"x" * 1_000_000))
            assert (first.status, await whole(first)) == (413, b"long")
            second = await client.send(call(origin, body=b"{}"))
            assert not second.reused_connection
            second.close()

    run(main, 10, debug=debug)


@pytest.mark.parametrize(
    "endless", [b"4\r\nbody\r\n0\r\nx-a: ", b"4\r\nbody\r\n4;x="], ids=["a trailer", "a chunk's extension"]
)
def test_framing_without_end(endless: bytes) -> None:
    """A trailer or an extension that goes on for ever is no reply, and costs a bound."""

    def script(_request: ReceivedRequest, _good: Reply) -> Steps:
        return (Send(CHUNKED + endless), *(Send(b"y" * 65_536), Pause(0)) * 64, Hang())

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        answer = await client.send(call(provider))
        assert await answer.read() == b"body"
        with pytest.raises(UpstreamBroken, match="framing is too long"):
            await answer.read()
        answer.close()

    check(script, scenario, debug=False)


@pytest.mark.parametrize("encoding", [b"identity", b"gzip"])
def test_another_transfer_encoding(encoding: bytes) -> None:
    """One that is not chunked ends with its connection (RFC 9112, 6.3)."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        assert await fetched(client, call(provider)) == b"as it is"

    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: %b\r\n\r\n" % encoding
    check((Send(head + b"as it is"), Drop()), scenario, debug=False)


def test_a_transfer_encoding_that_is_chunked_in_the_end() -> None:
    """Told in two fields, too, it has an end of its own: the connection's is a break."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        with pytest.raises(UpstreamBroken):
            await fetched(client, call(provider))

    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"
    check((Send(head + b"4\r\nhalf\r\n"), Drop()), scenario, debug=False)


@LOOPS
@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example"])
def test_a_name_that_cannot_be_one(host: str, debug: bool) -> None:
    """A host's name that no resolver takes could not be found."""

    async def main() -> None:
        async with calling() as client:
            with pytest.raises(ConnectFailed):
                await client.send(call(f"http://{host}"))

    run(main, 10, debug=debug)


@LOOPS
def test_a_request_on_a_closed_connection(debug: bool) -> None:
    """A connection that closed before its request was written is told as broken; nobody waits for an answer."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with ScriptedProvider(default=good) as provider:
            provider.refusing = True
            _, connection = await loop.create_connection(lambda: Connection(loop), "127.0.0.1", provider.port)
            with pytest.raises(UpstreamBroken):
                while True:
                    connection.take()
                    await connection.more()
            connection.send(b"GET / HTTP/1.1\r\n\r\n", b"")
            await connection.more()
            with pytest.raises(UpstreamBroken):
                connection.take()
            assert not connection.reusable

    run(main, 10, debug=debug)


@LOOPS
@pytest.mark.parametrize("kept", [False, True])
def test_an_answer_before_the_request_is_written(kept: bool, debug: bool) -> None:
    """A request is written in the next turn. What a kept connection brings before answers nobody; a new one's provider
    may answer at once, and is not asked then."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with ScriptedProvider(default=good) as provider:
            _, connection = await loop.create_connection(lambda: Connection(loop), "127.0.0.1", provider.port)
            if kept:
                connection.send(b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n", b"")
                while not connection.whole:
                    connection.take()
                    await connection.more()
            before = len(provider.requests)
            connection.send(b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n", b"")
            connection.data_received(PLAIN + b"fast")
            if kept:
                with pytest.raises(UpstreamBroken):
                    connection.take()
                assert not connection.begun
            else:
                assert (connection.status, connection.take()) == (200, b"fast")
            await asyncio.sleep(0)
            assert not connection.reusable
            connection.abort()
            await provider.wait_for(lambda there: there.open_connections == 0)
            assert len(provider.requests) == before

    run(main, 10, debug=debug)


@LOOPS
def test_a_request_that_is_given_up_before_it_is_written(debug: bool) -> None:
    """The provider never sees it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with ScriptedProvider(default=good) as provider:
            _, connection = await loop.create_connection(lambda: Connection(loop), "127.0.0.1", provider.port)
            connection.send(b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n", b"")
            connection.abort()
            await provider.wait_for(lambda there: there.accepted_connections == 1 and there.open_connections == 0)
            assert not provider.requests

    run(main, 10, debug=debug)


def test_a_place_that_led_nowhere() -> None:
    """With a bound on connections, one that could not be made leaves its place to the next request."""

    async def main() -> None:
        async with ScriptedProvider(default=good) as provider, calling(max_connections=1) as client:
            for _ in range(3):
                with pytest.raises(ConnectFailed):
                    await client.send(call("http://127.0.0.1:1", connect_s=1.0))
            await fetched(client, call(provider, connect_s=1.0))

    run(main, 10)


def test_connections_that_are_not_kept() -> None:
    """Without a time for which idle connections are kept, each request has its own."""

    async def main() -> None:
        async with ScriptedProvider(default=good) as provider, calling(keepalive_timeout_s=None) as client:
            for _ in range(2):
                await fetched(client, call(provider))
            assert provider.accepted_connections == 2

    run(main, 10)


@pytest.mark.parametrize("path", ["/a b", "/a\r\nx: y", "/\x00", "/\x7f", "/\u4e2d"])
def test_paths_that_cannot_be_sent(path: str) -> None:
    """A path with what HTTP forbids in one is refused before anything is sent."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        with pytest.raises(ConnectFailed, match="Nothing was sent"):
            await client.send(call(provider, path=path))
        assert provider.accepted_connections == 0

    check(good, scenario)
