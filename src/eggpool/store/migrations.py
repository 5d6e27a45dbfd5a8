"""The tables' history: the files `schema/NNN_name.sql`, applied in order, each in one transaction with its record.

A file that was applied once must not change: its checksum is kept. A database with a record of a file that this
program does not have belongs to a newer version.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterator, Sequence
from importlib.resources import files

import msgspec

from eggpool.errors import StoreError

RECORDS = "schema_migrations"
_NAME = re.compile(r"^\d{3}_[a-z0-9_]+\.sql$")


class Migration(msgspec.Struct, frozen=True):
    """One step of the schema."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """Of the text, whatever its line ends."""
        return hashlib.sha256("\n".join(self.sql.splitlines()).encode()).hexdigest()


def known() -> tuple[Migration, ...]:
    """The migrations that belong to this program, in order."""
    folder = files("eggpool.store") / "schema"
    found = [entry for entry in folder.iterdir() if _NAME.match(entry.name)]
    return tuple(
        Migration(entry.name, entry.read_text(encoding="utf-8"))
        for entry in sorted(found, key=lambda entry: entry.name)
    )


def pending(conn: sqlite3.Connection, migrations: Sequence[Migration] | None = None) -> tuple[Migration, ...]:
    """What has not been applied yet. Raises StoreError when the database is newer than the program or was changed."""
    have = known() if migrations is None else tuple(migrations)
    applied = _applied(conn)
    by_name = {migration.name: migration for migration in have}
    for name, checksum in applied.items():
        migration = by_name.get(name)
        if migration is None:
            raise StoreError(f"The database was made by a newer version of eggpool ({name}); install that version.")
        if migration.checksum != checksum:
            raise StoreError(
                f"The database was made by a different build of eggpool ({name} has another checksum); "
                "install the build that made it, or start with a new file."
            )
    waiting = tuple(migration for migration in have if migration.name not in applied)
    newest = max(applied, default="")
    if any(migration.name < newest for migration in waiting):
        raise StoreError(f"The database lacks {waiting[0].name} but has {newest}; start with a new file or a backup.")
    return waiting


def apply(conn: sqlite3.Connection, now_ms: int, migrations: Sequence[Migration] | None = None) -> tuple[str, ...]:
    """Apply what is pending and return the names.

    The connection must be in autocommit mode. Raises StoreError as `pending` does, and when a migration fails, which
    leaves the database as it was before that one.
    """
    done = []
    for migration in pending(conn, migrations):
        conn.execute("BEGIN IMMEDIATE")
        try:
            conn.execute(
                f"CREATE TABLE IF NOT EXISTS {RECORDS} "
                "(name TEXT PRIMARY KEY, checksum TEXT NOT NULL, applied_at_ms BIGINT NOT NULL)"
            )
            for statement in statements(migration.sql):
                conn.execute(statement)
            conn.execute(
                f"INSERT INTO {RECORDS} (name, checksum, applied_at_ms) VALUES (?, ?, ?)",  # noqa: S608
                (migration.name, migration.checksum, now_ms),
            )
            conn.execute("COMMIT")
        except sqlite3.Error as error:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            raise StoreError(
                f"The migration {migration.name} failed and was undone ({error}); mend the cause and start again."
            ) from error
        done.append(migration.name)
    return tuple(done)


def statements(script: str) -> Iterator[str]:
    """The single statements of a script in which each one ends at the end of a line."""
    collected: list[str] = []
    for line in script.splitlines():
        if not collected and (not line.strip() or line.lstrip().startswith("--")):
            continue
        collected.append(line)
        text = "\n".join(collected)
        if sqlite3.complete_statement(text):
            yield text
            collected = []
    if collected:
        yield "\n".join(collected)


def _applied(conn: sqlite3.Connection) -> dict[str, str]:
    found = conn.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (RECORDS,)).fetchone()
    if found is None:
        return {}
    return dict(conn.execute(f"SELECT name, checksum FROM {RECORDS} ORDER BY name").fetchall())  # noqa: S608
