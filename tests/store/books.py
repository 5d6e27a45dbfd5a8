"""What the tests of the books share: records with few words, and a file that another program keeps locked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from eggpool.domain import AccountLabel, AttemptRecord, Dialect, Outcome, RequestBegun, RequestRecord
from eggpool.store.db import Database

T = TypeVar("T")

ACCOUNT = AccountLabel("alpha/one")
NOW = 1_700_000_000_000


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine, for at most half a minute."""

    async def bounded() -> T:
        async with asyncio.timeout(30):
            return await coroutine

    return asyncio.run(bounded(), debug=True)


@contextlib.asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[Database]:
    """A database that is closed at the end."""
    database = Database.open(path, **options)
    try:
        yield database
    finally:
        await database.aclose(timeout_s=2.0)


def request(request_id: int, **changes: Any) -> RequestRecord:
    """A completed request."""
    values: dict[str, Any] = {
        "client": "default",
        "client_address": "127.0.0.1",
        "dialect": Dialect.CHAT,
        "path": "/v1/chat/completions",
        "model_asked": "m",
        "streamed": False,
        "outcome": Outcome.COMPLETED,
        "status": 200,
        "started_at_ms": NOW,
        "ended_at_ms": NOW + 5,
        "total_us": 5000,
        "account": ACCOUNT,
        "model_served": "m",
    }
    return RequestRecord(id=request_id, **{**values, **changes})


def attempt(request_id: int, number: int = 1, **changes: Any) -> AttemptRecord:
    """A try."""
    return AttemptRecord(request_id, number, ACCOUNT, "m", Dialect.CHAT, NOW, **changes)


def begun(request_id: int, reserved: int = 0) -> RequestBegun:
    """A lease."""
    return RequestBegun(request_id, "default", ACCOUNT, "m", Dialect.CHAT, True, NOW, reserved)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program keeps the file locked for writing."""
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """What is in the file, seen by another program."""
    other = sqlite3.connect(path, isolation_level=None)
    try:
        return other.execute(sql).fetchall()
    finally:
        other.close()


async def appears(path: Path, sql: str) -> None:
    """Until another program finds a row; a file tells nobody of a commit, so it has to be asked. At most 10 s."""

    def ask() -> bool:
        end = time.monotonic() + 10
        other = sqlite3.connect(path, isolation_level=None)
        try:
            while time.monotonic() < end:
                if other.execute(sql).fetchone():
                    return True
            return False
        finally:
            other.close()

    assert await asyncio.to_thread(ask), sql


class Watch(logging.Handler):
    """Sees log lines of the store and lets a test wait for one."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words
        self.seen = threading.Event()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line."""
        self.lines.append(record.getMessage())
        if self._words in record.getMessage():
            self.seen.set()

    def __enter__(self) -> Watch:
        logging.getLogger("eggpool.store").addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger("eggpool.store").removeHandler(self)

    async def wait(self) -> None:
        """Until the words were logged; fails after ten seconds."""
        assert await asyncio.to_thread(self.seen.wait, 10), self._words
