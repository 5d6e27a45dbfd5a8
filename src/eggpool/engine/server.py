"""The HTTP server: listens, serves an ASGI application, drains. Signals are not touched here.

What happens on one connection is in `connection`; with it, this is the only module that knows uvicorn.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate

import uvicorn
from uvicorn.server import ServerState

from eggpool.config.schema import Server as ServerSettings
from eggpool.engine.connection import App, Connection, Message, Receive, Scope, Send, connection_of
from eggpool.engine.listening import listeners, tls

__all__ = ["App", "Connection", "HttpServer", "Message", "Receive", "Scope", "Send", "connection_of"]

KEEP_ALIVE_S = 75  # longer than agents keep their connections, so that they close first
BACKLOG = 2048


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
        context = tls(self._settings)

        def make() -> Connection:
            made = Connection(config=self._config, server_state=self._state, app_state={}, _loop=loop)
            made.client_write_timeout_s = self._settings.client_write_timeout_s
            made.closed = self._connection_closed.set
            return made

        self.tick()
        for listener in listeners(self._settings):
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
