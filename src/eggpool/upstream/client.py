"""The HTTP client: send a request to a provider, read its reply, time out, close. aiohttp and its exceptions end here.

One connector for each (provider, outbound proxy), used without aiohttp's session: what that adds to a request
(redirects, cookies, retries, the environment) is not wanted here, and costs more than the request itself. Nothing is
decoded but a content encoding that was not asked for. Every time-out is the caller's and says what it was waited for.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import ssl
from functools import lru_cache
from typing import Literal

import aiohttp
import msgspec
from aiohttp import hdrs
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_writer import _serialize_headers
from aiohttp_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError
from multidict import CIMultiDict
from yarl import URL

from eggpool.config.schema import Provider
from eggpool.errors import ConnectFailed, UpstreamBroken, UpstreamError, UpstreamTimeout
from eggpool.upstream.encodings import Inflater, applied
from eggpool.upstream.headers import unmarked
from eggpool.upstream.outbound import CONNECTING, Connecting, connector

Phase = Literal["first_event", "idle"]

_AT_ONCE_BYTES = 1024 * 1024  # of a body, which the transport gets whole; longer ones are written in slices
_JOINED_BYTES = 16 * 1024  # of a body, which is cheaper to copy behind its head than to send as a second piece
_SLICE_BYTES = 256 * 1024
_MAX_HEADER_LINE_BYTES = 64 * 1024
_READ_BUFFER_BYTES = 64 * 1024
_NO_CONTENT_TYPE = CIMultiDict({hdrs.CONTENT_TYPE: None})
_NO_TIMER = aiohttp.helpers.TimerNoop()
_PROXY_ERRORS = (ProxyConnectionError, ProxyError, ProxyTimeoutError)


class Call(msgspec.Struct, frozen=True):
    """One request as it is sent. Time-outs are seconds; None waits for ever."""

    method: str
    url: URL
    headers: list[tuple[str, str]]
    body: bytes | None
    connect_timeout_s: float
    header_timeout_s: float | None
    idle_timeout_s: float


class Client:
    """The connections of one provider, by outbound proxy. Close it with `aclose()`."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._connectors: dict[str | None, aiohttp.TCPConnector] = {}

    async def send(self, call: Call, proxy_url: str | None = None, *, fresh: bool = False) -> Reply:
        """Send a request and wait for the reply's headers; the caller closes the reply.

        `fresh` takes a new connection although kept ones are idle: what to do when a kept one turned out to be closed.
        Raises ConnectFailed, UpstreamTimeout (headers) or UpstreamBroken.
        """
        loop = asyncio.get_running_loop()
        note = Connecting(fresh=fresh)
        token = CONNECTING.set(note)
        try:
            own = self._connectors.get(proxy_url) or self._connector(proxy_url)
            if call.header_timeout_s is None:
                response = await _answer(own, call, loop)
            else:
                async with asyncio.timeout(call.header_timeout_s):
                    response = await _answer(own, call, loop)
        except TimeoutError as error:
            if note.failed or isinstance(error, aiohttp.ClientError):
                raise ConnectFailed(f"No connection to {_place(call.url)} within the time-out.") from error
            raise UpstreamTimeout("The provider did not answer within the header time-out.", phase="headers") from error
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError, *_PROXY_ERRORS) as error:
            raise _translated(error, call.url, note) from error
        finally:
            CONNECTING.reset(token)
        return Reply(response, loop, note, call.idle_timeout_s)

    async def aclose(self) -> None:
        """Close all connections."""
        connectors = list(self._connectors.values())
        self._connectors.clear()
        for own in connectors:
            await own.close()

    def _connector(self, proxy_url: str | None) -> aiohttp.TCPConnector:
        own = self._connectors[proxy_url] = connector(
            proxy_url,
            max_connections=self._provider.max_connections or 0,
            keepalive_timeout_s=self._provider.keepalive_timeout_s or 0.0,
        )
        return own


class _Request(aiohttp.ClientRequest):
    """A request that is sent as it was prepared: only Host and Content-Length are added to its headers.

    Their values may hold bytes that are no UTF-8, which aiohttp itself cannot write.
    """

    def __init__(self, call: Call, loop: asyncio.AbstractEventLoop) -> None:
        # Not by the base class, which goes through all that a request might have: none of these has any of it.
        self.method = call.method
        self.url = self.original_url = call.url
        self.loop = loop
        self.version = aiohttp.http.HttpVersion11
        self.response_class = aiohttp.ClientResponse
        self.chunked = self.compress = self.length = None
        self.proxy = self.proxy_auth = self.proxy_headers = self.server_hostname = None
        self._session = None  # type: ignore[assignment] # which the base class allows too
        self._ssl = True
        self._timer = _NO_TIMER
        self._traces = []
        self._skip_auto_headers = _NO_CONTENT_TYPE
        headers = self.headers = CIMultiDict([(hdrs.HOST, call.url.host_port_subcomponent or ""), *call.headers])
        if len(hosts := headers.getall(hdrs.HOST)) > 1:
            headers[hdrs.HOST] = hosts[-1]
        if (call.body is not None or call.method not in self.GET_METHODS) and hdrs.CONTENT_LENGTH not in headers:
            headers[hdrs.CONTENT_LENGTH] = str(len(call.body or b""))

    async def write_bytes(
        self, writer: AbstractStreamWriter, conn: aiohttp.connector.Connection, content_length: int | None = None
    ) -> None:
        """Write a long body, and with it the headers, which wait in the writer until then."""
        if isinstance(writer, aiohttp.http.StreamWriter) and writer._headers_buf:
            writer._headers_buf = unmarked(writer._headers_buf)
        await super().write_bytes(writer, conn, content_length)


class _Answer:
    """The head of a reply, and its body on its connection: what a `Reply` reads of aiohttp's own class."""

    __slots__ = ("_connection", "content", "headers", "raw_headers", "status")

    def __init__(
        self,
        connection: aiohttp.connector.Connection,
        message: aiohttp.http.RawResponseMessage,
        content: aiohttp.StreamReader,
    ) -> None:
        self._connection = connection
        self.status = message.code
        self.headers = message.headers
        self.raw_headers = message.raw_headers
        self.content = content
        content.on_eof(self._read_to_its_end)

    def close(self) -> None:
        """Close the connection, unless the whole body has come."""
        if self.content.exception() is None:
            self.content.set_exception(aiohttp.ClientConnectionError("Connection closed"))
        self._connection.close()

    def _read_to_its_end(self) -> None:
        protocol = self._connection.protocol
        if protocol is not None and not protocol.upgraded:
            self._connection.release()


async def _answer(
    own: aiohttp.TCPConnector, call: Call, loop: asyncio.AbstractEventLoop
) -> _Answer | aiohttp.ClientResponse:
    """Send a request over a connection of that connector, and wait for the head of the answer."""
    request = _Request(call, loop)
    try:
        connection = await own.connect(request, [], _connect_within(call.connect_timeout_s))
    except TimeoutError as error:
        raise aiohttp.ConnectionTimeoutError from error
    try:
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None or transport.is_closing():
            raise aiohttp.ClientConnectionResetError("the connection was closed")
        protocol.set_response_params(
            skip_payload=call.method == hdrs.METH_HEAD,
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=_READ_BUFFER_BYTES,
            max_line_size=_MAX_HEADER_LINE_BYTES,
            max_field_size=_MAX_HEADER_LINE_BYTES,
        )
        body = call.body or b""
        if len(body) > _AT_ONCE_BYTES:
            return await _answer_to_long(request, body, connection)
        head = unmarked(_serialize_headers(f"{call.method} {call.url.raw_path_qs} HTTP/1.1", request.headers))
        if len(body) <= _JOINED_BYTES:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        while True:
            message, content = await protocol.read()
            if message.code >= 200 or message.code == 101:
                return _Answer(connection, message, content)
    except BaseException:
        connection.close()
        raise


async def _answer_to_long(
    request: _Request, body: bytes, connection: aiohttp.connector.Connection
) -> aiohttp.ClientResponse:
    """The same for a body that is written slice by slice, by a task of aiohttp's own that its response owns."""
    request._body = _Body(body)
    response = await request.send(connection)
    try:
        return await response.start(connection)
    except BaseException:
        response.close()
        raise


@lru_cache(maxsize=64)
def _connect_within(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=seconds)


class Reply:
    """A provider's reply: status and headers are there, the body is read piece by piece.

    `headers` has lower-case names. `opaque` says that the body is in an encoding that could not be undone: it may be
    passed on with its headers, but not be read. `close()` may be called at any time and more than once; a reply that
    was read to its end gives its connection back, any other closes it, so that the provider stops generating.
    """

    __slots__ = (
        "_content",
        "_ended",
        "_inflater",
        "_limit_s",
        "_loop",
        "_phase",
        "_response",
        "_since",
        "_timer",
        "bytes_received",
        "connect_us",
        "headers",
        "opaque",
        "reused_connection",
        "status",
    )

    def __init__(
        self,
        response: _Answer | aiohttp.ClientResponse,
        loop: asyncio.AbstractEventLoop,
        note: Connecting,
        idle_timeout_s: float,
    ) -> None:
        self._response = response
        self._content = response.content
        self._loop = loop
        self._ended = False
        self.status = response.status
        self.headers = [(name.lower(), value) for name, value in response.raw_headers]
        self.connect_us = note.connect_us
        self.reused_connection = note.reused
        self.bytes_received = 0
        self._inflater: Inflater | None = None
        self.opaque = False
        if hdrs.CONTENT_ENCODING in response.headers:
            encoding = ", ".join(response.headers.getall(hdrs.CONTENT_ENCODING))
            self._inflater = Inflater.of(encoding)
            self.opaque = self._inflater is None and bool(applied(encoding))
        if self._inflater is not None:
            self.headers = [pair for pair in self.headers if pair[0] != b"content-encoding"]
        self._phase: Phase = "idle"
        self._limit_s = idle_timeout_s
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None  # until something is waited for: most replies are there at once

    def header(self, name: str) -> str | None:
        """A header's first value; `name` in lower case."""
        return self._response.headers.get(name)

    @property
    def request_id(self) -> str | None:
        """The provider's own name for this request."""
        return self.header("x-request-id") or self.header("request-id")

    def limit_wait(self, seconds: float, phase: Phase) -> None:
        """From now on: at most this long until the first event, counted from here, or for each silence."""
        self._phase = phase
        self._limit_s = seconds
        self._since = self._loop.time() if phase == "first_event" else None
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._look)

    async def read(self) -> bytes:
        """The next bytes as they came, empty at the end. Raises UpstreamBroken or UpstreamTimeout."""
        while True:
            if self._phase == "idle":
                self._since = self._loop.time()
            if self._timer is None and not self._content.is_eof():
                self._timer = self._loop.call_later(self._limit_s, self._look)
            try:
                chunk = await _next_bytes(self._content)
            except UpstreamError:
                raise
            except (aiohttp.ClientError, OSError) as error:
                raise UpstreamBroken("The provider broke off the reply.") from error
            except RuntimeError as error:  # what aiohttp says when the connection was closed on this side
                raise UpstreamBroken("The connection to the provider was closed.") from error
            if self._phase == "idle":
                self._since = None
            self.bytes_received += len(chunk)
            if self._inflater is None:
                if not chunk:
                    self._end()
                return chunk
            plain = self._inflater.feed(chunk)
            if not chunk:
                self._end()
                return plain
            if plain:
                return plain

    def close(self) -> None:
        """Give the connection back, or close it when the reply was not read to its end. Never waits."""
        if not self._ended:
            self._end()
            self._response.close()

    def _end(self) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        """One timer for a whole reply, moved on when it fires too early: cheaper than one for each chunk."""
        if self._ended:
            return
        waited = 0.0 if self._since is None else self._loop.time() - self._since
        left = self._limit_s - waited
        if left > 0.001:
            self._timer = self._loop.call_later(left, self._look)
            return
        what = "first event" if self._phase == "first_event" else "next part of the reply"
        self._content.set_exception(
            UpstreamTimeout(f"The provider did not send the {what} within {self._limit_s:g} s.", phase=self._phase)
        )
        self._response.close()


async def _next_bytes(content: aiohttp.StreamReader) -> bytes:
    """What has come of a body, empty at its end. As `readany`, but that counts each piece by itself, which is half the
    cost of a stream whose events come in pieces of their own: here they are made one before."""
    if (error := content.exception()) is not None:
        raise error
    if content.at_eof():
        return b""
    pieces = content._buffer
    while not pieces and not content.is_eof():
        await content._wait("read")
    if len(pieces) > 1 and not content._buffer_offset:
        whole = b"".join(pieces)
        pieces.clear()
        pieces.append(whole)
    return content.read_nowait()


class _Body(aiohttp.Payload):
    """A request body, written in slices: the loop stays free and nothing warns about its size."""

    _autoclose = True

    def __init__(self, value: bytes) -> None:
        super().__init__(value, content_type="application/octet-stream")
        self._size = len(value)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text (asked for by the base class; bodies are never shown)."""
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write everything."""
        value = self._value
        if len(value) <= _SLICE_BYTES:
            await writer.write(value)
            return
        view = memoryview(value)
        for start in range(0, len(view), _SLICE_BYTES):
            await writer.write(view[start : start + _SLICE_BYTES])

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """The same: the length that is announced is always the whole."""
        await self.write(writer)


def _place(url: URL) -> str:
    return f"{url.host}:{url.port}"


def _translated(error: Exception, url: URL, note: Connecting) -> UpstreamError:
    """The failure in our words: whose fault, whether anything was sent, and no URL of a proxy."""
    if isinstance(error, _PROXY_ERRORS):
        return ConnectFailed(f"The outbound proxy gave no connection to {_place(url)}.")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError | ssl.SSLError):
        return ConnectFailed(f"No secure connection to {_place(url)}: its certificate was not accepted.")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ConnectFailed(f"The name {url.host} could not be found.")
    if isinstance(error, aiohttp.ClientConnectorError):
        return ConnectFailed(f"No connection to {_place(url)}: {_reason(error.os_error)}.")
    if note.failed:
        return ConnectFailed(f"No connection to {_place(url)}.")
    if isinstance(error, ValueError):
        return ConnectFailed(
            f"Nothing was sent to {_place(url)}: the URL, a header or the outbound proxy is not valid."
        )
    if isinstance(error, HttpProcessingError | aiohttp.ClientResponseError):
        return UpstreamBroken("The provider's answer is not valid HTTP.")
    # A beginning of an answer stands in the message; such a request is not repeated as if it had never arrived.
    begun = isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str)
    return UpstreamBroken("The provider closed the connection before it answered.", stale=note.reused and not begun)


def _reason(error: OSError) -> str:
    if error.errno is None or error.errno not in errno.errorcode:
        return "it was refused"
    return os.strerror(error.errno).lower()


def is_local(base_url: str) -> bool:
    """True for a provider on this machine or in this network, which may think for minutes before it answers."""
    host = URL(base_url).host or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".lan", ".internal"))
