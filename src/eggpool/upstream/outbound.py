"""Connectors: how a connection to a provider is made, directly or through an account's outbound proxy.

HTTP and SOCKS proxies are spoken by aiohttp-socks. A connector times the connections that it makes, because only it
knows whether a request got a fresh one.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any, cast

import aiohttp
from aiohttp_socks import ProxyConnector

PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


class Connecting:
    """What is learnt about the connection of one request."""

    __slots__ = ("connect_us", "reused")

    def __init__(self) -> None:
        self.reused = True
        self.connect_us: int | None = None


CONNECTING: ContextVar[Connecting | None] = ContextVar("connecting", default=None)


class _Timed(aiohttp.TCPConnector):
    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Any:
        note = CONNECTING.get()
        if note is None:
            return await super()._create_connection(req, traces, timeout)
        note.reused = False
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await super()._create_connection(req, traces, timeout)
        finally:
            note.connect_us = round((loop.time() - began) * 1_000_000)


class _TimedThroughProxy(_Timed, ProxyConnector):
    pass


def connector(proxy_url: str | None, *, max_connections: int, keepalive_timeout_s: float) -> aiohttp.TCPConnector:
    """A connector of its own for one session. `max_connections` 0 sets no bound."""
    shared: dict[str, Any] = {"limit": max_connections, "keepalive_timeout": keepalive_timeout_s, "ttl_dns_cache": 30}
    if proxy_url is None:
        return _Timed(**shared)
    scheme, separator, rest = proxy_url.partition("://")
    remote_names = scheme in ("socks5h", "socks4a", "http", "https")
    scheme = {"socks5h": "socks5", "socks4a": "socks4", "https": "http"}.get(scheme, scheme)
    return cast(_TimedThroughProxy, _TimedThroughProxy.from_url(scheme + separator + rest, rdns=remote_names, **shared))
