"""What a stream costs the process when its reader has stopped, and what very many streams at once do to it."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import sqlite3
from pathlib import Path

import aiohttp
import pytest
from tests.process.program import ACCOUNT_KEY, BEARER, CHAT, CLIENT_KEY, configure, run, serving

from eggpool.scripted import Play, ReceivedRequest, Reply, ScriptedProvider, SendChunk, Steps, WaitFor, good
from eggpool.scripted.behaviours import Script, play

MEGABYTE = 1024 * 1024
WHOLE = 200 * MEGABYTE
MOST = 5 * MEGABYTE
STREAM = CHAT | {"stream": True}


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


def large(events: int) -> Script:
    """A stream of 200 MB in so many events; each is sent in pieces of at most 64 kB."""
    size = WHOLE // events

    def script(request: ReceivedRequest, reply: Reply) -> Steps:
        if request.payload["messages"] != CHAT["messages"] or not request.payload.get("stream"):
            return play(good, request, reply)
        assert reply.events is not None
        before, after = reply.events[1].split(b"You", 1)
        piece = SendChunk(b"x" * min(size, 65536))
        filling = [SendChunk(before), *[piece] * (size // len(piece.data)), SendChunk(after)]
        if len(filling) == 3:
            filling = [SendChunk(before + piece.data + after)]
        return (reply.stream_head(), SendChunk(reply.events[0]), *filling * events, SendChunk(b""))

    return script


async def ask(http: aiohttp.ClientSession, url: str, count: int) -> None:
    """So many ordinary requests, one after the other: they show that others go on, and give the stream its time."""
    body = CHAT | {"messages": [{"role": "user", "content": "something else"}]}
    for _ in range(count):
        async with http.post(f"{url}/v1/chat/completions", json=body) as answer:
            assert "You said" in await answer.text()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell what a process holds")
@pytest.mark.parametrize("events", [50_000, 1])
def test_a_reader_that_has_stopped(tmp_path: Path, events: int) -> None:
    """200 MB for a reader that has stopped cost less than 5 MB, the provider is held back, and others are served."""

    async def scenario() -> None:
        async with ScriptedProvider({ACCOUNT_KEY: large(events)}) as provider:
            configure(tmp_path, provider, access_log=False)
            async with serving(tmp_path) as (running, url, http):
                await ask(http, url, 300)
                before = resident(running.process.pid)
                body = json.dumps(STREAM).encode()
                with socket.socket() as caller:
                    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    caller.setblocking(False)
                    loop = asyncio.get_running_loop()
                    await loop.sock_connect(caller, ("127.0.0.1", int(url.rpartition(":")[2])))
                    await loop.sock_sendall(
                        caller,
                        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
                        b"content-length: %d\r\n\r\n%b" % (CLIENT_KEY.encode(), len(body), body),
                    )
                    assert (await loop.sock_recv(caller, 100)).startswith(b"HTTP/1.1 200")
                    (sent,) = [work for work in provider.work if b'"stream": true' in work.body]
                    taken = -1
                    while taken != sent.bytes_written:  # the kernel takes some on both sides, at its own pace
                        taken = sent.bytes_written
                        await ask(http, url, 200)
                        assert resident(running.process.pid) - before < MOST
                        assert taken < WHOLE / 4
                    assert taken > 65536
                await provider.wait_for(lambda _: sent.end == "client_left")
                running.signal(signal.SIGTERM)
                assert await running.ended() == 0

    run(scenario)


def files_allowed() -> int:
    """How many files this process may open, once it has asked for all that it can have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65536 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def test_two_thousand_streams(tmp_path: Path) -> None:
    """Two thousand streams are open at once: each has its first word before any has its last, and all come whole."""
    count = min(2000, (files_allowed() - 200) // 2)  # both ends of the pool's connections are in this process
    go_on = asyncio.Event()

    def held(_request: ReceivedRequest, reply: Reply) -> Steps:
        head, *events = reply.steps()
        return (head, *events[:2], WaitFor(go_on), *events[2:])

    async def scenario() -> None:
        first_words = 0

        async def stream(http: aiohttp.ClientSession, url: str) -> bytes:
            nonlocal first_words
            async with http.post(f"{url}/v1/chat/completions", json=STREAM) as answer:
                assert answer.status == 200
                body = await answer.content.readuntil(b"You")
                first_words += 1
                if first_words == count:
                    go_on.set()
                return body + await answer.read()

        async with ScriptedProvider({ACCOUNT_KEY: script_for(held)}) as provider:
            configure(tmp_path, provider, access_log=False)
            async with (
                serving(tmp_path) as (running, url, _),
                aiohttp.ClientSession(headers=BEARER, connector=aiohttp.TCPConnector(limit=0)) as http,
            ):
                bodies = await asyncio.gather(*(stream(http, url) for _ in range(count)))
                assert len(bodies) == count
                assert all(body.endswith(b"data: [DONE]\n\n") for body in bodies)
                running.signal(signal.SIGTERM)
                assert await running.ended() == 0
        conn = sqlite3.connect(tmp_path / "usage.sqlite3")
        assert conn.execute("SELECT outcome, COUNT(*) FROM requests GROUP BY outcome").fetchall() == [
            ("completed", count)
        ]
        conn.close()

    run(scenario, limit_s=60)


def script_for(work: Play) -> Play:
    """Do this for streams, and answer everything else at once."""

    def script(request: ReceivedRequest, reply: Reply) -> Steps:
        return reply.steps() if reply.events is None else work(request, reply)

    return script
