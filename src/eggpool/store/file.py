"""The SQLite file: who may write it, whether it is ours, and how a connection to it is opened.

Everything that can be wrong with a file before the first fact is told from here, each in one sentence.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from eggpool.errors import StoreError
from eggpool.store import migrations

APPLICATION_ID = 0x45676750  # "EggP"
_MAGIC = b"SQLite format 3\x00"
_SYNCHRONOUS = frozenset({"OFF", "NORMAL", "FULL", "EXTRA"})

log = logging.getLogger(__name__)


class FileLock:
    """Held by the one process that writes: an exclusive lock on `<path>.lock`, which ends with the process."""

    def __init__(self, path: Path) -> None:
        """Raises StoreError when another process holds it or the folder cannot be written."""
        self.path = path.with_name(path.name + ".lock")
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"The lock file {self.path} cannot be opened: {error.strerror}.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise StoreError(
                f"Another eggpool process writes to {path}; stop it, or give this one a [database] path of its own."
            ) from error
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let another process write. The file stays: removing it would let two processes hold two locks."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def prepare(path: Path) -> None:
    """Make the folder (0700) and the file (0600) where they are missing.

    Raises StoreError when that cannot be done, or when the file is something other than a SQLite database.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"The folder {path.parent} cannot be made for the database: {error.strerror}.") from error
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"The database {path} cannot be opened for writing: {error.strerror}.") from error
    try:
        head = os.read(descriptor, len(_MAGIC))
    except OSError as error:
        raise StoreError(f"The database {path} cannot be read: {error.strerror}.") from error
    finally:
        os.close(descriptor)
    if head not in (b"", _MAGIC):
        raise StoreError(f"{path} is not a SQLite database; move it away, or choose another [database] path.")


def open_writer(path: Path, *, busy_timeout_ms: int, wal: bool, synchronous: str) -> sqlite3.Connection:
    """The one connection that writes, in autocommit mode, on a file that `prepare` has seen and the lock protects.

    Raises StoreError when the file is not ours, corrupt or locked.
    """
    if synchronous not in _SYNCHRONOUS:
        raise StoreError(f"[database] synchronous cannot be {synchronous!r}.")
    conn = sqlite3.connect(
        path, timeout=busy_timeout_ms / 1000, isolation_level=None, check_same_thread=False, cached_statements=64
    )
    try:
        if is_new(conn, path):
            # Both only take before the first table.
            conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
            conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        mode = conn.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}").fetchone()[0]
        if wal and mode != "wal":
            log.warning("the file system of %s does not support a write-ahead log; pages may wait for writes", path)
        conn.execute(f"PRAGMA synchronous = {synchronous}")
        conn.execute("PRAGMA journal_size_limit = 16777216")
    except sqlite3.Error as error:
        conn.close()
        raise broken(path, error) from error
    except BaseException:
        conn.close()
        raise
    return conn


def open_reader(path: Path, *, busy_timeout_ms: int) -> sqlite3.Connection:
    """A connection that cannot change anything, in autocommit mode. Raises StoreError."""
    try:
        conn = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode=ro",
            uri=True,
            timeout=busy_timeout_ms / 1000,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise broken(path, error) from error
    try:
        conn.execute("PRAGMA query_only = ON")
    except sqlite3.Error as error:
        conn.close()
        raise broken(path, error) from error
    return conn


def is_new(conn: sqlite3.Connection, path: Path) -> bool:
    """Whether the file has no tables yet. Raises StoreError when it has somebody else's."""
    tables = {str(row[0]) for row in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return True
    if migrations.RECORDS in tables and conn.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID:
        return False
    if "_migrations" in tables:
        raise StoreError(
            f"{path} is the database of an eggpool before 1.0 and is left as it is. This version cannot take its "
            "history over yet; move the file away or set [database] path."
        )
    raise StoreError(f"{path} is another program's database; choose another [database] path.")


def broken(path: Path, error: sqlite3.Error) -> StoreError:
    """What an error of SQLite means for the person who runs the server."""
    text = str(error)
    if "locked" in text or "busy" in text:
        return StoreError(f"The database {path} is locked by another program; close that program and try again.")
    if "malformed" in text or "not a database" in text:
        return StoreError(f"The database {path} is damaged ({text}); restore a backup, or move it away to start anew.")
    return StoreError(f"The database {path} cannot be used: {text}.")
