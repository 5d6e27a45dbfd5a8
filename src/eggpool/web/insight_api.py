"""`/api/status` and `/api/explain`: how the pool stands and where a request would go, for callers with a client key.

The same rows as those of the command line.
"""

from __future__ import annotations

from eggpool.domain import Dialect
from eggpool.engine.explaining import explain
from eggpool.engine.insight import Explanation, PoolStatus
from eggpool.engine.runtime import Runtime
from eggpool.engine.status import pool_status
from eggpool.errors import BadRequest

DIALECTS = {dialect.value: dialect for dialect in Dialect}


class InsightApi:
    """The live state as JSON; nothing here waits or changes anything."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def status(self, query: dict[str, str]) -> PoolStatus:
        """`/api/status`."""
        return pool_status(self._runtime)

    async def explain(self, query: dict[str, str], client: str) -> Explanation:
        """`/api/explain?model=&dialect=&conversation=`; the conversation is one of the caller's own.

        Raises BadRequest, and NotFound for an unknown model.
        """
        model, dialect = query.get("model"), query.get("dialect") or None
        if not model:
            raise BadRequest("The query names no model; add ?model=NAME.", param="model")
        if dialect is not None and dialect not in DIALECTS:
            raise BadRequest(f"The dialect must be one of {', '.join(DIALECTS)}.", param="dialect")
        spoken = None if dialect is None else DIALECTS[dialect]
        return explain(self._runtime.pool, model, spoken, query.get("conversation") or None, client)
