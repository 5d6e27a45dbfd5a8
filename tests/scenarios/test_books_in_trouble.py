"""When the books cannot be written, requests are served all the same, and the books catch up afterwards."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.helpers.pool import RunningPool, key_of, provider, run, running_pool, settings
from tests.scenarios.asking import CHAT, MESSAGES, PATHS, WORDS, question, text_of

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


async def ask_each_way(pool: RunningPool) -> None:
    """Ask in two dialects, plain and streamed; each answer comes soon and whole, and nothing is held afterwards."""
    for dialect in (CHAT, MESSAGES):
        for stream in (False, True):
            async with asyncio.timeout(2.0):
                status, body = await pool.answer(PATHS[dialect], question(dialect, stream=stream))
            assert (status, text_of(dialect, body)) == (200, f"You said: {WORDS}")
    assert pool.in_flight == 0


async def check_trouble(
    folder: Path, begin: Callable[[RunningPool], Awaitable[Callable[[], None]]], words: str
) -> list[str]:
    """The file fails from `begin` on, until what that gave is called: requests go on, and the books catch up.

    Gives what the event about the trouble says, and that about its end.
    """
    async with ScriptedProvider({key_of("a"): good}) as upstream:
        text = provider("alpha", upstream, "a", extra='protocols = ["openai", "anthropic"]')
        async with running_pool(settings(folder, text), loud=words) as pool:
            await ask_each_way(pool)
            await pool.booked(4)
            end = await begin(pool)
            with Logged(words) as told:
                for _ in range(5):
                    await ask_each_way(pool)
                await told.wait()
            await ask_each_way(pool)
            assert pool.runtime.database.lag_ms > 0
            async with pool.get("/v1/readyz") as reply:
                assert reply.status == 200
            end()
            rows = await pool.booked(28)
            assert [row.record.outcome for row in rows] == [Outcome.COMPLETED] * 28
            assert len({row.record.id for row in rows}) == 28
            assert await pool.rows("SELECT * FROM begun") == []
            events = await pool.rows("SELECT kind, detail FROM events WHERE kind LIKE 'books%' ORDER BY id")
            assert [kind for kind, _ in events] == ["books_delayed", "books_caught_up"]
    return [str(detail) for _, detail in events]


def test_a_full_disk(tmp_path: Path) -> None:
    """While the database cannot grow, requests are answered; all are booked when there is room again."""

    async def begin(pool: RunningPool) -> Callable[[], None]:
        # The limit is SQLite's own; it fails like a disk without room. The connection is the writer's.
        conn = await pool.runtime.database.write(lambda conn: conn)
        conn.execute("PRAGMA max_page_count = 1")  # what there is already stays
        return lambda: conn.execute("PRAGMA max_page_count = 1000000").close()

    async def scenario() -> None:
        told = await check_trouble(tmp_path, begin, "the books cannot be written (database or disk is full)")
        assert "full" in told[0]

    run(scenario)


def test_a_file_that_can_only_be_read(tmp_path: Path) -> None:
    """While the file can only be read, requests are answered; all are booked when it can be written again."""

    async def begin(pool: RunningPool) -> Callable[[], None]:
        conn = await pool.runtime.database.write(lambda conn: conn)
        conn.execute("PRAGMA query_only = ON")  # fails like a file system that was made read-only
        return lambda: conn.execute("PRAGMA query_only = OFF").close()

    async def scenario() -> None:
        told = await check_trouble(tmp_path, begin, "the books cannot be written (attempt to write a readonly database")
        assert "readonly" in told[0]

    run(scenario)


def test_a_damaged_file(tmp_path: Path) -> None:
    """While the file is damaged, requests are answered and pages say so; all are booked when it is put back."""

    async def begin(pool: RunningPool) -> Callable[[], None]:
        path = tmp_path / "usage.sqlite3"
        conn = sqlite3.connect(path)
        assert conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        conn.close()
        whole = path.read_bytes()
        damage(path, b"\xff" * len(whole))
        async with pool.get("/api/stats/summary") as reply:
            told = (await reply.json())["error"]["message"]
            assert (reply.status, "is damaged" in told) == (500, True)
        return lambda: damage(path, whole)

    async def scenario() -> None:
        told = await check_trouble(tmp_path, begin, "the books cannot be written (")
        assert "not a database" in told[0] or "malformed" in told[0]

    run(scenario)


def test_a_file_that_stays_damaged(tmp_path: Path) -> None:
    """A pool whose books cannot be written until its end answers to the end, ends in time, and says what is lost."""

    async def scenario() -> None:
        async with ScriptedProvider({key_of("a"): good}) as upstream:
            text = provider("alpha", upstream, "a", extra='protocols = ["openai", "anthropic"]')
            with Logged("the books were closed without") as told:
                async with running_pool(settings(tmp_path, text), loud="the books ") as pool:
                    await ask_each_way(pool)
                    await pool.booked(4)
                    conn = await pool.runtime.database.write(lambda conn: conn)
                    conn.execute("PRAGMA query_only = ON")
                    await ask_each_way(pool)
                await told.wait()
            assert "among them 4 requests" in told.lines[0]

    run(scenario)


def test_a_slow_file(tmp_path: Path) -> None:
    """While each write takes its time, requests do not: all are answered before the books have caught up."""

    async def scenario() -> None:
        async with ScriptedProvider({key_of("a"): good}) as upstream:
            text = provider("alpha", upstream, "a", extra='protocols = ["openai", "anthropic"]')
            async with running_pool(settings(tmp_path, text)) as pool:
                conn = await pool.runtime.database.write(lambda conn: conn)
                go_on = threading.Event()
                waits = 0

                def wait() -> int:
                    nonlocal waits
                    waits += 1
                    go_on.wait(0.02)
                    return 0

                conn.set_progress_handler(wait, 20)  # steps of SQLite's machine: each statement waits several times
                for _ in range(5):
                    await ask_each_way(pool)
                assert pool.runtime.database.lag_ms > 0
                await pool.until(lambda: waits > 1)
                go_on.set()
                rows = await pool.booked(20)
                assert [row.record.outcome for row in rows] == [Outcome.COMPLETED] * 20

    run(scenario)


def damage(path: Path, content: bytes) -> None:
    """Overwrite a file in place, as a failing disk would."""
    with path.open("r+b") as file:
        file.write(content)


class Logged(logging.Handler):
    """Waits for a line in the log, and keeps what it says."""

    def __init__(self, words: str) -> None:
        super().__init__(logging.WARNING)
        self._words = words
        self._loop = asyncio.get_running_loop()
        self._seen = asyncio.Event()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take one line, in whichever thread it was written."""
        if self._words in record.getMessage():
            self.lines.append(record.getMessage())
            self._loop.call_soon_threadsafe(self._seen.set)

    async def wait(self) -> None:
        """Wait for the first such line."""
        await self._seen.wait()

    def __enter__(self) -> Logged:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)
