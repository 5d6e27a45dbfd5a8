"""The tables' history."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.store.books import rows

from eggpool.errors import StoreError
from eggpool.store.db import Database, migrate
from eggpool.store.migrations import Migration, apply, known, pending, statements

ONE = Migration("001_one.sql", "CREATE TABLE one (id BIGINT);\n")
TWO = Migration("002_two.sql", "-- A comment; with a semicolon\nCREATE TABLE two (\n  id BIGINT -- not null;\n);\n")
BAD = Migration("002_bad.sql", "CREATE TABLE two (id BIGINT);\nINSERT INTO missing VALUES (1);\n")


@pytest.fixture
def conn(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "books.sqlite3", isolation_level=None)
    yield connection
    connection.close()


def tables(conn: sqlite3.Connection) -> set[str]:
    return {str(name) for (name,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_each_is_applied_once_and_recorded(conn: sqlite3.Connection) -> None:
    """A second run has nothing to do; a new file is applied alone."""
    assert apply(conn, 5, [ONE]) == ("001_one.sql",)
    assert apply(conn, 6, [ONE, TWO]) == ("002_two.sql",)
    assert apply(conn, 7, [ONE, TWO]) == ()
    assert tables(conn) == {"schema_migrations", "one", "two"}
    records = conn.execute("SELECT name, checksum, applied_at_ms FROM schema_migrations ORDER BY name").fetchall()
    assert records == [("001_one.sql", ONE.checksum, 5), ("002_two.sql", TWO.checksum, 6)]


def test_one_that_fails_leaves_nothing(conn: sqlite3.Connection) -> None:
    """The tables and the record of a failed migration are undone together; those before it stay."""
    with pytest.raises(StoreError, match=r"002_bad\.sql failed and was undone"):
        apply(conn, 5, [ONE, BAD])
    assert tables(conn) == {"schema_migrations", "one"}
    assert pending(conn, [ONE, TWO]) == (TWO,)


def test_a_changed_file_is_refused(conn: sqlite3.Connection) -> None:
    """What was applied must be what the program has."""
    apply(conn, 5, [ONE])
    with pytest.raises(StoreError, match="another checksum"):
        pending(conn, [Migration(ONE.name, ONE.sql + "CREATE TABLE more (id BIGINT);")])
    assert pending(conn, [Migration(ONE.name, ONE.sql.replace("\n", "\r\n"))]) == ()


def test_a_gap_is_refused(conn: sqlite3.Connection) -> None:
    """A database that has a later file but not an earlier one was not made by any version."""
    apply(conn, 5, [TWO])
    with pytest.raises(StoreError, match=r"lacks 001_one\.sql"):
        pending(conn, [ONE, TWO])


def test_the_files_of_the_package_are_in_order() -> None:
    """Names are numbered from 001 without gaps, and each script splits into whole statements."""
    names = [migration.name for migration in known()]
    assert [name[:3] for name in names] == [f"{number:03}" for number in range(1, len(names) + 1)]
    for migration in known():
        assert all(sqlite3.complete_statement(statement) for statement in statements(migration.sql))


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    """A file that a newer version has migrated is not opened by this one."""
    path = tmp_path / "books.sqlite3"
    Database.open(path).close()
    rows(path, "INSERT INTO schema_migrations VALUES ('999_future.sql', 'x', 1)")
    with pytest.raises(StoreError, match=r"newer version of eggpool \(999_future\.sql\)"):
        Database.open(path)
    with pytest.raises(StoreError, match="newer version"):
        migrate(path, dry_run=True)


def test_the_command_migrates_and_a_dry_run_only_tells(tmp_path: Path) -> None:
    """A dry run names what is pending and makes no file; the real one applies it once."""
    path = tmp_path / "folder" / "books.sqlite3"
    names = tuple(migration.name for migration in known())
    assert migrate(path, dry_run=True) == names
    assert not path.parent.exists()
    assert migrate(path) == names
    assert migrate(path, dry_run=True) == ()
    assert migrate(path) == ()
    Database.open(path).close()
    assert migrate(path, dry_run=True) == ()
