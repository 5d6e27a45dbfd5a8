"""One request of a client connection and its answer, as an ASGI application sees them.

Stands in for uvicorn's own class, for the one way in which this server uses it. Header names of an answer are in lower
case, as ASGI demands. What may live here: receiving a body, writing an answer. What may not: where requests begin and
end on their connection, and clocks.
"""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from eggpool.engine.corked import Corked
from eggpool.wire import head as heads

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}
_STATUS_LINES = {
    status: b"HTTP/1.1 %d %s\r\n" % (status, _PHRASES.get(status, "").encode()) for status in range(100, 600)
}
_BODILESS = frozenset({204, 304})

_log = logging.getLogger(__name__)


class Flow(Protocol):
    """Whether a connection takes more in either direction."""

    write_paused: bool

    async def drain(self) -> None: ...

    def resume_reading(self) -> None: ...


class Owner(Protocol):
    """The connection, as far as a cycle needs it."""

    @property
    def flow(self) -> Flow: ...

    loop: asyncio.AbstractEventLoop

    def on_response_complete(self) -> None: ...


class Cycle:
    """A request and its answer. The connection feeds it; `receive` and `send` are the application's side."""

    __slots__ = (
        "_awaits_continue",
        "_chunked",
        "_corked",
        "_default_headers",
        "_left",
        "_owner",
        "_parts",
        "_ready",
        "_scope",
        "_size",
        "_waiter",
        "disconnected",
        "keep_alive",
        "more_body",
        "response_complete",
        "response_started",
        "task",
    )

    def __init__(
        self,
        owner: Owner,
        corked: Corked,
        scope: Scope,
        default_headers: list[tuple[bytes, bytes]],
        *,
        keep_alive: bool,
        awaits_continue: bool,
    ) -> None:
        self._owner = owner
        self._corked = corked
        self._scope = scope
        self._default_headers = default_headers
        self._awaits_continue = awaits_continue
        self._parts: list[bytes | memoryview] = []  # of the body, not received yet
        self._size = 0
        self._ready = False  # there is something to receive
        self._waiter: asyncio.Future[None] | None = None
        self._chunked: bool | None = None  # None: no header has said how long the answer is
        self._left = 0  # bytes of the answer's body that its header announced and that were not sent
        self.keep_alive = keep_alive
        self.more_body = True
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self.task: asyncio.Task[None] | None = None  # that runs the application

    # --- the connection's side -----------------------------------------------------------------------------------

    def feed(self, part: bytes | memoryview) -> int:
        """Take a part of the body; gives how much has not been received."""
        self._parts.append(part)
        self._size += len(part)
        return self._size

    def fed(self) -> None:
        """The body is whole."""
        self.more_body = False
        self.wake()

    def leave(self) -> None:
        """There is no client any more."""
        if not self.response_complete:
            self.disconnected = True
        self.wake()

    def wake(self) -> None:
        """There is something to receive."""
        self._ready = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- the application's side ----------------------------------------------------------------------------------

    async def run(self, app: App) -> None:
        """Let the application answer. One that does not ends the connection."""
        try:
            await app(self._scope, self.receive, self.send)
        except BaseException as error:  # noqa: BLE001 - the outermost one: what passes it is nobody's any more
            _log.error("a request ended with an error that is a defect", exc_info=error)
            await self._end_badly()
        else:
            if not self.response_complete and not self.disconnected:
                _log.error("a request ended without a whole answer")
                await self._end_badly()

    async def receive(self) -> Message:
        """The next part of the body, as soon as the connection has woken the cycle; or that the client has left."""
        if self._awaits_continue and not self._corked.is_closing():
            self._awaits_continue = False
            self._corked.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self.disconnected and not self.response_complete:
            self._owner.flow.resume_reading()
            if not self._ready:
                self._waiter = self._owner.loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            self._ready = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        parts, self._parts = self._parts, []
        self._size = 0
        body = parts[0] if len(parts) == 1 and isinstance(parts[0], bytes) else b"".join(parts)
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Message) -> None:
        """Write the head or a part of the body. Waits while the client does not read; nothing is sent to one that left.

        Raises RuntimeError for what is no answer (parts out of order, a wrong length), ValueError for a header with
        forbidden bytes.
        """
        if self._owner.flow.write_paused and not self.disconnected:
            await self._owner.flow.drain()
        if self.disconnected:
            return
        if not self.response_started:
            if message["type"] != "http.response.start":
                raise RuntimeError("an answer begins with its head")
            self._send_head(message["status"], message.get("headers", ()))
        elif self.response_complete:
            raise RuntimeError("the answer has ended")
        elif message["type"] != "http.response.body":
            raise RuntimeError("an answer has one head")
        else:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))

    def _send_head(self, status: int, headers: Any) -> None:
        fields = [*self._default_headers, *headers]
        named = dict(fields)
        if named.get(b"transfer-encoding", b"").lower() == b"chunked":
            self._chunked = True
        elif b"content-length" in named:
            self._left = int(named[b"content-length"])
            self._chunked = False
        connection = named.get(b"connection")
        closes = connection is not None and b"close" in [token.strip() for token in connection.lower().split(b",")]
        if closes:
            self.keep_alive = False
        lines = [_STATUS_LINES[status], heads.written(fields)]
        if not self.keep_alive and not closes:
            lines.append(b"connection: close\r\n")
        if self._chunked is None and self._scope["method"] != "HEAD" and status not in _BODILESS:
            self._chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        self.response_started = True
        self._awaits_continue = False
        self._corked.write(b"".join(lines))

    def _send_body(self, body: bytes, *, more: bool) -> None:
        if self._scope["method"] == "HEAD":
            self._left = 0
        elif self._chunked:
            if body:
                self._corked.write(b"%x\r\n%b\r\n" % (len(body), body))
            if not more:
                self._corked.write(b"0\r\n\r\n")
        elif len(body) > self._left:
            raise RuntimeError("the answer is longer than its header says")
        elif body:
            self._left -= len(body)
            self._corked.write(body)
        if more:
            return
        if self._left:
            raise RuntimeError("the answer is shorter than its header says")
        self.response_complete = True
        self.wake()
        if not self.keep_alive:
            self._corked.close()
        self._owner.on_response_complete()

    async def _end_badly(self) -> None:
        """Say that it is us, where that can still be said; else close, so that nobody takes the answer for whole."""
        if self.response_started or self.disconnected:
            self._corked.close()
            return
        words = b"Internal Server Error"
        head = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(words)), (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": 500, "headers": head})
        await self.send({"type": "http.response.body", "body": words})
