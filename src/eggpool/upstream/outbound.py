"""The way out: how a connection to a provider is made, directly or through an account's outbound proxy.

HTTP and SOCKS proxies are spoken by python-socks, the first of a host's addresses that answers is found by
aiohappyeyeballs; their exceptions end here.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from functools import cache

import aiohappyeyeballs
from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, parse_proxy_url
from python_socks.async_.asyncio.v2 import Proxy

from eggpool.errors import ConnectFailed
from eggpool.upstream.connection import Connection
from eggpool.upstream.url import Url

NEXT_ADDRESS_S = 0.25  # RFC 8305, 5: until the next of a host's addresses is tried as well

_SCHEMES = {"socks5h": "socks5", "https": "http"}
_LOOKS_UP = frozenset({"socks5h", "http", "https"})  # proxies that look the provider's name up themselves


async def connect(url: Url, proxy_url: str | None) -> Connection:
    """A new connection to that place. Raises ConnectFailed, whose words hold nothing of the proxy's URL."""
    loop = asyncio.get_running_loop()
    try:
        if proxy_url is None:
            return await _directly(url, loop)
        return await _through(proxy_url, url, loop)
    except ssl.SSLError as error:
        raise ConnectFailed(f"No secure connection to {_place(url)}: its certificate was not accepted.") from error
    except (socket.gaierror, UnicodeError) as error:
        raise ConnectFailed(f"The name {url.host} could not be found.") from error
    except OSError as error:
        raise ConnectFailed(f"No connection to {_place(url)}: {_reason(error)}.") from error


async def _directly(url: Url, loop: asyncio.AbstractEventLoop) -> Connection:
    addresses = await loop.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    handle = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_S, loop=loop)
    try:
        transport, connection = await loop.create_connection(lambda: Connection(loop), sock=handle)
    except BaseException:
        handle.close()
        raise
    return await _secured(transport, connection, url, loop)


async def _through(proxy_url: str, url: Url, loop: asyncio.AbstractEventLoop) -> Connection:
    scheme, separator, rest = proxy_url.partition("://")
    secure = scheme == "https"
    try:
        kind, host, port, user, password = parse_proxy_url(_SCHEMES.get(scheme, scheme) + separator + rest)
    except ValueError:
        raise ConnectFailed(f"Nothing was sent to {_place(url)}: the outbound proxy's URL is not valid.") from None
    proxy = Proxy(kind, host, port, user, password, scheme in _LOOKS_UP, proxy_ssl=verifying() if secure else None)
    try:
        stream = await proxy.connect(url.host, url.port)
    except (ProxyConnectionError, ProxyError, ProxyTimeoutError, UnicodeError):
        raise ConnectFailed(f"The outbound proxy gave no connection to {_place(url)}.") from None
    connection = Connection(loop, owner=stream.writer)
    transport = stream.writer.transport
    if stream.reader.at_eof():  # nobody would be told again
        transport.abort()
        raise ConnectFailed(f"The outbound proxy gave no connection to {_place(url)}.")
    transport.set_protocol(connection)
    connection.connection_made(transport)
    return await _secured(transport, connection, url, loop)


async def _secured(
    transport: asyncio.WriteTransport, connection: Connection, url: Url, loop: asyncio.AbstractEventLoop
) -> Connection:
    """The same connection, over TLS where the URL wants that."""
    if url.scheme != "https":
        return connection
    try:
        secure = await loop.start_tls(transport, connection, verifying(), server_hostname=url.host)
        if secure is None:
            raise ConnectionResetError(errno.ECONNRESET, "closed during the handshake")
    except BaseException:
        transport.abort()
        raise
    connection.connection_made(secure)
    return connection


@cache
def verifying() -> ssl.SSLContext:
    """How certificates are checked: against what the system trusts."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _place(url: Url) -> str:
    return f"{url.host}:{url.port}"


def _reason(error: OSError) -> str:
    if error.errno is None or error.errno not in errno.errorcode:
        return "it was refused"
    return os.strerror(error.errno).lower()
