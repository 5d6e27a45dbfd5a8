"""Calling a scripted provider through a client of our own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest
from tests.helpers.pool import run
from tests.helpers.upstream import CHAT, CHAT_STREAM

from eggpool.config.schema import Account, Provider, Secret
from eggpool.domain import AccountLabel
from eggpool.scripted import Behaviour, Script, ScriptedProvider
from eggpool.upstream.client import Call, Client, Reply
from eggpool.upstream.target import Target
from eggpool.upstream.url import Url

CHAT_PATH = "/v1/chat/completions"
Scenario = Callable[[ScriptedProvider, Client], Awaitable[None]]
LOOPS = pytest.mark.parametrize("debug", [True, False], ids=["asyncio", "program"])


def check(script: Script | Behaviour, scenario: Scenario, *, debug: bool = True) -> None:
    """Run a scenario with a provider that plays a script; afterwards no connection stands."""

    async def main() -> None:
        async with ScriptedProvider(default=script) as provider:
            async with calling() as client:
                await scenario(provider, client)
            await provider.wait_for(lambda provider: provider.open_connections == 0)

    run(main, 10, debug=debug)


def provider(base_url: str, **fields: Any) -> Provider:
    """A provider there, with connections kept."""
    return msgspec.structs.replace(Provider(id="p", base_url=base_url, keepalive_timeout_s=30.0), **fields)


def target(at: Provider, proxy_url: str | None = None) -> Target:
    """The way to an account there."""
    outbound = Secret(proxy_url) if proxy_url else None
    account = Account(name="one", label=AccountLabel("p/one"), api_key=Secret("test-one-key-0000"), outbound=outbound)
    return Target(at, account)


@asynccontextmanager
async def calling(**fields: Any) -> AsyncIterator[Client]:
    """A client that is closed at the end."""
    client = Client(provider("http://127.0.0.1", **fields))
    try:
        yield client
    finally:
        await client.aclose()


def call(
    at: ScriptedProvider | str,
    *,
    stream: bool = False,
    body: bytes | None = None,
    method: str = "POST",
    path: str = CHAT_PATH,
    headers: list[tuple[bytes, bytes]] | None = None,
    connect_s: float = 5.0,
    header_s: float | None = 5.0,
    idle_s: float = 5.0,
) -> Call:
    """A request for the chat endpoint, or any other."""
    origin = at if isinstance(at, str) else at.origin
    return Call(
        method=method,
        url=Url.parse(origin).at(path),
        headers=headers or [],
        body=body if body is not None or method != "POST" else CHAT_STREAM if stream else CHAT,
        connect_timeout_s=connect_s,
        header_timeout_s=header_s,
        idle_timeout_s=idle_s,
    )


@asynccontextmanager
async def rude(answer: bytes, *, hangs_up: bool = False) -> AsyncIterator[str]:
    """A provider that answers as soon as it has seen a head, and reads nothing more; with `hangs_up` it ends its side.

    Gives its origin.
    """
    transports: list[asyncio.Transport] = []

    class Provider(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transports.append(cast("asyncio.Transport", transport))  # uvloop's is one without saying so
            self._head = b""

        def data_received(self, data: bytes) -> None:
            self._head += data
            if b"\r\n\r\n" in self._head:
                transports[-1].pause_reading()
                transports[-1].write(answer)
                if hangs_up:
                    transports[-1].write_eof()

    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that the system takes little of what comes
    server = await asyncio.get_running_loop().create_server(Provider, sock=listener)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.close()
        for transport in transports:
            transport.abort()
        await asyncio.sleep(0)


async def whole(reply: Reply) -> bytes:
    """The body to its end."""
    parts = []
    while part := await reply.read():
        parts.append(part)
    return b"".join(parts)


async def fetched(client: Client, request: Call, proxy_url: str | None = None) -> bytes:
    """The whole body of a good reply."""
    reply = await client.send(request, proxy_url)
    try:
        assert reply.status == 200
        return await whole(reply)
    finally:
        reply.close()
