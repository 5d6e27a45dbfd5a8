"""The application: which part answers which path, and what every request passes on its way, in one visible list."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl

from starlette.middleware.cors import CORSMiddleware

from eggpool.engine.runtime import Runtime
from eggpool.engine.server import App, Receive, Scope, Send, connection_of
from eggpool.errors import EggPoolError, MethodNotAllowed, NotFound
from eggpool.web import surfaces
from eggpool.web.access import Access
from eggpool.web.data_plane import DataPlane
from eggpool.web.health import HealthApi
from eggpool.web.insight_api import InsightApi
from eggpool.web.models_api import ModelsApi, is_models
from eggpool.web.replies import dialect_of, send_error, send_json
from eggpool.web.stats_api import StatsApi

_log = logging.getLogger(__name__)

READING = ("GET", "HEAD")

Answer = tuple[int, object]
JsonReader = Callable[[dict[str, str]], Awaitable[object]]
OwnReader = Callable[[dict[str, str], str], Awaitable[object]]
"""One that tells something about the caller, whose name it gets."""


class InternalError(EggPoolError):
    """A defect of ours; its details are in the log."""


def make_app(runtime: Runtime) -> App:
    """The ASGI application of a runtime. From the outside in: errors, cross-origin rules, routes."""
    app: App = Routes(runtime)
    origins = runtime.config.security.cors_origins
    if origins:
        app = CORSMiddleware(app, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"])
    return Errors(app)


class Errors:
    """The outermost layer: an error that nobody expected becomes one sentence for the caller and a line in the log."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        scope["path"] = surfaces.usual(scope["path"])
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the request boundary
            _log.error("a request failed with an error that is a defect: %s", type(error).__name__, exc_info=error)
            if connection_of(scope).responding:
                connection_of(scope).abort()
                return
            dialect = dialect_of(scope["path"], scope["headers"])
            told = InternalError("The pool failed on this request; its log says why.")
            await send_error(send, dialect, told, request_id="")


class Routes:
    """The route table."""

    def __init__(self, runtime: Runtime) -> None:
        self._access = Access(runtime.config)
        self._data_plane = DataPlane(runtime.config, runtime.dispatcher, self._access, runtime.access_log)
        self._models = ModelsApi(runtime.pool)
        self._health = HealthApi(runtime.pool, runtime.database)
        self._ledger, self._clock = runtime.ledger, runtime.clock
        statistics = StatsApi(runtime.database, runtime.clock, self._access)
        insight = InsightApi(runtime)
        self._open: dict[str, Callable[[], Answer]] = {
            "/v1/healthz": self._health.live,
            "/v1/readyz": self._health.ready,
        }
        self._json: dict[str, JsonReader] = {
            "/api/stats/summary": statistics.summary,
            "/api/events": statistics.events,
            "/api/status": insight.status,
        }
        self._own: dict[str, OwnReader] = {"/api/explain": insight.explain}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request: the data plane first, because everybody waits for that."""
        path: str = scope["path"]
        if path.startswith("/v1/") and path not in self._open and not is_models(path):
            await self._data_plane(scope, receive, send)
            return
        request_id = f"{self._ledger.new_id(self._clock.wall_ms()):016x}"
        own = [(b"x-proxy-request-id", request_id.encode()), (b"x-proxy-attempt-count", b"0")]
        try:
            self._access.check_host(scope["headers"])
            status, payload = await self._control(scope)
            await send_json(send, status, payload, own)
        except EggPoolError as error:
            await send_error(send, dialect_of(path, scope["headers"]), error, request_id=request_id, headers=own)

    async def _control(self, scope: Scope) -> Answer:
        """The status and the payload for anything but the data plane."""
        path, method = scope["path"], scope["method"]
        if path == "/" and method == "HEAD":
            return self._health.live()  # with this, agents see whether anybody is there
        known = path in self._open or path in self._json or path in self._own or is_models(path)
        if known and method not in READING:
            raise MethodNotAllowed(path, READING)
        if path in self._open:
            return self._open[path]()
        client = self._access.client(connection_of(scope).named)
        if is_models(path):
            return 200, self._models.read(path, scope["headers"])
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        if path in self._json:
            return 200, await self._json[path](query)
        if path in self._own:
            return 200, await self._own[path](query, client)
        raise NotFound(f"There is nothing at {path[:200]}; the README lists the paths of this pool.")
