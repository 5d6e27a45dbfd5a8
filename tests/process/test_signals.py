"""How a process ends: running answers get their time, a second signal takes it away, the books lose nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from pathlib import Path

import aiohttp
import pytest
from tests.process.program import (
    ACCOUNT_KEY,
    CHAT,
    CLIENT_KEY,
    SIGNALS,
    begun,
    books,
    configure,
    models,
    no_longer_listens,
    program,
    run,
    serving,
)

from eggpool.domain import Outcome, UsageSource
from eggpool.scripted import (
    Hang,
    ReceivedRequest,
    Reply,
    Script,
    ScriptedProvider,
    Step,
    Steps,
    WaitFor,
    good,
    hang_after_events,
    reply,
)

STREAM = CHAT | {"stream": True}


def held_until(go_on: asyncio.Event, after_events: int = 2) -> Script:
    """A stream that stops after some events until it is told to go on."""

    def script(_request: ReceivedRequest, good_reply: Reply) -> Steps:
        steps: list[Step] = list(good_reply.steps())
        return (*steps[: 1 + after_events], WaitFor(go_on), *steps[1 + after_events :])

    return script


@pytest.mark.parametrize("number", SIGNALS)
def test_running_stream_ends_well(tmp_path: Path, number: signal.Signals) -> None:
    """After a signal no new connection is taken, the running stream comes to its end, exit code 0, all is booked."""

    async def scenario() -> None:
        go_on = asyncio.Event()
        async with ScriptedProvider({ACCOUNT_KEY: held_until(go_on)}) as provider:
            configure(tmp_path, provider)
            async with serving(tmp_path) as (running, url, http):
                async with http.post(f"{url}/v1/chat/completions", json=STREAM) as answer:
                    assert answer.status == 200
                    begin = await answer.content.readany()
                    running.signal(number)
                    await no_longer_listens(url)
                    go_on.set()
                    whole = begin + await answer.content.read()
                assert whole.endswith(b"data: [DONE]\n\n")
                assert await running.ended() == 0
        (row,) = books(tmp_path)
        assert row.record.outcome is Outcome.COMPLETED
        assert (row.record.usage.input_tokens, row.record.usage.output_tokens) == (3, 5)
        assert row.record.bytes_emitted == len(whole)

    run(scenario)


@pytest.mark.parametrize("number", SIGNALS)
def test_second_signal_stops_at_once(tmp_path: Path, number: signal.Signals) -> None:
    """A second signal ends a stream that would go on; the client sees that it is cut, and it is booked so."""

    async def scenario() -> None:
        async with ScriptedProvider({ACCOUNT_KEY: hang_after_events(2)}) as provider:
            configure(tmp_path, provider, shutdown_grace_s=600)
            async with serving(tmp_path) as (running, url, http):
                async with http.post(f"{url}/v1/chat/completions", json=STREAM) as answer:
                    await answer.content.readany()
                    running.signal(number)
                    await no_longer_listens(url)
                    running.signal(number)
                    with pytest.raises(aiohttp.ClientPayloadError):
                        await answer.content.read()
                assert await running.ended() == 0
                assert "cut off" in running.stderr
        (row,) = books(tmp_path)
        assert row.record.outcome is Outcome.INTERRUPTED

    run(scenario)


def test_grace_time_is_bounded(tmp_path: Path) -> None:
    """A stream that does not end is cut off when the grace time is over, with exit code 0."""

    async def scenario() -> None:
        async with ScriptedProvider({ACCOUNT_KEY: hang_after_events(2)}) as provider:
            configure(tmp_path, provider, shutdown_grace_s=0.3)
            async with serving(tmp_path) as (running, url, http):
                async with http.post(f"{url}/v1/chat/completions", json=STREAM) as answer:
                    await answer.content.readany()
                    running.signal(signal.SIGTERM)
                    with pytest.raises(aiohttp.ClientPayloadError):
                        await answer.content.read()
                assert await running.ended() == 0
        (row,) = books(tmp_path)
        assert row.record.outcome is Outcome.INTERRUPTED
        assert row.record.usage_source is UsageSource.NONE

    run(scenario)


def test_idle_connections_do_not_delay_the_end(tmp_path: Path) -> None:
    """A connection that a client keeps open for its next request is closed at once."""

    async def scenario() -> None:
        async with ScriptedProvider({ACCOUNT_KEY: good}) as provider:
            configure(tmp_path, provider, shutdown_grace_s=600)
            async with serving(tmp_path) as (running, url, http):
                async with http.post(f"{url}/v1/chat/completions", json=CHAT) as answer:
                    await answer.read()
                running.signal(signal.SIGTERM)
                assert await running.ended() == 0
                assert "cut off" not in running.stderr

    run(scenario)


def late_reader() -> socket.socket:
    """A socket for which the kernel buffers little."""
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return reader


def kernel_takes() -> int:
    """How many bytes the kernel takes for a reader that does not read."""
    with socket.socket() as listener, late_reader() as reader:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        reader.connect(listener.getsockname())
        writer, _ = listener.accept()
        with writer:
            writer.setblocking(False)
            return writer.send(bytes(64 * 1024 * 1024))


def test_slow_readers_get_whole_answers(tmp_path: Path) -> None:
    """Clients that read late get their answers to the last byte, though the server was told to stop before.

    The sizes lie around what the kernel takes, so that the ends of some answers are in the server's own buffers.
    """
    taken = kernel_takes()
    sizes = range(taken - 128 * 1024, taken + 256 * 1024, 16 * 1024)

    def sized(request: ReceivedRequest, _good: Reply) -> Steps:
        message = {"content": "x" * request.payload["max_tokens"]}
        return reply(200, json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode())

    async def ask(url: str, size: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        caller = late_reader()
        caller.setblocking(False)
        await asyncio.get_running_loop().sock_connect(caller, ("127.0.0.1", int(url.rpartition(":")[2])))
        reader, writer = await asyncio.open_connection(sock=caller, limit=4096)
        body = json.dumps(CHAT | {"max_tokens": size}).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
            b"content-length: %d\r\n\r\n%b" % (CLIENT_KEY.encode(), len(body), body)
        )
        return reader, writer

    async def scenario() -> None:
        async with ScriptedProvider({ACCOUNT_KEY: sized}) as provider:
            configure(tmp_path, provider)
            async with serving(tmp_path) as (running, url, _):
                callers = [await ask(url, size) for size in sizes]
                lengths = []
                for reader, _writer in callers:
                    head = await reader.readuntil(b"\r\n\r\n")
                    lengths.append(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
                running.signal(signal.SIGTERM)
                await no_longer_listens(url)
                for (reader, writer), length in reversed(list(zip(callers, lengths, strict=True))):
                    assert len(await reader.readexactly(length)) == length
                    assert await reader.read() == b""
                    writer.close()
                    await writer.wait_closed()
                assert await running.ended() == 0
                assert "cut off" not in running.stderr

    run(scenario)


def test_signal_while_starting(tmp_path: Path) -> None:
    """A signal that comes as soon as it listens ends it like any other, though lists are being asked for."""

    async def scenario() -> None:
        async with ScriptedProvider({ACCOUNT_KEY: (Hang(),)}) as provider:
            configure(tmp_path, provider)
            async with program(tmp_path, "serve") as running:
                await running.url()
                running.signal(signal.SIGTERM)
                assert await running.ended() == 0

    run(scenario)


def test_killed_in_the_middle(tmp_path: Path) -> None:
    """After kill -9 amid requests, the next start books them as interrupted and leaves nothing begun."""

    async def scenario() -> None:
        async with ScriptedProvider({ACCOUNT_KEY: hang_after_events(2)}) as provider:
            configure(tmp_path, provider)
            async with serving(tmp_path) as (running, url, http):
                answers = [await http.post(f"{url}/v1/chat/completions", json=STREAM) for _ in range(5)]
                await begun(tmp_path, 5)
                running.process.kill()
                assert await running.process.wait() == -signal.SIGKILL
                for answer in answers:
                    answer.close()
            provider.behave(ACCOUNT_KEY, good)
            async with serving(tmp_path) as (running, url, http):
                async with http.post(f"{url}/v1/chat/completions", json=CHAT) as answer:
                    assert answer.status == 200
                async with http.get(f"{url}/api/stats/summary") as answer:
                    summary = await answer.json()
                assert (summary["total_requests"], summary["error_requests"]) == (6, 5)
                running.signal(signal.SIGTERM)
                assert await running.ended() == 0
                assert "interrupted" in running.stderr
        outcomes = [row.record.outcome for row in books(tmp_path)]
        assert sorted(outcomes) == [Outcome.COMPLETED, *[Outcome.INTERRUPTED] * 5]

    run(scenario)


def test_restart_while_the_provider_is_down(tmp_path: Path) -> None:
    """A restart serves the last good model list at once; the first request is answered when the provider is back."""

    async def scenario() -> None:
        async with ScriptedProvider({ACCOUNT_KEY: good}) as provider:
            configure(tmp_path, provider)
            async with serving(tmp_path) as (running, url, http):
                known = await models(http, url)
                running.signal(signal.SIGTERM)
                assert await running.ended() == 0
            await provider.unplug()
            async with program(tmp_path, "serve") as running, aiohttp.ClientSession() as http:
                http.headers["authorization"] = f"Bearer {CLIENT_KEY}"
                url = await running.url()
                assert await models(http, url) == known
                async with http.post(f"{url}/v1/chat/completions", json=CHAT) as answer:
                    assert answer.status == 502
                await provider.plug_in()
                async with http.post(f"{url}/v1/chat/completions", json=CHAT) as answer:
                    assert answer.status == 200
                running.signal(signal.SIGTERM)
                assert await running.ended() == 0

    run(scenario)
