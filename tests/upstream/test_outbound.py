"""Outbound proxies: a small one of each kind on loopback, and what its failures look like."""

from __future__ import annotations

import asyncio
import base64
import traceback
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from tests.helpers.pool import run
from tests.upstream.calling import call, calling, fetched

from eggpool.errors import ConnectFailed, UpstreamBroken
from eggpool.scripted import ScriptedProvider
from eggpool.upstream.client import Client

USER, PASSWORD, WRONG = "user", "p@ss:word", "wrong-pass-word"
Handshake = Callable[[Reader, Writer], Awaitable[tuple[str, int] | None]]


async def http_handshake(reader: Reader, writer: Writer) -> tuple[str, int] | None:
    """CONNECT with Basic credentials (RFC 9110 section 9.3.6)."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    wanted = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    if f"Basic {wanted}" not in head:
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
        return None
    host, _, port = head.split()[1].rpartition(":")
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    return host, int(port)


async def socks5_handshake(reader: Reader, writer: Writer) -> tuple[str, int] | None:
    """SOCKS 5 with a user name and a password (RFC 1928, RFC 1929)."""
    _, methods = await reader.readexactly(2)
    await reader.readexactly(methods)
    writer.write(b"\x05\x02")
    _, length = await reader.readexactly(2)
    user = await reader.readexactly(length)
    (length,) = await reader.readexactly(1)
    password = await reader.readexactly(length)
    if (user.decode(), password.decode()) != (USER, PASSWORD):
        writer.write(b"\x01\x01")
        return None
    writer.write(b"\x01\x00")
    _, _, _, kind = await reader.readexactly(4)
    if kind == 3:
        (length,) = await reader.readexactly(1)
        host = (await reader.readexactly(length)).decode()
    else:
        host = ".".join(map(str, await reader.readexactly(4)))
    port = int.from_bytes(await reader.readexactly(2))
    writer.write(b"\x05\x00\x00\x01" + bytes(6))
    return host, port


async def socks4_handshake(reader: Reader, writer: Writer) -> tuple[str, int] | None:
    """SOCKS 4, which knows no passwords."""
    request = await reader.readexactly(8)
    await reader.readuntil(b"\0")
    writer.write(b"\x00\x5a" + bytes(6))
    return ".".join(map(str, request[4:])), int.from_bytes(request[2:4])


async def silence(reader: Reader, writer: Writer) -> None:
    """A proxy that takes a connection and says nothing."""
    await reader.read()


async def pump(reader: Reader, writer: Writer) -> None:
    """Pass bytes on until their end."""
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


class Proxy:
    """A proxy on loopback; `asked` holds the places that it was asked for."""

    def __init__(self, handshake: Handshake) -> None:
        self._handshake = handshake
        self.asked: list[str] = []
        self.port = 0

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """One connection."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            place = await self._handshake(reader, writer)
            if place is not None:
                self.asked.append(f"{place[0]}:{place[1]}")
                there = await asyncio.open_connection("127.0.0.1", place[1])
                await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))
        writer.close()


@asynccontextmanager
async def proxy(handshake: Handshake) -> AsyncIterator[Proxy]:
    """A proxy that is closed at the end, with its connections."""
    tasks: set[asyncio.Task[None]] = set()
    made = Proxy(handshake)

    async def serve(reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await made.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        await server.wait_closed()


SCHEMES = {"http": http_handshake, "socks5": socks5_handshake, "socks5h": socks5_handshake, "socks4": socks4_handshake}
CREDENTIALS = "user:p%40ss%3Aword@"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_through_a_proxy(scheme: str) -> None:
    """A request through each kind of proxy arrives, on a connection that is timed and then reused."""

    async def scenario() -> None:
        async with (
            ScriptedProvider() as provider,
            proxy(SCHEMES[scheme]) as between,
            calling() as client,
        ):
            url = f"{scheme}://{CREDENTIALS if scheme != 'socks4' else ''}127.0.0.1:{between.port}"
            first = await client.send(call(provider), url)
            assert (await first.read()).startswith(b"{")
            assert await first.read() == b""
            first.close()
            assert first.connect_us is not None
            assert not first.reused_connection
            await fetched(client, call(provider), url)
            assert between.asked == [f"127.0.0.1:{provider.port}"]
            await fetched(client, call(provider))
            assert provider.accepted_connections == 2
            await client.aclose()

    run(scenario, 10)


@pytest.mark.parametrize(
    ("scheme", "asked"), [("http", "localhost"), ("socks5h", "localhost"), ("socks5", "127.0.0.1")]
)
def test_who_looks_up_names(scheme: str, asked: str) -> None:
    """An HTTP or socks5h proxy is given the name, a socks5 proxy the address."""

    async def scenario() -> None:
        async with ScriptedProvider() as provider, proxy(SCHEMES[scheme]) as between, calling() as client:
            url = f"{scheme}://{CREDENTIALS}127.0.0.1:{between.port}"
            await fetched(client, call(f"http://localhost:{provider.port}"), url)
            assert between.asked == [f"{asked}:{provider.port}"]
            await client.aclose()

    run(scenario, 10)


async def refused(client: Client, provider: ScriptedProvider, url: str, connect_s: float = 5.0) -> ConnectFailed:
    """How a request through a proxy fails; nothing reaches the provider, and no secret the error."""
    with pytest.raises(ConnectFailed) as caught:
        await client.send(call(provider, connect_s=connect_s), url)
    assert provider.requests == []
    assert WRONG not in str(caught.value)
    assert WRONG not in "".join(traceback.format_exception(caught.value))
    return caught.value


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_wrong_password(scheme: str) -> None:
    """A proxy that does not accept the password gave no connection; no error text holds the secret."""

    async def scenario() -> None:
        async with ScriptedProvider() as provider, proxy(SCHEMES[scheme]) as between, calling() as client:
            error = await refused(client, provider, f"{scheme}://user:{WRONG}@127.0.0.1:{between.port}")
            assert str(error) == f"The outbound proxy gave no connection to 127.0.0.1:{provider.port}."

    run(scenario, 10)


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks4", "https"])
def test_no_proxy_there(scheme: str) -> None:
    """A proxy that cannot be reached is ConnectFailed, without its address's credentials."""

    async def scenario() -> None:
        async with ScriptedProvider() as provider, calling() as client:
            await refused(client, provider, f"{scheme}://user:{WRONG}@127.0.0.1:1")

    run(scenario, 10)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_silent_proxy(scheme: str) -> None:
    """A proxy that never answers ends with the connect time-out, as a connection that was not made."""

    async def scenario() -> None:
        async with ScriptedProvider() as provider, proxy(silence) as between, calling() as client:
            error = await refused(client, provider, f"{scheme}://user:{WRONG}@127.0.0.1:{between.port}", 0.1)
            assert "within the time-out" in str(error)

    run(scenario, 10)


async def hang_up(reader: Reader, writer: Writer) -> tuple[str, int] | None:
    """A proxy that says yes and closes the connection with the same breath."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    writer.write_eof()
    await reader.read()
    return None


def test_a_proxy_that_hangs_up() -> None:
    """A proxy that closes behind its handshake is a failure of this attempt, whenever its end is seen: no time-out."""

    async def scenario() -> None:
        async with ScriptedProvider() as provider, proxy(hang_up) as between, calling() as client:
            with pytest.raises((ConnectFailed, UpstreamBroken)):
                await client.send(call(provider, header_s=None), f"http://127.0.0.1:{between.port}")
            await client.aclose()

    run(scenario, 10)


@pytest.mark.parametrize("url", ["ss://user:wrong-pass-word@h:1", "http://user:wrong-pass-word@", "nonsense"])
def test_a_proxy_url_that_is_none(url: str) -> None:
    """A URL that nobody can use is ConnectFailed too."""

    async def scenario() -> None:
        async with ScriptedProvider() as provider, calling() as client:
            await refused(client, provider, url)

    run(scenario, 10)
