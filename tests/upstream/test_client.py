"""The HTTP client against a real server: every end that a request can come to, told in our own words."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from contextlib import suppress

import pytest
from tests.helpers.pool import run
from tests.upstream.calling import CHAT_PATH, LOOPS, call, calling, check, fetched, whole

from eggpool.errors import ConnectFailed, UpstreamBroken, UpstreamTimeout
from eggpool.scripted import (
    Behaviour,
    Drop,
    Hang,
    Pause,
    ReceivedRequest,
    Reply,
    Script,
    ScriptedProvider,
    Send,
    SendChunk,
    Steps,
    WaitFor,
    cut_body,
    cut_stream,
    drop_before_reply,
    drop_when_reused,
    good,
    gzipped,
    hang_after_events,
    hang_after_headers,
    hang_before_headers,
    in_chunks,
    reply,
)
from eggpool.upstream.client import Client, is_local
from eggpool.upstream.headers import towards_provider


@LOOPS
def test_a_good_reply(debug: bool) -> None:
    """Status, headers and body are those that were sent; the first connection is timed, the second one reused."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        first = await client.send(call(provider))
        body = await whole(first)
        first.close()
        first.close()
        assert first.status == 200
        assert json.loads(body)["choices"]
        assert first.header("content-type") == "application/json"
        assert (b"content-type", b"application/json") in first.headers
        assert first.request_id == b"req_000001"
        assert first.bytes_received == len(body)
        assert not first.reused_connection
        assert first.connect_us is not None
        assert 0 < first.connect_us < 5_000_000
        second = await client.send(call(provider))
        await whole(second)
        second.close()
        assert (second.reused_connection, second.connect_us) == (True, None)
        assert provider.accepted_connections == 1
        assert await second.read() == b""

    check(good, scenario, debug=debug)


def test_what_is_sent() -> None:
    """The path, the query, each header and the body arrive as they were given, and nothing is added but the framing."""
    headers = [(b"X-One", b"1"), (b"x-two", "caf\u00e9".encode()), (b"x-two", b"again")]

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        await (await client.send(call(provider, path="/v1/a%2Fb%20c?q=%2f&x", headers=headers, body=b"bytes"))).read()
        (received,) = provider.requests
        assert (received.path, received.query, received.body) == ("/v1/a%2Fb%20c", "q=%2f&x", b"bytes")
        names = [name.lower() for name, _ in received.headers]
        assert sorted(names) == ["content-length", "host", "x-one", "x-two", "x-two"]
        value = received.header("x-two") or ""
        assert value.encode("latin-1") == "caf\u00e9".encode()

    check(reply(200, b"x"), scenario)


@pytest.mark.parametrize(("method", "path"), [("POST", CHAT_PATH), ("GET", "/v1/models")])
@pytest.mark.parametrize("value", [b"caf\xe9", "café".encode(), b"\xff\x80", b"caf\xe9 \xc3\xa9"])
def test_header_bytes(method: str, path: str, value: bytes) -> None:
    """What a client wrote into a header arrives byte for byte, with a body and without one."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        headers = towards_provider([(b"x-title", value), (b"x-plain", b"a")], [], frozenset(), {})
        await fetched(client, call(provider, method=method, path=path, headers=headers))
        assert provider.requests[0].headers[1][0] == "x-title"
        assert provider.requests[0].headers[1][1].encode("latin-1") == value
        assert provider.requests[0].headers[2] == ("x-plain", "a")

    check(good, scenario)


@pytest.mark.parametrize("blocks", [64, 256, 4096, 4097, 24 * 4096])
def test_a_large_body(blocks: int) -> None:
    """A body of many megabytes, or fewer, arrives whole, and the loop is never busy with it for long."""
    body = bytes(range(256)) * blocks

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        assert await fetched(client, call(provider, body=body)) == b"x"
        assert provider.requests[0].body == body

    check(reply(200, b"x"), scenario, debug=False)


def test_long_header_lines() -> None:
    """Reply headers of tens of kilobytes are taken."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        answer = await client.send(call(provider))
        assert answer.header("x-long") == "y" * 50_000
        assert await whole(answer) == b"x"
        answer.close()

    check(reply(200, b"x", {"x-long": "y" * 50_000}), scenario)


def test_nothing_follows_a_redirect() -> None:
    """A redirect is a reply like any other: no key goes to another place."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        answer = await client.send(call(provider))
        assert answer.status == 307
        assert answer.header("location") == "/elsewhere"
        answer.close()
        assert len(provider.requests) == 1

    check(reply(307, b"", {"location": "/elsewhere"}), scenario)


def test_cookies_are_not_kept() -> None:
    """What a provider sets as a cookie is not sent back."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        for _ in range(2):  # by name: jars of cookies do not trust addresses
            await fetched(client, call(f"http://localhost:{provider.port}"))
        assert all(request.header("cookie") is None for request in provider.requests)

    check(reply(200, b"x", {"set-cookie": "a=b"}), scenario)


def test_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies that the environment names are not used."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        assert await fetched(client, call(provider)) == b"x"

    check(reply(200, b"x"), scenario)


@LOOPS
def test_connection_refused(debug: bool) -> None:
    """Nobody listens: ConnectFailed, in a sentence that names the place and the reason."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        await provider.unplug()
        with pytest.raises(
            ConnectFailed, match=rf"No connection to 127\.0\.0\.1:{provider.port}: connection refused\."
        ):
            await client.send(call(provider))

    check(good, scenario, debug=debug)


def test_no_tls_there() -> None:
    """A server that closes during the TLS handshake gave no connection; nothing of the request was sent."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        provider.refusing = True
        with pytest.raises(ConnectFailed, match=r"No (secure )?connection to 127\.0\.0\.1"):
            await client.send(call(f"https://127.0.0.1:{provider.port}"))
        with pytest.raises(UpstreamBroken):
            await client.send(call(provider))
        assert provider.requests == []

    check(good, scenario)


def test_headers_that_cannot_be_sent() -> None:
    """A header with a line end is refused before anything is sent, without telling its value."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        with pytest.raises(ConnectFailed) as caught:
            await client.send(call(provider, headers=[(b"x-key", b"secret\r\nx: y")]))
        assert "secret" not in str(caught.value)
        assert provider.requests == []

    check(good, scenario)


@LOOPS
def test_header_timeout(debug: bool) -> None:
    """Headers that do not come in time end the attempt, and the provider's connection with it."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        with pytest.raises(UpstreamTimeout) as caught:
            await client.send(call(provider, header_s=0.05))
        assert caught.value.phase == "headers"
        await provider.wait_for(lambda provider: provider.closed_early == 1)

    check(hang_before_headers(), scenario, debug=debug)


@LOOPS
def test_cancelled_before_the_headers(debug: bool) -> None:
    """A caller that gives up while waiting for headers closes the provider's connection at once."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        sending = asyncio.create_task(client.send(call(provider)))
        await provider.wait_for(lambda provider: len(provider.requests) == 1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await provider.wait_for(lambda provider: provider.closed_early == 1)

    check(hang_before_headers(), scenario, debug=debug)


@pytest.mark.parametrize("script", [hang_after_headers(), hang_after_events(2)], ids=["headers", "events"])
@LOOPS
def test_idle_timeout(script: Script, debug: bool) -> None:
    """Silence inside a reply for longer than allowed ends it."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        answer = await client.send(call(provider, stream=True, idle_s=0.05))
        try:
            with pytest.raises(UpstreamTimeout) as caught:
                await whole(answer)
            assert caught.value.phase == "idle"
            await provider.wait_for(lambda provider: provider.closed_early == 1)
        finally:
            answer.close()

    check(script, scenario, debug=debug)


def test_a_slow_reader_is_not_idle() -> None:
    """Only waiting for the provider counts as silence, not a reader that takes its time."""
    gate: list[asyncio.Event] = []

    def script(_request: ReceivedRequest, answer: Reply) -> Steps:
        return (answer.stream_head(), SendChunk(b"a"), WaitFor(gate[0]), SendChunk(b"b"), SendChunk(b""))

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        gate.append(asyncio.Event())
        answer = await client.send(call(provider, stream=True, idle_s=0.1))
        assert await answer.read() == b"a"
        passed = asyncio.Event()  # three times the limit goes by between two reads
        asyncio.get_running_loop().call_later(0.3, passed.set)
        await passed.wait()
        gate[0].set()
        assert await whole(answer) == b"b"
        answer.close()

    check(script, scenario)


def test_first_event_timeout() -> None:
    """The time until the first event runs from its start, although bytes trickle in; then silence counts again."""

    def script(_request: ReceivedRequest, answer: Reply) -> Steps:
        return (answer.stream_head(), *(SendChunk(b": thinking\n\n"), Pause(0.01)) * 100, Hang())

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        answer = await client.send(call(provider, stream=True))
        began = asyncio.get_running_loop().time()
        answer.limit_wait(0.1, "first_event")
        with pytest.raises(UpstreamTimeout) as caught:
            await whole(answer)
        assert caught.value.phase == "first_event"
        assert "first event" in str(caught.value)
        assert 0.08 < asyncio.get_running_loop().time() - began < 0.9
        answer.close()
        second = await client.send(call(provider, stream=True))
        second.limit_wait(0.2, "first_event")
        await second.read()
        second.limit_wait(0.5, "idle")
        for _ in range(40):
            await second.read()
        second.close()

    check(script, scenario)


@pytest.mark.parametrize(
    "script",
    [cut_body(10), cut_body(0), (Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nshort"), Drop())],
    ids=["part", "nothing", "chunk"],
)
@LOOPS
def test_a_plain_reply_that_breaks(script: Script, debug: bool) -> None:
    """A body short of its length is UpstreamBroken, never an end."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        answer = await client.send(call(provider))
        with pytest.raises(UpstreamBroken):
            await whole(answer)
        answer.close()

    check(script, scenario, debug=debug)


@pytest.mark.parametrize(
    "script",
    [cut_stream(2), cut_stream(2, mid_event=True), cut_stream(2, reset=True)],
    ids=["between events", "inside one", "reset"],
)
@LOOPS
def test_a_stream_that_breaks(script: Script, debug: bool) -> None:
    """A chunked body without its last chunk is UpstreamBroken; with it, its end."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        answer = await client.send(call(provider, stream=True))
        with pytest.raises(UpstreamBroken) as caught:
            await whole(answer)
        answer.close()
        assert not caught.value.stale
        assert provider.requests[0].end in ("dropped", "reset")

    check(script, scenario, debug=debug)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_chunks_of_any_size(size: int) -> None:
    """A stream comes as it was sent, wherever its chunks end, and gives its connection back."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        for _ in range(2):
            assert (await fetched(client, call(provider, stream=True))).endswith(b"data: [DONE]\n\n")
        assert provider.accepted_connections == 1

    check(in_chunks(size), scenario)


@LOOPS
def test_a_stale_connection(debug: bool) -> None:
    """A reused connection that closes without a byte is told apart from a fresh one that does."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        await fetched(client, call(provider))
        with pytest.raises(UpstreamBroken) as caught:
            await client.send(call(provider))
        assert caught.value.stale
        await fetched(client, call(provider))

    check(drop_when_reused(), scenario, debug=debug)


def test_a_fresh_one_in_place_of_stale_ones() -> None:
    """However many kept connections are stale, a request that asks for a fresh one is answered."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        await asyncio.gather(*(fetched(client, call(provider)) for _ in range(4)))
        with pytest.raises(UpstreamBroken):
            await client.send(call(provider))
        answer = await client.send(call(provider), fresh=True)
        assert not answer.reused_connection
        assert (await whole(answer)).startswith(b"{")
        assert provider.accepted_connections == 5
        assert len(provider.requests) == 6

    check(drop_when_reused(), scenario)


def test_a_stray_reply_answers_nobody() -> None:
    """What a provider sends on an idle connection is not taken for the answer to the next request."""
    there: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there.append(writer)
        with suppress(asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nasked")
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        request = call(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", method="GET")
        async with calling() as client:
            assert await fetched(client, request) == b"asked"
            there[0].write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray")
            # While this one goes there and back, the stray one arrives.
            other = await client.send(request, fresh=True)
            assert await whole(other) == b"asked"
            for _ in range(3):
                assert await fetched(client, request) == b"asked"
            assert len(there) == 2
        server.close()
        for writer in there:
            await writer.wait_closed()

    run(main, 10)


def test_a_fresh_connection_that_closes() -> None:
    """A provider that closes a fresh connection has had the request: nothing is stale about it."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        with pytest.raises(UpstreamBroken) as caught:
            await client.send(call(provider))
        assert not caught.value.stale
        assert len(provider.requests) == 1

    check(drop_before_reply(), scenario)


def test_a_reused_connection_that_began_to_answer() -> None:
    """Once a byte of an answer has come, a break on a reused connection is not taken for a stale one."""
    halves = Behaviour(good, then=(Send(b"HTTP/1.1 200 OK\r\nx-a: "), Drop()))

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        await fetched(client, call(provider))
        with pytest.raises(UpstreamBroken) as caught:
            await client.send(call(provider))
        assert provider.requests[1].place_on_connection == 2
        assert not caught.value.stale

    check(halves, scenario)


@pytest.mark.parametrize(
    "start", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nbad\r\n\r\n"]
)
def test_no_http(start: bytes) -> None:
    """An answer that is not HTTP is UpstreamBroken."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        with pytest.raises(UpstreamBroken, match="not valid HTTP"):
            await client.send(call(provider))

    check((Send(start), Drop()), scenario)


@pytest.mark.parametrize("stream", [False, True])
def test_gzip_that_was_not_asked_for(stream: bool) -> None:
    """A compressed reply is read in plain, event by event, and its header does not promise otherwise."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        answer = await client.send(call(provider, stream=stream))
        assert not any(name == b"content-encoding" for name, _ in answer.headers)
        body = await whole(answer)
        answer.close()
        assert body.endswith(b"data: [DONE]\n\n") if stream else json.loads(body)["choices"]
        again = await client.send(call(provider, stream=stream))
        assert again.reused_connection
        again.close()

    check(gzipped(), scenario)


@pytest.mark.parametrize(
    ("encodings", "opaque"),
    [({}, False), ({"content-encoding": "identity"}, False), ({"content-encoding": "br"}, True)],
)
def test_what_cannot_be_read(encodings: dict[str, str], opaque: bool) -> None:
    """A reply in an encoding that is not undone says so, and keeps its header and its bytes."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        answer = await client.send(call(provider))
        assert answer.opaque is opaque
        assert answer.header("content-encoding") == encodings.get("content-encoding")
        assert await whole(answer) == b"as it is"

    check(reply(200, b"as it is", encodings), scenario)


def test_gzip_that_is_cut() -> None:
    """A compressed reply that ends before its encoding does is broken, although its length is right."""
    packed = gzip.compress(b'{"choices": []}')[:-5]

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        answer = await client.send(call(provider))
        with pytest.raises(UpstreamBroken, match="ends before"):
            await whole(answer)
        answer.close()

    check(reply(200, packed, {"content-encoding": "gzip"}), scenario)


@LOOPS
def test_close_in_the_middle(debug: bool) -> None:
    """Closing a reply that is not at its end closes the provider's connection promptly, so that it stops generating."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        answer = await client.send(call(provider, stream=True))
        await answer.read()
        began = time.monotonic()
        answer.close()
        answer.close()
        await provider.wait_for(lambda provider: provider.closed_early == 1)
        assert time.monotonic() - began < 1.0
        await fetched(client, call(provider, method="GET", path="/v1/models"))
        assert provider.accepted_connections == 2

    check(hang_after_events(2), scenario, debug=debug)


def test_closing_the_client() -> None:
    """Closing the client closes idle connections and breaks what is being read."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        await fetched(client, call(provider, method="GET", path="/v1/models"))
        answer = await client.send(call(provider, stream=True))
        await client.aclose()
        await client.aclose()
        await provider.wait_for(lambda provider: provider.open_connections == 0)
        with pytest.raises(UpstreamBroken):
            await whole(answer)
        answer.close()

    check(hang_after_events(1), scenario)


def test_no_hidden_bound_on_connections() -> None:
    """A hundred and fifty open replies are no reason for the next one to wait."""

    async def scenario(provider: ScriptedProvider, client: Client) -> None:
        answers = await asyncio.gather(*(client.send(call(provider, stream=True)) for _ in range(150)))
        assert provider.open_connections == 150
        for answer in answers:
            answer.close()

    check(hang_after_headers(), scenario, debug=False)


def test_a_bound_that_was_set() -> None:
    """With `max_connections` the next request waits for a connection, at most the connect time-out."""

    async def main() -> None:
        async with ScriptedProvider(default=hang_after_headers()) as provider, calling(max_connections=1) as client:
            answer = await client.send(call(provider))
            with pytest.raises(ConnectFailed, match="within the time-out"):
                await client.send(call(provider, connect_s=0.05))
            answer.close()
            (await client.send(call(provider))).close()
            assert len(provider.requests) == 2

    run(main, 10)


@pytest.mark.parametrize(
    ("base_url", "local"),
    [
        ("http://localhost:11434/v1", True),
        ("http://127.0.0.1:8000/v1", True),
        ("http://192.168.1.7/v1", True),
        ("http://[::1]:8000", True),
        ("http://[fd00::7]:8000", True),
        ("http://ollama:11434/v1", True),
        ("http://nas.local/v1", True),
        ("https://api.example.com/v1", False),
        ("http://8.8.8.8/v1", False),
    ],
)
def test_what_is_local(base_url: str, local: bool) -> None:
    """Machines in this network may think for minutes; providers on the internet may not."""
    assert is_local(base_url) is local
