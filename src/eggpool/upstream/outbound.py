"""Connectors: how a connection to a provider is made, directly or through an account's outbound proxy.

HTTP and SOCKS proxies are spoken by aiohttp-socks. A connector times the connections that it makes, because only it
knows whether a request got a fresh one, and gives no kept one away on which something came that nobody asked for.
"""

from __future__ import annotations

import ssl
import time
from contextvars import ContextVar
from typing import Any, cast

import aiohttp
from aiohttp_socks import ProxyConnector


class Connecting:
    """What is learnt about the connection of one request. `connect_us` is None until a new one stands.

    `fresh` asks for a new one even though kept ones are idle.
    """

    __slots__ = ("connect_us", "fresh", "reused")

    def __init__(self, *, fresh: bool = False) -> None:
        self.fresh = fresh
        self.reused = True
        self.connect_us: int | None = None

    @property
    def failed(self) -> bool:
        """Whether a new connection was begun and does not stand."""
        return not self.reused and self.connect_us is None


CONNECTING: ContextVar[Connecting | None] = ContextVar("connecting", default=None)


class _Timed(aiohttp.TCPConnector):
    async def _get(self, key: Any, traces: list[Any]) -> Any:
        note = CONNECTING.get()
        if note is not None and note.fresh:
            return None
        while True:
            connection = await super()._get(key, traces)
            # What a provider sent while the connection was idle would be taken for the answer to this request.
            if connection is None or connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Any:
        note = CONNECTING.get()
        if note is None:
            return await super()._create_connection(req, traces, timeout)
        note.reused = False
        began = time.monotonic()  # the loop's own clock may count in milliseconds
        connection = await super()._create_connection(req, traces, timeout)
        note.connect_us = round((time.monotonic() - began) * 1_000_000)
        return connection


class _TimedThroughProxy(_Timed, ProxyConnector):
    pass


def connector(proxy_url: str | None, *, max_connections: int, keepalive_timeout_s: float) -> aiohttp.TCPConnector:
    """A connector of its own for one session. `max_connections` 0 sets no bound. Raises ValueError for a wrong URL."""
    shared: dict[str, Any] = {"limit": max_connections, "keepalive_timeout": keepalive_timeout_s, "ttl_dns_cache": 30}
    if proxy_url is None:
        return _Timed(**shared)
    scheme, separator, rest = proxy_url.partition("://")
    shared["rdns"] = scheme in ("socks5h", "http", "https")  # who looks the provider's name up
    if scheme == "https":
        shared["proxy_ssl"] = ssl.create_default_context()
    scheme = {"socks5h": "socks5", "https": "http"}.get(scheme, scheme)
    return cast(_TimedThroughProxy, _TimedThroughProxy.from_url(scheme + separator + rest, **shared))
