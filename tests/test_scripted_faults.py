"""The scripted provider breaks things exactly as its scripts say, seen through raw sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib

import pytest
import uvloop
from tests.helpers.upstream import (
    CHAT,
    CHAT_STREAM,
    MESSAGES_STREAM,
    RESPONSES_STREAM,
    Loop,
    ask,
    chunks,
    exchange,
    head_and_body,
    raw_request,
    with_provider,
)

from eggpool.domain import Dialect, Usage
from eggpool.scripted import (
    Behaviour,
    Drop,
    Hang,
    Pause,
    ReceivedRequest,
    Reply,
    Reset,
    Script,
    ScriptedProvider,
    Send,
    SendChunk,
    Steps,
    WaitFor,
    chat_reply,
    chat_stream_events,
    crlf_lines,
    cut_body,
    cut_stream,
    drop_before_reply,
    drop_when_reused,
    empty_200,
    error,
    error_200,
    error_in_stream,
    good,
    gzipped,
    hang_after_headers,
    hang_before_headers,
    html_200,
    huge_event,
    in_chunks,
    limited_after,
    messages_stream_events,
    multi_line_data,
    no_terminal_marker,
    rate_limited,
    reply,
    responses_stream_events,
    say,
    slow,
    stream,
    usage_in_each_chunk,
    usage_in_each_delta,
    with_comments,
    with_trailers,
)

EVENTS = chat_stream_events(CHAT_STREAM)
LOOPS = pytest.mark.parametrize("loop", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


def answer_of(script: Script | Behaviour, body: bytes, loop: Loop | None = None) -> bytes:
    """All bytes that a provider with this script sends for a request until it closes."""
    received = b""

    async def test(provider: ScriptedProvider) -> None:
        nonlocal received
        received = await ask(provider, body)

    with_provider(test, default=script, loop=loop)
    return received


def data_of(received: bytes) -> list[bytes]:
    """The data of each event of a streamed reply with LF line ends."""
    blocks = head_and_body(received)[1].split(b"\n\n")[:-1]
    return [
        b"\n".join(line.removeprefix(b"data: ") for line in block.split(b"\n") if line.startswith(b"data: "))
        for block in blocks
    ]


@LOOPS
def test_primitive_steps_are_played_in_order(loop: Loop | None) -> None:
    """Raw bytes, chunks, a pause and an awaited event come out as written, then the connection closes."""

    async def test(provider: ScriptedProvider) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
        writer.write(raw_request(CHAT))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 299 Odd\r\n\r\n"
        assert await reader.readuntil(b"ab\r\n") == b"2\r\nab\r\n"
        (request,) = provider.requests
        assert request.end is None
        go.set()
        assert await reader.read() == b"0\r\n\r\n"
        await provider.wait_for(lambda p: p.requests[0].end == "dropped")
        assert request.bytes_written == len(b"HTTP/1.1 299 Odd\r\n\r\n2\r\nab\r\n0\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    go = asyncio.Event()
    script = (Send(b"HTTP/1.1 299 Odd\r\n\r\n"), Pause(0), SendChunk(b"ab"), WaitFor(go), SendChunk(b""), Drop())
    with_provider(test, default=script, loop=loop)


@LOOPS
def test_a_reset_is_a_reset(loop: Loop | None) -> None:
    """A reset script makes the client's next read fail with a connection reset."""

    async def test(provider: ScriptedProvider) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
        writer.write(raw_request(CHAT))
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await provider.wait_for(lambda p: p.requests[0].end == "reset")
        writer.close()
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()

    with_provider(test, default=(Reset(),), loop=loop)


@LOOPS
@pytest.mark.parametrize("script", [hang_before_headers(), hang_after_headers()], ids=["before", "after"])
def test_a_hang_ends_when_the_provider_stops(script: Script, loop: Loop | None) -> None:
    """A provider that hangs can be closed at any time; the request says that it was stopped."""
    seen: list[ReceivedRequest] = []

    async def test(provider: ScriptedProvider) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", provider.port)
        writer.write(raw_request(CHAT_STREAM))
        await provider.wait_for(lambda p: len(p.requests) == 1)
        seen.extend(provider.requests)
        await provider.aclose()
        writer.transport.abort()

    with_provider(test, default=script, loop=loop)
    assert seen[0].end == "stopped"


def test_headers_come_before_the_hang() -> None:
    """After the headers of the good reply nothing follows."""

    async def test(provider: ScriptedProvider) -> None:
        for body, expected in ((CHAT_STREAM, b"text/event-stream"), (CHAT, b"content-length")):
            reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
            writer.write(raw_request(body))
            assert expected in await reader.readuntil(b"\r\n\r\n")
            assert not reader.at_eof()
            writer.close()
            await writer.wait_closed()
        await provider.wait_for(lambda p: p.closed_early == 2)

    with_provider(test, default=hang_after_headers())


def test_refused_connections_close_without_a_byte() -> None:
    """While refusing, each connection ends at once and no request is recorded; afterwards all is well."""

    async def test(provider: ScriptedProvider) -> None:
        provider.refusing = True
        reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        assert (provider.refused_connections, provider.accepted_connections) == (1, 0)
        assert provider.requests == []
        provider.refusing = False
        assert (await ask(provider, CHAT)).startswith(b"HTTP/1.1 200 ")

    with_provider(test)


def test_an_unplugged_provider_refuses_and_comes_back() -> None:
    """After `unplug` the port refuses and open connections are gone; `plug_in` serves on the same port."""

    async def test(provider: ScriptedProvider) -> None:
        origin = provider.origin
        _, writer = await asyncio.open_connection("127.0.0.1", provider.port)
        await provider.wait_for(lambda p: p.open_connections == 1)
        await provider.unplug()
        assert provider.open_connections == 0
        writer.transport.abort()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", provider.port)
        await provider.plug_in()
        assert provider.origin == origin
        assert (await ask(provider, CHAT)).startswith(b"HTTP/1.1 200 ")

    with_provider(test)


def test_idle_connections_can_be_closed() -> None:
    """`close_idle_connections` ends a kept connection, not one with a reply in progress."""

    async def test(provider: ScriptedProvider) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
        busy_reader, busy_writer = await asyncio.open_connection("127.0.0.1", provider.port)
        writer.write(raw_request(CHAT))
        await provider.wait_for(lambda p: len(p.requests) == 1 and p.requests[0].end == "complete")
        busy_writer.write(raw_request(CHAT))
        await provider.wait_for(lambda p: len(p.requests) == 2)
        provider.close_idle_connections()
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        assert provider.requests[1].end is None
        assert not busy_reader.at_eof()
        for each in (writer, busy_writer):
            each.close()
            await each.wait_closed()

    with_provider(test, default=Behaviour(good, then=hang_before_headers()))


def test_a_reused_connection_can_drop() -> None:
    """`drop_when_reused` answers the first request of a connection and closes at the second."""

    async def test(provider: ScriptedProvider) -> None:
        received = await exchange(provider, raw_request(CHAT) + raw_request(CHAT))
        assert received.endswith(chat_reply(CHAT))
        assert received.count(b"HTTP/1.1 200 OK") == 1
        assert [request.end for request in provider.requests] == ["complete", "dropped"]

    with_provider(test, default=drop_when_reused())


def test_a_behaviour_plays_its_queue_and_then_goes_on() -> None:
    """Queued scripts serve one request each; model lists have a queue of their own."""
    behaviour = Behaviour(error(500), rate_limited("Wed, 21 Oct 2026 07:28:00 GMT"), lists=(reply(200, {"data": []}),))

    async def test(provider: ScriptedProvider) -> None:
        listing = b"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer sk-a\r\nConnection: close\r\n\r\n"
        request = raw_request(CHAT, extra="Authorization: Bearer sk-a\r\nConnection: close\r\n")
        assert (await exchange(provider, listing)).endswith(b'{"data":[]}')
        assert b"scripted-large" in await exchange(provider, listing)
        heads = [head_and_body(await exchange(provider, request))[0] for _ in range(3)]
        assert [head.split()[1] for head in heads] == ["500", "429", "200"]
        assert "retry-after: Wed, 21 Oct 2026 07:28:00 GMT" in heads[1]
        provider.behave("sk-a", error(503))
        assert b" 503 " in await exchange(provider, request)
        provider.forget("sk-a")
        assert b" 401 " in await exchange(provider, request)
        assert b" 401 " in await ask(provider, CHAT)

    with_provider(test, {"sk-a": behaviour})


def test_a_plan_is_limited_and_renews_itself() -> None:
    """After so many requests comes 429 with the seconds left; when they have passed the plan is fresh."""
    clock = [100.0]

    def status(script: Script) -> tuple[int, str | None]:
        request = ReceivedRequest("POST", "/v1/chat/completions", "", (), CHAT, "HTTP/1.1", 1, 1, clock[0])
        assert not isinstance(script, tuple)
        (sent,) = script(request, Reply(200, (), b"fine"))
        assert isinstance(sent, Send)
        head, _ = head_and_body(sent.data)
        waits = [line.split(": ")[1] for line in head.split("\r\n") if line.startswith("retry-after")]
        return int(head.split()[1]), waits[0] if waits else None

    plan = limited_after(2, retry_after_s=30)
    assert [status(plan) for _ in range(3)] == [(200, None), (200, None), (429, "30")]
    clock[0] += 12.5
    assert status(plan) == (429, "18")
    clock[0] += 17.5
    assert [status(plan)[0] for _ in range(3)] == [200, 200, 429]


def test_a_slow_provider_sends_the_same_bytes() -> None:
    """`slow` delays the headers and each event, and changes nothing."""

    async def test(provider: ScriptedProvider) -> None:
        assert head_and_body(await ask(provider, CHAT_STREAM))[1] == b"".join(EVENTS)
        (request,) = provider.requests
        assert request.ended_at_s is not None
        assert request.ended_at_s - request.received_at_s >= 0.05 + len(EVENTS) * 0.005

    with_provider(test, default=slow(0.05, 0.005))
    assert answer_of(slow(0.001), CHAT).endswith(chat_reply(CHAT))


@pytest.mark.parametrize(
    ("dialect", "body", "kind"),
    [
        (None, CHAT, "rate_limit_error"),
        (None, MESSAGES_STREAM, "rate_limit_error"),
        (Dialect.MESSAGES, CHAT, "rate_limit_error"),
        (Dialect.CHAT, MESSAGES_STREAM, "rate_limit_error"),
    ],
)
def test_errors_take_a_dialect(dialect: Dialect | None, body: bytes, kind: str) -> None:
    """An error has the shape of the given dialect, or of the request's, with message and headers as given."""
    received = answer_of(error(429, dialect, "too much", {"retry-after-ms": "1500"}), body)
    head, sent = head_and_body(received)
    payload = json.loads(sent)
    assert "retry-after-ms: 1500" in head
    assert (payload["error"]["type"], payload["error"]["message"]) == (kind, "too much")
    shape = dialect or (Dialect.CHAT if body == CHAT else Dialect.MESSAGES)
    assert (payload.get("type") == "error") == (shape is Dialect.MESSAGES)


def test_answers_that_are_none() -> None:
    """HTML, nothing, and an error are sent with 200."""
    assert answer_of(html_200(), CHAT).startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n")
    assert answer_of(empty_200(), CHAT).endswith(b"content-length: 0\r\n\r\n")
    head, sent = head_and_body(answer_of(error_200("no"), MESSAGES_STREAM))
    assert " 200 " in head
    assert json.loads(sent)["error"]["message"] == "no"
    assert answer_of(drop_before_reply(), CHAT) == b""


@LOOPS
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_cut_stream_ends_where_it_is_cut(reset: bool, loop: Loop | None) -> None:
    """So many events and half of the next come, no end of the chunked body, and the connection is gone."""

    async def test(provider: ScriptedProvider) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
        writer.write(raw_request(CHAT_STREAM))
        await reader.readuntil(b"\r\n\r\n")
        for event in (*EVENTS[:2], EVENTS[2][: len(EVENTS[2]) // 2]):
            size = int(await reader.readline(), 16)
            assert (await reader.readexactly(size + 2))[:-2] == event
        if reset:
            with pytest.raises(ConnectionResetError):
                await reader.read()
        else:
            assert await reader.read() == b""
        assert provider.requests[0].end == ("reset" if reset else "dropped")
        writer.transport.abort()

    with_provider(test, default=cut_stream(2, mid_event=True, reset=reset), loop=loop)


def test_a_cut_body_is_short_of_its_length() -> None:
    """The head promises the whole body, and only a part of it comes."""
    head, sent = head_and_body(answer_of(cut_body(10), CHAT))
    whole = chat_reply(CHAT)
    assert f"content-length: {len(whole)}" in head
    assert sent == whole[:10]


def test_chunks_fall_anywhere() -> None:
    """One byte for each chunk: the body is the same, the chunks are single bytes."""
    received = answer_of(in_chunks(1), CHAT_STREAM)
    found = chunks(received.partition(b"\r\n\r\n")[2])
    assert {len(chunk) for chunk in found} == {1}
    assert b"".join(found) == b"".join(EVENTS)
    assert head_and_body(answer_of(stream((b"data: 1\n\n", b"data: 2\n\n"), chunk=5, pause=0), CHAT))[1] == (
        b"data: 1\n\ndata: 2\n\n"
    )


def test_the_same_events_in_other_clothes() -> None:
    """CRLF, comments and data over several lines change the bytes and not the meaning."""
    crlf = head_and_body(answer_of(crlf_lines(), MESSAGES_STREAM))[1]
    assert crlf.count(b"\r\n") == crlf.count(b"\n")
    assert crlf.replace(b"\r\n", b"\n") == b"".join(messages_stream_events(MESSAGES_STREAM))
    commented = head_and_body(answer_of(with_comments(), CHAT_STREAM))[1]
    assert commented.count(b": keep-alive\n\n") == len(EVENTS)
    assert commented.replace(b": keep-alive\n\n", b"") == b"".join(EVENTS)
    spread = answer_of(multi_line_data(), CHAT_STREAM)
    assert spread.count(b"data: {\ndata: ") == len(EVENTS) - 1
    plain = [event.removeprefix(b"data: ").strip() for event in EVENTS[:-1]]
    assert [json.loads(data) for data in data_of(spread)[:-1]] == [json.loads(data) for data in plain]


@LOOPS
def test_an_event_can_be_huge(loop: Loop | None) -> None:
    """An event of five megabytes arrives whole."""
    data = data_of(answer_of(huge_event(), CHAT_STREAM, loop))
    assert max(map(len, data)) > 5 * 1024 * 1024
    assert "x" * 5 * 1024 * 1024 in [
        json.loads(each)["choices"][0]["delta"].get("content") for each in data if len(each) > 6
    ]


@pytest.mark.parametrize(
    ("body", "mark"),
    [
        (CHAT_STREAM, b'data: {"error":{"message":"busy"'),
        (MESSAGES_STREAM, b'event: error\ndata: {"type":"error"'),
        (RESPONSES_STREAM, b"event: response.failed\n"),
    ],
)
def test_an_error_can_come_inside_a_stream(body: bytes, mark: bytes) -> None:
    """After so many events comes the dialect's error event, and the body ends properly."""
    _, sent = head_and_body(answer_of(error_in_stream(1, "busy"), body))
    assert sent.count(b"\n\n") == 2
    assert mark in sent.split(b"\n\n")[1] + b"\n"


@pytest.mark.parametrize(
    ("body", "events", "kept", "script"),
    [
        (CHAT_STREAM, EVENTS, len(EVENTS) - 2, no_terminal_marker()),
        (CHAT_STREAM, EVENTS, len(EVENTS) - 1, no_terminal_marker(finish_reason=True)),
        (MESSAGES_STREAM, messages_stream_events(MESSAGES_STREAM), -1, no_terminal_marker()),
        (RESPONSES_STREAM, responses_stream_events(RESPONSES_STREAM), -1, no_terminal_marker()),
    ],
)
def test_a_stream_can_lack_its_last_word(body: bytes, events: tuple[bytes, ...], kept: int, script: Script) -> None:
    """The body ends properly, but nothing in it says that the answer is complete."""
    assert head_and_body(answer_of(script, body))[1] == b"".join(events[:kept])


def test_usage_in_each_chunk_is_cumulative() -> None:
    """Every chunk carries usage that never falls, and the truth is the last: 11 in, 7 out."""
    counts = [json.loads(data)["usage"] for data in data_of(answer_of(usage_in_each_chunk(), CHAT_STREAM))[:-1]]
    outputs = [usage["completion_tokens"] for usage in counts]
    assert {usage["prompt_tokens"] for usage in counts} == {11}
    assert outputs == sorted(outputs)
    assert outputs[-1] == 7
    assert len(set(outputs)) > 3


def test_usage_in_several_message_deltas_is_cumulative() -> None:
    """Several message_delta events report the output so far; the truth is the last: 7."""
    told = [json.loads(data) for data in data_of(answer_of(usage_in_each_delta(), MESSAGES_STREAM))]
    assert told[0]["message"]["usage"]["input_tokens"] == 11
    assert [each["usage"]["output_tokens"] for each in told if each["type"] == "message_delta"] == [1, 3, 5, 7]


def test_usage_can_be_told_freely() -> None:
    """`say` reports given counts, cached ones in each dialect's own way."""
    usage = Usage(input_tokens=100, cache_read_tokens=60, cache_write_tokens=30, output_tokens=9, reasoning_tokens=4)
    chat = json.loads(head_and_body(answer_of(say("so it is", usage=usage), CHAT))[1])
    assert chat["choices"][0]["message"]["content"] == "so it is"
    assert chat["usage"]["prompt_tokens"] == 100
    assert chat["usage"]["prompt_tokens_details"]["cached_tokens"] == 60
    assert chat["usage"]["completion_tokens_details"]["reasoning_tokens"] == 4
    begun = json.loads(data_of(answer_of(say("so it is", usage=usage), MESSAGES_STREAM))[0])["message"]["usage"]
    assert (begun["input_tokens"], begun["cache_read_input_tokens"], begun["cache_creation_input_tokens"]) == (
        10,
        60,
        30,
    )


def test_a_reply_can_be_compressed_unasked() -> None:
    """The body is gzip, says so, and unpacks to the good one; a stream can be unpacked event by event."""
    head, packed = head_and_body(answer_of(gzipped(), CHAT))
    assert "content-encoding: gzip" in head
    assert gzip.decompress(packed) == chat_reply(CHAT)
    received = answer_of(gzipped(), CHAT_STREAM)
    unpack = zlib.decompressobj(wbits=31)
    unpacked = [unpack.decompress(chunk) for chunk in chunks(received.partition(b"\r\n\r\n")[2])]
    assert tuple(unpacked[: len(EVENTS)]) == EVENTS


@pytest.mark.parametrize("body", [CHAT, CHAT_STREAM])
def test_fields_behind_the_body(body: bytes) -> None:
    """The chunks are those of the good reply; the fields stand between the last one and the end."""
    received = answer_of(with_trailers(("x-sum", "7"), ("set-cookie", "a=b")), body)
    assert b"trailer: x-sum, set-cookie\r\n" in received
    assert received.endswith(b"\r\n0\r\nx-sum: 7\r\nset-cookie: a=b\r\n\r\n")
    whole = b"".join(EVENTS) if body is CHAT_STREAM else chat_reply(CHAT)
    assert head_and_body(received.replace(b"x-sum: 7\r\nset-cookie: a=b\r\n", b""))[1] == whole


def test_a_broken_script_is_not_hidden() -> None:
    """A script that cannot be played raises when the provider closes."""

    async def test(provider: ScriptedProvider) -> None:
        assert await ask(provider, CHAT) == b""

    with pytest.raises(ValueError, match="stream"):
        with_provider(test, default=cut_stream(1))


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 300_000,
    ],
)
def test_malformed_requests_are_refused(sent: bytes) -> None:
    """What is no HTTP, or beyond a bound, gets 400 and the connection closes."""

    async def test(provider: ScriptedProvider) -> None:
        assert (await exchange(provider, sent)).startswith(b"HTTP/1.1 400 ")
        assert provider.requests == []

    with_provider(test)


def test_many_clients_that_leave_leave_nothing_behind() -> None:
    """A hundred clients that close at every stage of a stream are each recorded, and no connection stays."""

    async def leave(provider: ScriptedProvider, after_bytes: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
        writer.write(raw_request(CHAT_STREAM))
        if after_bytes:
            await reader.readexactly(after_bytes)
        else:
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def test(provider: ScriptedProvider) -> None:
        await asyncio.gather(*(leave(provider, number * 5) for number in range(100)))
        await provider.wait_for(lambda p: p.open_connections == 0)
        assert len(provider.requests) == 100
        assert provider.closed_early == 100

    def script(_request: ReceivedRequest, good_reply: Reply) -> Steps:
        return (*good_reply.steps(), Hang())

    with_provider(test, default=script)
