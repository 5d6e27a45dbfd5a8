"""The HTTP server: uvicorn's protocol with the bounds that it lacks, started and drained by us.

Three things are added to uvicorn. A caller that goes away is told to whoever watches the connection, at once and
without a task. The header block is bounded in size and time. A reader that has stopped is cut off. Signals are not
touched here. The only module that knows uvicorn.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, MutableMapping
from email.utils import formatdate
from typing import Any

import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from eggpool.config.schema import Server as ServerSettings
from eggpool.engine.corked import Corked
from eggpool.errors import StartError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger(__name__)

MAX_HEADER_BYTES = 64 * 1024
HEADER_TIMEOUT_S = 10.0
BODY_STEP_BYTES = 4 * 1024 * 1024  # of a body, after which the application decides whether it goes on
KEEP_ALIVE_S = 75  # longer than agents keep their connections, so that they close first
BACKLOG = 2048

CONNECTION = "eggpool.connection"


class Connection(HttpToolsProtocol):
    """One client connection. Requests find it in their scope and may watch it or cut it."""

    client_write_timeout_s = 120.0
    closed: Callable[[], None] | None = None  # called when the connection is gone

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._watcher: Callable[[], None] | None = None
        self._header_bytes = 0
        self._in_headers = True
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def watch(self, left: Callable[[], None] | None) -> None:
        """Call `left` when the client goes away; None ends that. If it is gone already, `left` is called at once."""
        self._watcher = left
        if left is not None and self.transport.is_closing():
            left()

    @property
    def responding(self) -> bool:
        """Whether the running request has had the beginning of an answer."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.response_started

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
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None:
            cycle.disconnected = True  # else uvicorn takes the missing end for a defect of the application
        self.transport.abort()

    # --- uvicorn's callbacks, with what is added -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for the first header block."""
        super().connection_made(transport)
        self._corked = Corked(transport, self.loop)
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who watches."""
        super().connection_lost(exc)
        self._stop_header_timer()
        self._stop_write_timer()
        if self._watcher is not None:
            self._watcher()
        if self.closed is not None:
            self.closed()

    def data_received(self, data: bytes) -> None:
        """Bound the header block before the parser collects it."""
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_timer is None:
                self._start_header_timer()
            if self._header_bytes > MAX_HEADER_BYTES and self._headers_too_long(data):
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Give the request its connection."""
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION: {"connection": self}}

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """The parts of an answer that are written in one turn of the loop are sent together."""
        cycle.transport = self._corked  # type: ignore[assignment]
        super()._start_asgi_task(cycle, app)

    def on_headers_complete(self) -> None:
        """The header block is there."""
        self._in_headers = False
        self._stop_header_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Collect the body. The application wants it whole, so it is woken when it is, or when much has come."""
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) >= BODY_STEP_BYTES:
            self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """What comes next is a new header block."""
        self._in_headers = True
        self._header_bytes = 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client does not read: from now on it has so long to begin again."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.client_write_timeout_s, self.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._stop_write_timer()

    # ---------------------------------------------------------------------------------------------------------------

    def _headers_too_long(self, data: bytes) -> bool:
        """Whether it is really headers that are too long, not the body behind them; then the client is told."""
        end = data.find(b"\r\n\r\n")
        if end >= 0 and self._header_bytes - len(data) + end <= MAX_HEADER_BYTES:
            return False
        self._refuse(b"431 Request Header Fields Too Large", b"The request's headers are longer than 64 KiB.")
        return True

    def _refuse(self, status: bytes, words: bytes) -> None:
        head = (
            b"HTTP/1.1 %s\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head % (status, len(words)) + words)
        self.transport.close()

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._headers_too_slow)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _headers_too_slow(self) -> None:
        self._header_timer = None
        if self.transport.is_closing():
            return
        if self._header_bytes:
            self._refuse(b"408 Request Timeout", b"The request's headers did not come within 10 s.")
        else:
            self.transport.close()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def connection_of(scope: Scope) -> Connection:
    """The client connection that a request came over."""
    connection: Connection = scope["extensions"][CONNECTION]["connection"]
    return connection


class HttpServer:
    """Listens, serves an ASGI application, drains. Start it inside a running event loop."""

    def __init__(self, settings: ServerSettings, app: App) -> None:
        self._settings = settings
        self._app = app
        self._cutting = False
        self._state = ServerState()
        self._config = uvicorn.Config(
            self._serve,
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._servers: list[asyncio.Server] = []
        self._connection_closed = asyncio.Event()
        self.port = settings.port

    async def start(self) -> None:
        """Listen. Raises StartError with a sentence that says what to do."""
        self._config.load()
        loop = asyncio.get_running_loop()
        context = _tls(self._settings)

        def make() -> Connection:
            made = Connection(config=self._config, server_state=self._state, app_state={}, _loop=loop)
            made.client_write_timeout_s = self._settings.client_write_timeout_s
            made.closed = self._connection_closed.set
            return made

        self.tick()
        for listener in _listeners(self._settings):
            self._servers.append(await loop.create_server(make, sock=listener, ssl=context, backlog=BACKLOG))
            self.port = listener.getsockname()[1]

    def tick(self) -> None:
        """Renew the Date header; called once a second."""
        self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]

    @property
    def connections(self) -> int:
        """How many client connections are open."""
        return len(self._state.connections)

    async def drain(self, grace_s: float, stop_now: asyncio.Event) -> bool:
        """Stop listening and let running requests end; False when some were still running and had to be cut.

        Ends when all answers have left this process, after `grace_s`, or as soon as `stop_now` is set.
        """
        for server in self._servers:
            server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        deadline = time.monotonic() + grace_s
        stop = asyncio.ensure_future(stop_now.wait())
        while (self._state.tasks or self._state.connections) and not stop.done():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            # An answer that was handed over may still lie in the connection's buffer: it has left when that is closed.
            self._connection_closed.clear()
            closed = asyncio.ensure_future(self._connection_closed.wait())
            await asyncio.wait({*self._state.tasks, stop, closed}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            closed.cancel()
        stop.cancel()
        whole = not self._state.tasks and not self._state.connections
        self._cutting = True
        left = list(self._state.tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=2.0)
        for connection in list(self._state.connections):
            if isinstance(connection, Connection):
                connection.abort()
        return whole

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application; a request that is cut at the end closes its connection."""
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._cutting:
                raise
            connection_of(scope).abort()


def _listeners(settings: ServerSettings) -> list[socket.socket]:
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise StartError(
            f"The address {settings.host} cannot be listened on: it is not known. Set [server] host to an address of "
            "this machine, such as 127.0.0.1."
        ) from error
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        if sockets and settings.port == 0:
            break  # a free port is free for one family only
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            listener.bind(address)
            listener.setblocking(False)
        except OSError as error:
            for one in [*sockets, listener]:
                one.close()
            raise StartError(_why_not(settings, error)) from error
        sockets.append(listener)
    return sockets


def _why_not(settings: ServerSettings, error: OSError) -> str:
    place = f"{settings.host}:{settings.port}"
    if isinstance(error, PermissionError):
        return f"Listening on {place} is not permitted; choose a port of 1024 or above in [server] port."
    if error.errno in (98, 48):  # EADDRINUSE on Linux and on BSD
        return (
            f"The address {place} is in use, probably by another EggPool; stop that one or choose another port in "
            "[server] port."
        )
    return f"The address {place} cannot be listened on ({error.strerror}); set [server] host to one of this machine."


def _tls(settings: ServerSettings) -> ssl.SSLContext | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise StartError(
            "The files of [server] tls_cert and tls_key cannot be used as a certificate and its key."
        ) from error
    return context
