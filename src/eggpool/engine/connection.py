"""One client connection: uvicorn's protocol, fed one request at a time, with the bounds that it lacks.

What arrives is cut here at the borders of requests, and the parser sees no byte of a request before the answer to the
one before it has ended. So nothing that a client sends can get into a running answer, and the newest request that the
parser knows is always the running one. Trailers are never given to the parser. A caller that goes away is told to
whoever watches, at once and without a task. Headers are bounded in size and time, uploads and readers in time.
"""

from __future__ import annotations

import asyncio
import re
import select
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from eggpool.engine.corked import Corked
from eggpool.engine.cycle import App, Cycle, Message, Receive, Scope, Send

__all__ = ["App", "Connection", "Message", "Receive", "Scope", "Send", "connection_of"]

MAX_HEADER_BYTES = 64 * 1024
MAX_TRAILER_BYTES = 64 * 1024
MAX_HELD_BYTES = 256 * 1024  # of further requests, while an answer runs; then nothing is read until it ends
BODY_STEP_BYTES = 4 * 1024 * 1024  # of a body, after which the application decides whether it goes on

CONNECTION = "eggpool.connection"

_ASGI = {"version": "3.0", "spec_version": "2.3"}
_HEAD_END = b"\r\n\r\n"
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")
_MAX_CHUNK_LINE_BYTES = 4096
_HAS_LEFT = getattr(select, "POLLRDHUP", 0) | getattr(select, "POLLHUP", 0)


class Connection(HttpToolsProtocol):
    """One client connection. Requests find it in their scope and may watch it or cut it."""

    client_write_timeout_s = 120.0
    header_timeout_s = 10.0
    upload_timeout_s = 30.0  # without a byte of a body that is wanted
    look_s = 0.5  # between looks whether a client from which nothing is read has left
    closed: Callable[[], None] | None = None  # called when the connection is gone
    scope: Scope  # type: ignore[assignment] # of the newest request
    named: dict[bytes, bytes]  # its headers by name, the last of those with one name
    cycle: Cycle | None  # type: ignore[assignment] # of the newest request that was taken

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._watcher: Callable[[], None] | None = None
        self._header_timer: asyncio.TimerHandle | None = None
        self._upload_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._look_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_since: float | None = None  # None while a request is there, or has begun to come
        self._heard = 0.0  # when something of a body came last
        self._inbox = b""  # what came and was not given to the parser, from `_at` on
        self._at = 0
        self._in_headers = True
        self._left = 0  # bytes that belong to the body, or to its chunk, without a look at them
        self._chunked = False
        self._trailer_bytes: int | None = None  # None before the last chunk
        self._keep_alive = True  # whether the connection outlives the running request, if its body is read
        self._fault: bytes | None = None  # why the request cannot be taken

    def watch(self, left: Callable[[], None] | None) -> None:
        """Call `left` when the client goes away; None ends that. If it is gone already, `left` is called at once."""
        self._watcher = left
        if left is not None and self.transport.is_closing():
            left()

    @property
    def task(self) -> asyncio.Task[None]:
        """The task of the running request. Raises RuntimeError when there is none."""
        if self.cycle is None or self.cycle.task is None:
            raise RuntimeError("no request is running")
        return self.cycle.task

    @property
    def responding(self) -> bool:
        """Whether the running request has had the beginning of an answer."""
        return self.cycle is not None and self.cycle.response_started

    def send_now(self, send: Send, message: Message) -> bool:
        """Send a message from a callback, where nothing can be waited for; False when the client does not read."""
        if self.flow.write_paused or self.transport.is_closing():
            return False
        sending = send(message)
        try:
            sending.__await__().send(None)
        except StopIteration:
            return True
        raise RuntimeError("a message that cannot be blocked was blocked")

    def abort(self) -> None:
        """Close the connection without an end of the body: the honest end of a reply that broke off."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # else the missing end is taken for a defect of the application
        self.transport.abort()

    def shutdown(self) -> None:
        """Close now, or when the running answer has ended. A request that is not whole is not waited for."""
        self._keep_alive = False
        if self._answering and not self._in_headers and not self.responding:
            self._give_up_request()
            self.transport.close()
        elif self.cycle is not None and self._answering:
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    # --- uvicorn's callbacks, with what is added -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for the first header block."""
        super().connection_made(transport)
        self._corked = Corked(transport, self.loop)
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who watches."""
        self.connections.discard(self)
        if self.cycle is not None:
            self.cycle.leave()
        self.flow.resume_writing()
        self.transport.close()
        self.parser = None  # type: ignore[assignment]
        self._stop_idle_timer()
        self._stop_header_timer()
        self._stop_upload_timer()
        self._stop_write_timer()
        self._stop_looking()
        self._inbox, self._at = b"", 0
        if self._watcher is not None:
            self._watcher()
        if self.closed is not None:
            self.closed()

    def data_received(self, data: bytes) -> None:
        """Take what belongs to the running request; what follows it is held until that is answered."""
        self._inbox = self._inbox[self._at :] + data if self._at < len(self._inbox) else data
        self._at = 0
        self._consume()
        if not self._in_headers and self._upload_timer is None and not self.transport.is_closing():
            self._upload_timer = self.loop.call_later(self.upload_timeout_s, self._upload_too_slow)

    def on_message_begin(self) -> None:
        """A new request, which gets its connection along."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self.scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "headers": self.headers,
            "extensions": {CONNECTION: {"connection": self}},
        }

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The header block is there: start the request, unless it cannot be taken."""
        self._in_headers = False
        self._stop_header_timer()
        self._idle_since = None
        version = self.parser.get_http_version()
        method = self.parser.get_method()
        self.named = dict(self.headers)
        length, self._chunked, self._fault = self._framing(version, method)
        if self._fault is not None:
            return
        self._left = length
        path, query = self._place()
        scope = self.scope
        scope["method"] = method.decode("ascii")
        scope["http_version"] = version
        scope["raw_path"] = path
        scope["path"] = unquote(path.decode("ascii"))
        scope["query_string"] = query
        self._keep_alive = version != "1.0" and self.parser.should_keep_alive()
        has_body = length > 0 or self._chunked
        self.cycle = Cycle(
            self,
            self._corked,
            scope,
            self.server_state.default_headers,
            # An answer that begins before the body is whole is the last one: where the next request begins is not
            # known, and may never be.
            keep_alive=self._keep_alive and not has_body,
            awaits_continue=self.expect_100_continue,
        )
        task = self.cycle.task = self.loop.create_task(self.cycle.run(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _place(self) -> tuple[bytes, bytes]:
        """The path and the query of the request's target (RFC 9112, 3.2)."""
        if self.url.startswith(b"/") and b"#" not in self.url:  # as nearly always
            path, _, query = self.url.partition(b"?")
            return path, query
        url = httptools.parse_url(self.url)
        return url.path, url.query or b""

    def on_body(self, body: bytes | memoryview) -> None:
        """Collect the body. The application wants it whole, so it is woken when it is, or when much has come."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return
        if cycle.feed(body) >= BODY_STEP_BYTES:
            self.flow.pause_reading()
            cycle.wake()

    def on_message_complete(self) -> None:
        """What comes next is a new header block."""
        if self._fault is not None or self._left:
            return
        self._in_headers = True
        self._stop_upload_timer()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.response_started:
                cycle.keep_alive = self._keep_alive
            cycle.fed()

    def on_response_complete(self) -> None:
        """Go on with what came meanwhile."""
        self.server_state.total_requests += 1
        self._stop_looking()
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._idle_too_long)
        self._consume()

    def pause_writing(self) -> None:
        """The client does not read: from now on it has so long to begin again."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.client_write_timeout_s, self.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._stop_write_timer()

    # --- the borders of requests -----------------------------------------------------------------------------------

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _consume(self) -> None:
        """Give the parser what it may have of the inbox."""
        while self._at < len(self._inbox) and not self.transport.is_closing():
            if self._in_headers:
                if self._answering:
                    self._hold()
                    return
                if not self._take_head():
                    return
            elif self._left:
                self._take_body()
            elif not self._take_line():
                return
            if self._fault is not None:
                self._refuse(b"400 Bad Request", self._fault)
                return
        self._inbox, self._at = b"", 0  # an idle connection costs nothing

    def _hold(self) -> None:
        """Keep further requests for later; when that is much, read no more, and look whether the client is there."""
        if len(self._inbox) - self._at > MAX_HELD_BYTES:
            self._stop_reading()

    def _stop_reading(self) -> None:
        self.flow.pause_reading()
        if self._look_timer is None:
            self._look_timer = self.loop.call_later(self.look_s, self._look_for_end)

    def _take_head(self) -> bool:
        """Give the parser a header block; False when it is not whole, or refused."""
        while self._inbox.startswith(b"\r\n", self._at):
            self._at += 2  # RFC 9112, 2.2: empty lines before a request mean nothing
        end = self._inbox.find(_HEAD_END, self._at)
        size = (end if end >= 0 else len(self._inbox)) - self._at
        if size > MAX_HEADER_BYTES:
            self._refuse(b"431 Request Header Fields Too Large", b"The request's headers are longer than 64 KiB.")
            return False
        if end < 0:
            if size and self._inbox[self._at : self._at + 1] != b"\r":
                if not self._inbox[self._at : self._at + 1].isalpha():
                    self._refuse(b"400 Bad Request", b"This is not an HTTP request.")
                    return False
                if self._header_timer is None:
                    self._idle_since = None
                    self._start_header_timer()
            return False
        self._feed(end + len(_HEAD_END))
        if self._in_headers and not self._answering and self._fault is None:
            self._fault = b"The request's headers cannot be understood."
        return True

    def _take_body(self) -> None:
        """Give the request what is there of its body, or the parser what is there of a chunk.

        The parser need not see a body whose length is known: it would only copy it. It is waiting for it then, so the
        next request gets a new one.
        """
        self._heard = self.loop.time()
        start, end = self._at, min(self._at + self._left, len(self._inbox))
        self._left -= end - start
        if self._chunked:
            self._feed(end)
            return
        self._at = end
        whole = start == 0 and end == len(self._inbox)
        self.on_body(self._inbox if whole else memoryview(self._inbox)[start:end])
        if not self._left:
            self.parser = httptools.HttpRequestParser(self)
            self.on_message_complete()

    def _take_line(self) -> bool:
        """Take the line before a chunk, or one behind the last; False when it is not whole, or too long."""
        self._heard = self.loop.time()
        end = self._inbox.find(b"\r\n", self._at)
        size = (end + 2 if end >= 0 else len(self._inbox)) - self._at
        if self._trailer_bytes is None:
            if size > _MAX_CHUNK_LINE_BYTES:
                self._fault = b"The line before a chunk of the body is too long."
                return True
            if end < 0:
                return False
            match = _CHUNK_SIZE.fullmatch(self._inbox, self._at, end)
            if match is None:
                self._fault = b"The size of a chunk of the body is not a hexadecimal number."
                return True
            chunk = int(match[1], 16)
            self._feed(end + 2)
            if chunk:
                self._left = chunk + 2
            else:
                self._trailer_bytes = 0
            return True
        if self._trailer_bytes + size > MAX_TRAILER_BYTES:
            self._fault = b"The fields behind the body are longer than 64 KiB."
            return True
        if end < 0:
            return False
        if end > self._at:
            self._trailer_bytes += size
            self._at = end + 2  # a trailer: nobody here wants it, and among the headers it would be a danger
            return True
        self._trailer_bytes = None
        self._feed(end + 2)
        if not self._in_headers and self._fault is None:
            self._fault = b"The chunks of the body cannot be understood."
        return True

    def _feed(self, end: int) -> None:
        """Give the parser the inbox up to `end`."""
        whole = self._at == 0 and end == len(self._inbox)
        part = self._inbox if whole else self._inbox[self._at : end]
        self._at = end
        try:
            self.parser.feed_data(part)
        except httptools.HttpParserUpgrade:
            pass  # RFC 9110, 7.8: an upgrade may be ignored, and the request is answered as it is
        except httptools.HttpParserError:
            self._fault = self._fault or b"This is not a valid HTTP request."

    def _framing(self, version: str, method: bytes) -> tuple[int, bool, bytes | None]:
        """The announced length of the body, whether it comes in chunks, and why the request cannot be taken."""
        named = self.named
        hosts = int(b"host" in named)
        if len(named) < len(self.headers):
            hosts = sum(name == b"host" for name, _ in self.headers)
        announced = named.get(b"content-length", b"")
        length = int(announced) if announced.isdigit() else 0  # the parser refuses a second one, and no number
        encodings = [value.strip().lower() for value in self._values(b"transfer-encoding")]
        self.expect_100_continue = b"100-continue" in [value.lower() for value in self._values(b"expect")]
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            return 0, False, b"A request needs exactly one Host header."
        if method == b"CONNECT":
            return 0, False, b"This is not a proxy for connections: CONNECT is not served."
        if encodings and (encodings != [b"chunked"] or version != "1.1" or self.parser.should_upgrade()):
            return 0, False, b"Transfer-Encoding must be chunked, in HTTP/1.1, and without an Upgrade."
        return length, bool(encodings), None

    def _values(self, name: bytes) -> list[bytes]:
        """All that the headers say under that name."""
        return [value for known, value in self.headers if known == name] if name in self.named else []

    # --- refusals and clocks ---------------------------------------------------------------------------------------

    def _refuse(self, status: bytes, words: bytes) -> None:
        """Tell the client why, if no answer has begun, and close; an answer that has begun ends first."""
        self._inbox, self._at = b"", 0
        if self._answering and self.responding:
            self._stop_reading()  # it closes the connection when it ends, because the body is not whole
            return
        self._give_up_request()
        head = (
            b"HTTP/1.1 %s\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        )
        self._corked.write(head % (status, len(words)) + words)
        self._corked.close()

    def _give_up_request(self) -> None:
        """The running request will not become whole: its application is told that the client has left."""
        if self.cycle is not None and self._answering:
            self.cycle.leave()

    def _idle_too_long(self) -> None:
        """The timer between requests: one for a whole connection, moved on when it fires too early."""
        self._idle_timer = None
        if self.transport.is_closing():
            return
        since = self.loop.time() if self._idle_since is None else self._idle_since
        left_s = since + self.timeout_keep_alive - self.loop.time()
        if left_s > 0.001 or self._idle_since is None:
            self._idle_timer = self.loop.call_later(left_s, self._idle_too_long)
        else:
            self.transport.close()

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(self.header_timeout_s, self._headers_too_slow)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _headers_too_slow(self) -> None:
        self._header_timer = None
        if self.transport.is_closing():
            return
        if self._at < len(self._inbox):
            words = b"The request's headers did not come within %d s." % max(1, self.header_timeout_s)
            self._refuse(b"408 Request Timeout", words)
        else:
            self.transport.close()

    def _upload_too_slow(self) -> None:
        """The timer of an upload: one for a whole body, moved on when it fires."""
        now = self.loop.time()
        if self.flow.read_paused:
            self._heard = now  # it is us who do not read
        left_s = self._heard + self.upload_timeout_s - now
        if left_s > 0.001:
            self._upload_timer = self.loop.call_later(left_s, self._upload_too_slow)
            return
        self._upload_timer = None
        if not self.transport.is_closing():
            self._refuse(b"408 Request Timeout", b"The request's body did not come; nothing was sent for too long.")

    def _stop_upload_timer(self) -> None:
        if self._upload_timer is not None:
            self._upload_timer.cancel()
            self._upload_timer = None

    def _look_for_end(self) -> None:
        """The system knows that a client has left, also when nothing is read from it."""
        self._look_timer = None
        handle = self.transport.get_extra_info("socket")
        if self.transport.is_closing() or handle is None or not _HAS_LEFT:
            return
        poll = select.poll()
        poll.register(handle.fileno(), _HAS_LEFT)
        if poll.poll(0):
            self.transport.abort()
        else:
            self._look_timer = self.loop.call_later(self.look_s, self._look_for_end)

    def _stop_looking(self) -> None:
        if self._look_timer is not None:
            self._look_timer.cancel()
            self._look_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def connection_of(scope: Scope) -> Connection:
    """The client connection that a request came over."""
    connection: Connection = scope["extensions"][CONNECTION]["connection"]
    return connection
