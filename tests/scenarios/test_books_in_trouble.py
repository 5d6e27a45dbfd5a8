"""When the books cannot be written, requests are served all the same, and the books catch up afterwards."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

from tests.helpers.pool import key_of, provider, run, running_pool, settings
from tests.scenarios.asking import CHAT, MESSAGES, PATHS, question

from eggpool.domain import Outcome
from eggpool.scripted import ScriptedProvider, good


def test_a_locked_file_delays_books_and_nothing_else(tmp_path: Path) -> None:
    """While another program holds the file, answers come as ever, and all are booked once it lets go."""

    async def scenario() -> None:
        async with ScriptedProvider({key_of("a"): good}) as upstream:
            text = provider("alpha", upstream, "a", extra='protocols = ["openai", "anthropic"]')
            async with running_pool(settings(tmp_path, text)) as pool:
                await pool.runtime.database.settle(5.0)
                holder = sqlite3.connect(tmp_path / "usage.sqlite3", isolation_level=None)
                try:
                    holder.execute("BEGIN EXCLUSIVE")
                    for dialect, stream in ((CHAT, False), (CHAT, True), (MESSAGES, False), (MESSAGES, True)):
                        async with asyncio.timeout(2.0):
                            status, _ = await pool.answer(PATHS[dialect], question(dialect, stream=stream))
                        assert status == 200
                    assert pool.in_flight == 0
                    async with pool.get("/v1/readyz") as reply:
                        assert reply.status == 200
                finally:
                    holder.execute("ROLLBACK")
                    holder.close()
                rows = await pool.booked(4)
                assert [row.record.outcome for row in rows] == [Outcome.COMPLETED] * 4
                assert len({row.record.id for row in rows}) == 4

    run(scenario)


def test_a_page_is_answered_while_the_file_is_locked(tmp_path: Path) -> None:
    """Statistics say how far the books lag instead of waiting for them."""

    async def scenario() -> None:
        async with (
            ScriptedProvider({key_of("a"): good}) as upstream,
            running_pool(settings(tmp_path, provider("alpha", upstream, "a"))) as pool,
        ):
            await pool.answer(PATHS[CHAT], question())
            await pool.booked(1)
            holder = sqlite3.connect(tmp_path / "usage.sqlite3", isolation_level=None)
            try:
                holder.execute("BEGIN IMMEDIATE")
                await pool.answer(PATHS[CHAT], question())
                async with asyncio.timeout(3.0), pool.get("/api/stats/summary") as reply:
                    told = await reply.json()
                assert told["total_requests"] == 1
                assert told["books_lag_ms"] > 0
            finally:
                holder.execute("ROLLBACK")
                holder.close()
            await pool.booked(2)

    run(scenario)
