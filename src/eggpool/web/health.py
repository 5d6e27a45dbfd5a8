"""`/v1/healthz` and `/v1/readyz`: open to everybody, so they say as little as helps."""

from __future__ import annotations

from eggpool.engine.pool import Pool
from eggpool.engine.server import Send
from eggpool.store.db import Database
from eggpool.web.replies import send_body, send_json

LAG_WORTH_TELLING_MS = 5000


class HealthApi:
    """Alive, and ready."""

    def __init__(self, pool: Pool, database: Database) -> None:
        self._pool = pool
        self._database = database

    async def live(self, send: Send) -> None:
        """The process answers."""
        await send_json(send, 200, {"status": "ok"})

    async def ready(self, send: Send) -> None:
        """200 when at least one account can be tried now. Books that lag do not stop requests, so they do not count."""
        catalog = self._pool.catalog
        checks = {
            "database": "ok" if self._database.lag_ms < LAG_WORTH_TELLING_MS else "lagging",
            "accounts": "ok" if self._pool.ready else "none can be tried now",
            "catalog": "ok" if catalog.offers or catalog.unlisted else "no models are known",
        }
        good = checks["accounts"] == "ok" and checks["catalog"] == "ok"
        await send_json(send, 200 if good else 503, {"status": "ok" if good else "degraded", "checks": checks})

    async def probe(self, send: Send) -> None:
        """`HEAD /`, with which agents see whether anybody is there."""
        await send_body(send, 200, b"", [(b"content-type", b"text/plain; charset=utf-8")])
