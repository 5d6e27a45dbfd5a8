"""One connection to a provider: a request at a time goes out as bytes, and its reply comes in as bytes.

httptools understands HTTP/1.1 here, this module moves it. What may live here: what happens between a request's first
byte and its reply's last one. What may not: which connection a request takes, time-outs, and what a reply says.
"""

from __future__ import annotations

import asyncio
import select
from typing import Any

import httptools

from eggpool.errors import UpstreamBroken, UpstreamError

MAX_QUIET_BYTES = 256 * 1024  # in a row that are nothing to read: heads, trailers, what stands between chunks
MAX_HELD_BYTES = 128 * 1024  # of a body that nobody reads; then nothing more is taken from the network

_JOINED_BYTES = 16 * 1024  # of a body, which is cheaper to copy behind its head than to send as a second piece
_AT_ONCE_BYTES = 1024 * 1024  # of a body, which the transport gets whole; longer ones are written in slices
_SLICE_BYTES = 256 * 1024
_SWITCHING_PROTOCOLS = 101
_FIRST_FINAL = 200
_REFUSED = 400
_TIMED_OUT = 408


class Connection(asyncio.Protocol):
    """A request at a time: `send`, wait for `head_came`, read the body, then `reusable` says whether it may be kept."""

    __slots__ = (
        "_closed",
        "_ends_with_it",
        "_failure",
        "_held_bytes",
        "_is_long",
        "_keeps",
        "_kept",
        "_owner",
        "_parser",
        "_paused_reading",
        "_paused_writing",
        "_pieces",
        "_poll",
        "_quiet_bytes",
        "_request",
        "_secure",
        "_unsent",
        "_waiter",
        "begun",
        "head_came",
        "headers",
        "loop",
        "named",
        "status",
        "transport",
        "whole",
    )

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: object = None) -> None:
        self.loop = loop
        self._owner = owner  # what must live as long as the transport
        self._parser = _parser(self)
        self._closed = False
        self._paused_writing = False
        self._is_long = False
        self._kept = False
        self._begin()

    def _begin(self) -> None:
        self._pieces: list[bytes] = []  # of the body, which nobody has read yet
        self._held_bytes = 0
        self._quiet_bytes = 0  # see `MAX_QUIET_BYTES`
        self._paused_reading = False
        self._keeps = False  # the provider keeps the connection
        self._ends_with_it = False  # only the connection's end tells where the body ends (RFC 9112, 6.3)
        self._failure: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._request: tuple[bytes, bytes] | None = None  # head and body, until they are written
        self._unsent = memoryview(b"")
        self.begun = False  # a byte of an answer has come
        self.head_came = False
        self.whole = False
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.named: dict[bytes, bytes] = {}

    # --- the request ---------------------------------------------------------------------------------------------

    def send(self, head: bytes, body: bytes) -> None:
        """Write a request in the next turn of the loop, together with all others of this one.

        The loop stays free, however long the body is.
        """
        self._kept = self.whole  # from a request before
        self._begin()
        self._is_long = len(body) > _JOINED_BYTES
        if self.closed:  # and whoever waits would wait for ever
            self._failure = UpstreamBroken("The provider closed the connection before it answered.")
        else:
            self._request = (head, body)
            self.loop.call_soon(self._start)

    def _start(self) -> None:
        request, self._request = self._request, None
        if request is None or self.closed:
            return
        head, body = request
        size = len(body)
        if self.whole:  # a provider that answers without being asked; what it would make of more, nobody knows
            self._keeps = False
        elif size <= _JOINED_BYTES:
            self.transport.write(head + body)
        elif size <= _AT_ONCE_BYTES:
            self.transport.writelines((head, body))
        else:
            self.transport.write(head)
            self._unsent = memoryview(body)
            self._write_more()

    def _write_more(self) -> None:
        while self._unsent and not self._paused_writing and not self._closed:
            part, self._unsent = self._unsent[:_SLICE_BYTES], self._unsent[_SLICE_BYTES:]
            self.transport.write(part)

    # --- the reply -----------------------------------------------------------------------------------------------

    def take(self) -> bytes:
        """What has come of the body since the last call. Raises UpstreamError when it broke off and all was taken.

        Empty when `whole` is set, or when there is something to wait for.
        """
        pieces = self._pieces
        if pieces:
            taken = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._pieces = []
            self._held_bytes = 0
            if self._paused_reading:
                self._resume_reading()
            return taken
        if self._failure is not None:
            raise self._failure
        return b""

    def more(self) -> asyncio.Future[None]:
        """Done as soon as there is news: a head, a part of the body, the end, or a failure."""
        waiter = self._waiter = self.loop.create_future()
        if self._failure is not None:
            waiter.set_result(None)
        return waiter

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for news."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def reusable(self) -> bool:
        """Whether another request can follow: the reply is whole, all was sent, and both sides keep the connection."""
        return (
            self.whole
            and not self._closed
            and not self._unsent
            and self._failure is None
            and self._keeps
            and not self.transport.is_closing()
            and not self.transport.get_write_buffer_size()
        )

    @property
    def closed(self) -> bool:
        """Whether the connection is gone or going."""
        return self._closed or self.transport.is_closing()

    @property
    def readable(self) -> bool:
        """Whether something has come that the loop has not told yet: on an idle connection, what nobody asked for."""
        return bool(self._poll.poll(0))

    def fail(self, failure: UpstreamError) -> None:
        """End the reply with that failure, unless it is whole, and the connection in any case."""
        if self._failure is None and not self.whole:
            self._failure = failure
        self.abort()
        self._wake()

    def abort(self) -> None:
        """Close at once; the provider sees it and stops generating."""
        self._ends_with_it = False
        self._unsent = memoryview(b"")
        self.transport.abort()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    # --- asyncio's callbacks ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands; for one that is made secure this is told twice."""
        self.transport = transport  # type: ignore[assignment] # uvloop's is an asyncio.Transport without saying so
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self._secure = transport.get_extra_info("sslcontext") is not None

    def data_received(self, data: bytes) -> None:
        """Something came."""
        if self._request is not None and self._kept:
            self.fail(UpstreamBroken("The provider sent something that nobody had asked for."))
            return
        had_head, before = self.head_came, len(self._pieces)
        self.begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.whole, self._keeps = True, False  # nobody asked for it: what follows is not HTTP
        except httptools.HttpParserError:
            self.fail(UpstreamBroken("The provider's answer is not valid HTTP."))
            return
        if self.whole or (self.head_came and not had_head) or before < len(self._pieces):
            self._quiet_bytes = 0
            if self._held_bytes > MAX_HELD_BYTES and not self._paused_reading and not self.whole:
                self._pause_reading()
            self._wake()
            return
        self._quiet_bytes += len(data)
        if self._quiet_bytes > MAX_QUIET_BYTES:
            self.fail(UpstreamBroken("The provider's answer is not valid HTTP: a part of its framing is too long."))

    def eof_received(self) -> None:
        """The provider sends no more, so the connection is over, also where a request is not all written."""
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._closed = True
        self._unsent = memoryview(b"")
        if self._ends_with_it and exc is None and self._failure is None:
            self.whole = True
        elif not self.whole and self._failure is None:
            words = "broke off the reply" if self.head_came else "closed the connection before it answered"
            self._failure = UpstreamBroken(f"The provider {words}.")
        self._wake()

    def _pause_reading(self) -> None:
        """Take no more from the network. uvloop's TLS would drop what it holds, if it saw the end of the connection
        while its application is paused; so it is made to hold nothing, and to pause the socket instead."""
        self._paused_reading = True
        if self._secure:
            self.transport.set_read_buffer_limits(high=0)  # type: ignore[attr-defined] # transports of TLS have it
        else:
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        self._paused_reading = False
        if self.closed:
            return
        if self._secure:
            self.transport.set_read_buffer_limits()  # type: ignore[attr-defined]
        else:
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        """The provider does not read."""
        self._paused_writing = True

    def resume_writing(self) -> None:
        """The provider reads again."""
        self._paused_writing = False
        self._write_more()

    # --- httptools' callbacks --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A head begins: the first one, or the one behind an interim answer."""
        if self.head_came:
            self.abort()  # more than was asked for; on an idle connection it would be taken for the next answer
        else:
            self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head."""
        if not self.head_came:  # behind a body there are trailers, which nobody here wants
            self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """The head is there, unless it is an interim one (RFC 9110, 15.2)."""
        status = self._parser.get_status_code()
        if self.head_came or (status < _FIRST_FINAL and status != _SWITCHING_PROTOCOLS):
            return
        self.status = status
        self.head_came = True
        # A time-out may be meant for nobody, and who refuses a long request may never read the rest of it.
        doubtful = status == _TIMED_OUT or (status >= _REFUSED and self._is_long)
        self._keeps = self._parser.should_keep_alive() and not doubtful
        named = self.named = dict(reversed(self.headers))  # the first of those with one name
        if b"transfer-encoding" in named:
            encodings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
            self._ends_with_it = not encodings[-1].endswith(b"chunked")
        else:
            self._ends_with_it = b"content-length" not in named

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if not self.whole:
            self._pieces.append(body)
            self._held_bytes += len(body)

    def on_message_complete(self) -> None:
        """The reply is whole, unless that was an interim one."""
        if self.head_came:
            self.whole = True


def _parser(protocol: Any) -> httptools.HttpResponseParser:
    """A parser that forgives what providers and the proxies before them get wrong without harm in a reply."""
    parser = httptools.HttpResponseParser(protocol)
    parser.set_dangerous_leniencies(
        lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
    )
    return parser
