"""`/api/*`: statistics as JSON, for callers with a client key. Read from the books in a worker thread."""

from __future__ import annotations

from eggpool.engine.clock import Clock
from eggpool.errors import BadRequest
from eggpool.store import stats
from eggpool.store.db import Database
from eggpool.store.period import parse_period
from eggpool.web.access import Access

DEFAULT_PERIOD = "24h"
DEFAULT_EVENTS = 100


class StatsApi:
    """The readers of the books."""

    def __init__(self, database: Database, clock: Clock, access: Access) -> None:
        self._database = database
        self._access = access
        self._clock = clock

    async def summary(self, query: dict[str, str]) -> stats.Summary:
        """`/api/stats/summary?period=&client=`."""
        period = query.get("period") or DEFAULT_PERIOD
        since_ms, until_ms = parse_period(period, self._clock.wall_ms())
        client = query.get("client") or None
        await self._database.settle()
        lag_ms = self._database.lag_ms
        # The last instant belongs to the answer: what has ended just now is what the caller wants to see.
        return await self._database.read(
            lambda conn: stats.summary(
                conn,
                since_ms,
                until_ms + 1,
                client=client,
                period=period,
                books_lag_ms=lag_ms,
                refused_at_the_door=self._access.refused,
            )
        )

    async def events(self, query: dict[str, str]) -> dict[str, object]:
        """`/api/events?limit=&type_filter=`."""
        limit_text = query.get("limit") or str(DEFAULT_EVENTS)
        if not (limit_text.isascii() and limit_text.isdigit()) or len(limit_text) > 6:
            raise BadRequest("The limit must be a whole number.", param="limit")
        kind = query.get("type_filter") or query.get("type") or None
        await self._database.settle()
        rows = await self._database.read(lambda conn: stats.events(conn, int(limit_text), kind=kind))
        return {"limit": int(limit_text), "type": kind, "events": rows}
