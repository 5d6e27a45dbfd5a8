"""The HTTP client: send a request to a provider, read its reply, time out, close.

Nothing is followed, stored or sent twice here, and nothing is decoded but a content encoding that was not asked for.
Every time-out is the caller's and says what it was waited for.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Literal

import msgspec

from eggpool.config.schema import Provider
from eggpool.errors import ConnectFailed, UpstreamBroken, UpstreamTimeout
from eggpool.upstream.encodings import Inflater, applied
from eggpool.upstream.kept import Kept, Taken
from eggpool.upstream.url import Url
from eggpool.wire import head as heads

Phase = Literal["first_event", "idle"]

_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})


class Call(msgspec.Struct, frozen=True):
    """One request as it is sent. Time-outs are seconds; None waits for ever."""

    method: str
    url: Url
    headers: list[tuple[bytes, bytes]]
    body: bytes | None
    connect_timeout_s: float
    header_timeout_s: float | None
    idle_timeout_s: float


class Client:
    """The connections of one provider. Close it with `aclose()`."""

    def __init__(self, provider: Provider) -> None:
        self._kept = Kept(provider.max_connections or 0, provider.keepalive_timeout_s or 0.0)

    async def send(self, call: Call, proxy_url: str | None = None, *, fresh: bool = False) -> Reply:
        """Send a request and wait for the reply's headers; the caller closes the reply.

        `fresh` takes a new connection although kept ones are idle: what to do when a kept one turned out to be closed.
        Raises ConnectFailed, UpstreamTimeout (headers) or UpstreamBroken.
        """
        try:
            head = _head(call)
        except ValueError:
            message = f"Nothing was sent to {call.url.host}:{call.url.port}: the URL or a header is not valid."
            raise ConnectFailed(message) from None
        taken = await self._kept.take(call.url, proxy_url, call.connect_timeout_s, fresh=fresh)
        connection = taken.connection
        timer: asyncio.TimerHandle | None = None
        try:
            connection.send(head, call.body or b"")
            if call.header_timeout_s is not None:
                late = UpstreamTimeout("The provider did not answer within the header time-out.", phase="headers")
                timer = connection.loop.call_later(call.header_timeout_s, connection.fail, late)
            while not connection.head_came:
                connection.take()  # raises what has gone wrong
                await connection.more()
        except UpstreamBroken as error:
            self._kept.give_back(taken)
            error.stale = taken.connect_us is None and not connection.begun
            raise
        except BaseException:
            self._kept.give_back(taken)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        return Reply(self._kept, taken, call.idle_timeout_s)

    async def aclose(self) -> None:
        """Close all connections."""
        self._kept.close()
        await asyncio.sleep(0)  # the loop tells them then


def _head(call: Call) -> bytes:
    """The head of a request: what it was given, and of its own only Host and Content-Length, which nobody else may set.

    Raises ValueError.
    """
    start = b"%b %b%b" % (call.method.encode(), call.url.target, heads.written(call.headers))
    if call.body is None and call.method in _WITHOUT_BODY:
        return start + b"\r\n"
    return b"%bContent-Length: %d\r\n\r\n" % (start, len(call.body or b""))


class Reply:
    """A provider's reply: status and headers are there, the body is read piece by piece.

    `headers` has lower-case names. `opaque` says that the body is in an encoding that could not be undone: it may be
    passed on with its headers, but not be read. `close()` may be called at any time and more than once; a reply that
    was read to its end gives its connection back, any other closes it, so that the provider stops generating.
    """

    __slots__ = (
        "_connection",
        "_ended",
        "_inflater",
        "_kept",
        "_limit_s",
        "_loop",
        "_named",
        "_phase",
        "_since",
        "_taken",
        "_timer",
        "bytes_received",
        "connect_us",
        "headers",
        "opaque",
        "reused_connection",
        "status",
    )

    def __init__(self, kept: Kept, taken: Taken, idle_timeout_s: float) -> None:
        self._kept = kept
        self._taken = taken
        connection = self._connection = taken.connection
        self._loop = connection.loop
        self._ended = False
        self.status = connection.status
        self.headers = connection.headers
        self.connect_us = taken.connect_us
        self.reused_connection = taken.connect_us is None
        self.bytes_received = 0
        self._inflater: Inflater | None = None
        self.opaque = False
        self._named = connection.named
        if b"content-encoding" in self._named:
            encodings = [value.decode("latin-1") for name, value in self.headers if name == b"content-encoding"]
            encoding = ", ".join(encodings)
            self._inflater = Inflater.of(encoding)
            self.opaque = self._inflater is None and bool(applied(encoding))
        if self._inflater is not None:
            self.headers = [pair for pair in self.headers if pair[0] != b"content-encoding"]
        self._phase: Phase = "idle"
        self._limit_s = idle_timeout_s
        self._since = 0.0  # since when something is waited for; of an idle time, while that is so
        self._timer: asyncio.TimerHandle | None = None  # until something is waited for: most replies are there at once

    def header(self, name: str) -> str | None:
        """A header's first value; `name` in lower case."""
        value = self._named.get(name.encode())
        return None if value is None else value.decode("utf-8", "replace")

    @property
    def request_id(self) -> bytes | None:
        """The provider's own name for this request."""
        return self._named.get(b"x-request-id") or self._named.get(b"request-id")

    def limit_wait(self, seconds: float, phase: Phase) -> None:
        """From now on: at most this long until the first event, counted from here, or for each silence."""
        self._phase = phase
        self._limit_s = seconds
        self._since = self._loop.time()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._look)

    async def read(self) -> bytes:
        """The next bytes as they came, empty at the end. Raises UpstreamBroken or UpstreamTimeout."""
        if self._ended:
            return b""
        connection = self._connection
        while True:
            while not (chunk := connection.take()) and not connection.whole:
                if self._phase == "idle":
                    self._since = self._loop.time()
                if self._timer is None:
                    self._timer = self._loop.call_later(self._limit_s, self._look)
                await connection.more()
            self.bytes_received += len(chunk)
            if not chunk:
                self._end()
            if self._inflater is None:
                return chunk
            plain = self._inflater.feed(chunk)
            if plain or not chunk:
                return plain

    def close(self) -> None:
        """Give the connection back, or close it when the reply was not read to its end. Never waits."""
        if not self._ended:
            self._end()

    def _end(self) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._kept.give_back(self._taken)

    def _look(self) -> None:
        """One timer for a whole reply, moved on when it fires too early: cheaper than one for each chunk."""
        if self._ended:
            return
        counts = self._phase == "first_event" or self._connection.awaited
        waited = self._loop.time() - self._since if counts else 0.0
        left = self._limit_s - waited
        if left > 0.001:
            self._timer = self._loop.call_later(left, self._look)
            return
        what = "first event" if self._phase == "first_event" else "next part of the reply"
        self._connection.fail(
            UpstreamTimeout(f"The provider did not send the {what} within {self._limit_s:g} s.", phase=self._phase)
        )


def is_local(base_url: str) -> bool:
    """True for a provider on this machine or in this network, which may think for minutes before it answers."""
    host = Url.parse(base_url).host
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".lan", ".internal"))
