"""Talking to a scripted provider in tests: a loop that is bounded and strict, and HTTP by hand.

The provider itself is `eggpool.scripted`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from eggpool.scripted import ScriptedProvider

TIMEOUT_S = 10
TURN: Any = [{"role": "user", "content": "count these four"}]
CHAT = json.dumps({"model": "scripted-large", "messages": TURN}).encode()
CHAT_STREAM = json.dumps({"model": "scripted-large", "messages": TURN, "stream": True}).encode()
MESSAGES_STREAM = json.dumps({"model": "claude-scripted", "max_tokens": 99, "messages": TURN, "stream": True}).encode()
RESPONSES_STREAM = json.dumps({"model": "scripted-large", "input": "count these four", "stream": True}).encode()
PATHS = {MESSAGES_STREAM: "/v1/messages", RESPONSES_STREAM: "/v1/responses"}
Loop = Callable[[], asyncio.AbstractEventLoop]


def run(main: Coroutine[Any, Any, None], loop: Loop | None = None) -> None:
    """Run bounded in time, in a loop in debug mode unless the loop is uvloop's."""

    async def bounded() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await main

    # uvloop's debug mode records stacks through frames that CPython 3.12 and later cannot walk: it crashes there.
    with asyncio.Runner(debug=loop is None, loop_factory=loop) as runner:
        runner.run(bounded())


def with_provider(
    test: Callable[[ScriptedProvider], Awaitable[None]], *args: Any, loop: Loop | None = None, **options: Any
) -> None:
    """Run a test with a provider around it; afterwards nothing of it is open."""

    async def main() -> None:
        async with ScriptedProvider(*args, **options) as provider:
            await test(provider)
        assert provider.open_connections == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main(), loop)


def raw_request(body: bytes, path: str | None = None, extra: str = "") -> bytes:
    """A POST as bytes; `extra` are header lines with their line ends. Without a path: that of a body above, or chat."""
    target = path or PATHS.get(body, "/v1/chat/completions")
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def exchange(provider: ScriptedProvider, sent: bytes) -> bytes:
    """Send bytes on a connection of its own and give all that comes back until the provider closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
    try:
        writer.write(sent)
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def ask(provider: ScriptedProvider, body: bytes) -> bytes:
    """The same for a request body, with `Connection: close`."""
    return await exchange(provider, raw_request(body, extra="Connection: close\r\n"))


def head_and_body(received: bytes) -> tuple[str, bytes]:
    """The head as text, the body with its chunks put together; a broken chunked body raises."""
    head, _, rest = received.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head:
        return head.decode(), rest
    return head.decode(), b"".join(chunks(rest))


def chunks(rest: bytes) -> list[bytes]:
    """The chunks of a body up to its end; a broken chunked body raises."""
    found: list[bytes] = []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        data, end, rest = rest[:length], rest[length : length + 2], rest[length + 2 :]
        assert end == b"\r\n"
        if length == 0:
            return found
        found.append(data)
