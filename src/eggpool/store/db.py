"""The database: opening, the writer, the readers, and the end.

`Books` is what the ledger and the pages need of a database; `Database` is the SQLite one. A second driver implements
the same protocol, and the SQL elsewhere in this package stays in the subset that both run.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from eggpool.errors import StoreError
from eggpool.store import file, migrations
from eggpool.store.backlog import MAX_BYTES, MAX_FACTS, Backlog
from eggpool.store.facts import AnyFact
from eggpool.store.ids import IdMaker
from eggpool.store.recovery import book_interrupted
from eggpool.store.writer import Writer

T = TypeVar("T")

READERS = 2  # pages are few; more would only fight over the interpreter

log = logging.getLogger(__name__)


class Books(Protocol):
    """What the ledger and the pages need of a database."""

    ids: IdMaker

    def put(self, fact: AnyFact) -> None:
        """Append a fact; never waits for the database."""

    async def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function on the writing connection, in a transaction of its own."""

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function on a reading connection, which sees one state of the database."""

    async def settle(self, timeout_s: float = 0.1) -> bool:
        """Ask for a commit of all that was put; True when it was done in time."""

    @property
    def lag_ms(self) -> int:
        """How far the books lag behind what was put."""


class Database:
    """A SQLite file with one writing thread and a few readers. Open it with `open`, end it with `close`."""

    def __init__(self, path: Path, lock: file.FileLock, writer: Writer, ids: IdMaker, busy_timeout_ms: int) -> None:
        self.path = path
        self.ids = ids
        self._lock = lock
        self._writer = writer
        self._busy_timeout_ms = busy_timeout_ms
        self._executor = ThreadPoolExecutor(READERS, thread_name_prefix="eggpool-read")
        self._idle_readers: list[sqlite3.Connection] = []
        self._busy_readers: set[sqlite3.Connection] = set()
        self._readers_lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        busy_timeout_ms: int = 5000,
        wal: bool = True,
        synchronous: str = "NORMAL",
        commit_interval_ms: int = 200,
        max_facts: int = MAX_FACTS,
        max_bytes: int = MAX_BYTES,
    ) -> Database:
        """Make or open the file, migrate it, book what a crash left, and start the writer.

        `max_facts` and `max_bytes` bound what waits while the file cannot be written. Raises StoreError with one
        sentence when the file cannot be used or another process writes to it. Blocks for a moment: call it before the
        server answers.
        """
        file.prepare(path)
        lock = file.FileLock(path)
        try:
            conn = file.open_writer(path, busy_timeout_ms=busy_timeout_ms, wal=wal, synchronous=synchronous)
            try:
                ids = _make_ready(conn, path)
            except BaseException:
                conn.close()
                raise
        except BaseException:
            lock.release()
            raise
        writer = Writer(
            conn,
            ids,
            Backlog(max_facts, max_bytes),
            interval_s=commit_interval_ms / 1000,
            busy_timeout_s=busy_timeout_ms / 1000,
        )
        writer.start()
        return cls(path, lock, writer, ids, busy_timeout_ms)

    def put(self, fact: AnyFact) -> None:
        """Append a fact to what the writer commits next; never waits for the file."""
        self._writer.put(fact)

    async def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run `function` on the writing connection, in a transaction of its own, between two commits of facts.

        For upkeep only: it must be short, because facts wait meanwhile. Raises StoreError when the file cannot be
        written.
        """
        results: list[T] = []
        await asyncio.wrap_future(self._writer.run(lambda conn: results.append(function(conn))))
        return results[0]

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run `function` on a read-only connection in a worker thread; it sees one state of the file.

        Raises StoreError when the file cannot be read or the database is closed.
        """
        loop = asyncio.get_running_loop()
        try:
            future = loop.run_in_executor(self._executor, self._read, function)
        except RuntimeError as error:  # the executor has been shut down
            raise StoreError("The database is closed.") from error
        return await future

    def _read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        with self._readers_lock:
            if self._closed:
                raise StoreError("The database is closed.")
            conn = self._idle_readers.pop() if self._idle_readers else None
        if conn is None:
            conn = file.open_reader(self.path, busy_timeout_ms=self._busy_timeout_ms)
        with self._readers_lock:
            self._busy_readers.add(conn)
        reusable = False
        try:
            conn.execute("BEGIN")
            try:
                return function(conn)
            finally:
                conn.execute("ROLLBACK")
                reusable = True
        except sqlite3.Error as error:
            reusable = False
            raise file.broken(self.path, error) from error
        finally:
            with self._readers_lock:
                self._busy_readers.discard(conn)
                if reusable:
                    self._idle_readers.append(conn)
            if not reusable:
                conn.close()

    async def settle(self, timeout_s: float = 0.1) -> bool:
        """Ask the writer to commit what was put so far, and wait at most `timeout_s`; True when it did."""
        future = self._writer.flushed()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout_s)
        except TimeoutError:
            return False

    @property
    def lag_ms(self) -> int:
        """How long the oldest fact that is not in the file yet has waited; 0 when none has."""
        return self._writer.lag_ms()

    def close(self, timeout_s: float = 5.0) -> None:
        """End the readers, write what waits for at most about `timeout_s`, close the file. May be called again.

        Blocks; from the event loop use `aclose`.
        """
        with self._readers_lock:
            if self._closed:
                return
            self._closed = True
            for conn in self._busy_readers:
                conn.interrupt()
        self._executor.shutdown(wait=True)
        # The readers go first: the connection that closes last folds the write-ahead log into the file.
        for conn in self._idle_readers:
            conn.close()
        self._idle_readers.clear()
        if self._writer.close(timeout_s):
            self._lock.release()
        else:
            log.error("the database %s did not answer; what was not written is lost", self.path)

    async def aclose(self, timeout_s: float = 5.0) -> None:
        """`close` in a thread of its own."""
        await asyncio.to_thread(self.close, timeout_s)


def migrate(path: Path, *, busy_timeout_ms: int = 5000, dry_run: bool = False) -> tuple[str, ...]:
    """Apply the pending migrations of a file and return their names; with `dry_run` only name them.

    A dry run changes nothing and makes no file. Raises StoreError like `Database.open`.
    """
    if dry_run and not path.exists():
        return tuple(migration.name for migration in migrations.known())
    if dry_run:
        conn = file.open_reader(path, busy_timeout_ms=busy_timeout_ms)
        try:
            file.is_new(conn, path)
            return tuple(migration.name for migration in migrations.pending(conn))
        except sqlite3.Error as error:
            raise file.broken(path, error) from error
        finally:
            conn.close()
    file.prepare(path)
    lock = file.FileLock(path)
    try:
        conn = file.open_writer(path, busy_timeout_ms=busy_timeout_ms, wal=True, synchronous="NORMAL")
        try:
            return migrations.apply(conn, _now_ms())
        except sqlite3.Error as error:
            raise file.broken(path, error) from error
        finally:
            conn.close()
    finally:
        lock.release()


def _make_ready(conn: sqlite3.Connection, path: Path) -> IdMaker:
    try:
        migrations.apply(conn, _now_ms())
        largest = conn.execute(
            "SELECT MAX(id) FROM (SELECT MAX(id) AS id FROM requests UNION ALL SELECT MAX(id) FROM begun "
            "UNION ALL SELECT MAX(id) FROM events UNION ALL SELECT MAX(id) FROM pings) AS largest"
        ).fetchone()[0]
        ids = IdMaker(largest or 0)
        count = book_interrupted(conn, ids, _now_ms())
    except sqlite3.Error as error:
        raise file.broken(path, error) from error
    if count:
        log.warning("%d requests were running when the server died; they are booked as interrupted", count)
    return ids


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
