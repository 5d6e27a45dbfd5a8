"""`/v1/healthz` and `/v1/readyz`: open to everybody, so they say as little as helps."""

from __future__ import annotations

from eggpool.engine.pool import Pool
from eggpool.store.db import Database

LAG_WORTH_TELLING_MS = 5000


class HealthApi:
    """Alive, and ready."""

    def __init__(self, pool: Pool, database: Database) -> None:
        self._pool = pool
        self._database = database

    def live(self) -> tuple[int, dict[str, object]]:
        """The process answers."""
        return 200, {"status": "ok"}

    def ready(self) -> tuple[int, dict[str, object]]:
        """200 when at least one account can be tried now. Books that lag do not stop requests, so they do not count."""
        catalog = self._pool.catalog
        checks = {
            "database": "ok" if self._database.lag_ms < LAG_WORTH_TELLING_MS else "lagging",
            "accounts": "ok" if self._pool.ready else "none can be tried now",
            "catalog": "ok" if catalog.offers or catalog.unlisted else "no models are known",
        }
        good = checks["accounts"] == "ok" and checks["catalog"] == "ok"
        return 200 if good else 503, {"status": "ok" if good else "degraded", "checks": checks}
