"""The statistics as JSON: what a caller may ask for."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.pool import pool_of, run

from eggpool.scripted import good

LIMITS = {"": 200, "7": 200, "%C2%B2": 400, "%D9%A3": 400, "-1": 400, "1234567": 400}


def test_limits(tmp_path: Path) -> None:
    """A limit is written in plain digits; anything else, digits of other scripts too, is refused by name."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, _):
            for limit, status in LIMITS.items():
                async with pool.get("/api/events?limit=" + limit) as answer:
                    assert (limit, answer.status) == (limit, status)
                    body = await answer.json()
                if status == 400:
                    assert body["error"]["message"] == "The limit must be a whole number."
                    assert body["error"]["param"] == "limit"

    run(scenario)
