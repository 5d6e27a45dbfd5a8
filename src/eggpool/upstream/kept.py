"""The connections of one provider: which are kept for the next request, and how many may be busy at once."""

from __future__ import annotations

import asyncio
import time

import msgspec

from eggpool.errors import ConnectFailed
from eggpool.upstream.connection import Connection
from eggpool.upstream.outbound import connect
from eggpool.upstream.url import Url

_Way = tuple[str | None, str]
"""An outbound proxy's URL, None for none, and the origin behind it."""


class Taken(msgspec.Struct, frozen=True, eq=False):
    """A connection that one request has for itself; `connect_us` is None when an earlier request left it."""

    connection: Connection
    way: _Way
    connect_us: int | None


class Kept:
    """Connections to be taken and given back. `most_busy` 0 sets no bound; idle ones are closed after `kept_s`."""

    def __init__(self, most_busy: int, kept_s: float) -> None:
        self._kept_s = kept_s
        self._places = asyncio.Semaphore(most_busy) if most_busy else None
        self._idle: dict[_Way, list[tuple[Connection, float]]] = {}  # since when, the longest idle first
        self._busy: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def take(self, url: Url, proxy_url: str | None, timeout_s: float, *, fresh: bool) -> Taken:
        """A connection, to be given back; `fresh` wants a new one. Raises ConnectFailed, at last after `timeout_s`."""
        way = (proxy_url, url.origin)
        if self._places is None and not fresh and (idle := self._take_idle(way)) is not None:
            return idle
        try:
            async with asyncio.timeout(timeout_s):
                if self._places is not None:
                    await self._places.acquire()
                try:
                    idle = None if fresh else self._take_idle(way)
                    return idle or await self._connect(url, way)
                except BaseException:
                    self._free_place()
                    raise
        except TimeoutError:
            raise ConnectFailed(f"No connection to {url.host}:{url.port} within the time-out.") from None

    def give_back(self, taken: Taken) -> None:
        """The request is over: the connection is kept if it can be, else closed at once."""
        connection = taken.connection
        self._busy.discard(connection)
        self._free_place()
        if self._closed or not self._kept_s or not connection.reusable:
            connection.abort()
            return
        self._idle.setdefault(taken.way, []).append((connection, connection.loop.time()))
        if self._sweeper is None:
            self._sweeper = connection.loop.call_later(self._kept_s, self._sweep)

    def close(self) -> None:
        """Close all connections, also those that are busy."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in [*self._busy, *(one for idle in self._idle.values() for one, _ in idle)]:
            connection.abort()
        self._idle.clear()

    def _take_idle(self, way: _Way) -> Taken | None:
        idle = self._idle.get(way)
        while idle:
            connection, _ = idle.pop()
            if not connection.closed and not connection.readable:
                self._busy.add(connection)
                return Taken(connection, way, None)
            connection.abort()
        return None

    async def _connect(self, url: Url, way: _Way) -> Taken:
        began = time.monotonic()  # the loop's own clock may count in milliseconds
        connection = await connect(url, way[0])
        if self._closed:
            connection.abort()
            raise ConnectFailed(f"No connection to {url.host}:{url.port}: the pool is stopping.")
        self._busy.add(connection)
        return Taken(connection, way, round((time.monotonic() - began) * 1_000_000))

    def _free_place(self) -> None:
        if self._places is not None:
            self._places.release()

    def _sweep(self) -> None:
        """Close what was idle for too long; one timer for all of them."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        since: list[float] = []
        for way, idle in list(self._idle.items()):
            kept = []
            for connection, idle_since in idle:
                if connection.closed or now - idle_since >= self._kept_s - 0.001:
                    connection.abort()
                else:
                    kept.append((connection, idle_since))
            self._idle[way] = kept
            since += [idle_since for _, idle_since in kept[:1]]
        self._idle = {way: idle for way, idle in self._idle.items() if idle}
        self._sweeper = loop.call_later(min(since) + self._kept_s - now, self._sweep) if since else None
