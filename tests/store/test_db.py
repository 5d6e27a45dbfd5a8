"""The database: group commit, patience with a file that cannot be written, readers, and the end."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from tests.store.books import ACCOUNT, NOW, Watch, appears, attempt, begun, locked, opened, request, rows, run

from eggpool.domain import Exactness, Outcome, Usage
from eggpool.errors import StoreError
from eggpool.store import stats
from eggpool.store.db import Database, migrate
from eggpool.store.facts import Fact
from eggpool.store.ledger import Ledger

NEVER = 60_000  # a commit interval that no test lives to see


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "books.sqlite3"


def test_a_fact_is_committed_by_itself(path: Path) -> None:
    """Nobody has to ask: after the commit interval a fact is in the file."""

    async def scenario() -> None:
        async with opened(path, commit_interval_ms=1) as database:
            Ledger(database).request(request(1))
            await appears(path, "SELECT 1 FROM requests")

    run(scenario())


def test_many_facts_share_a_commit(path: Path) -> None:
    """Facts wait for their interval and are written together, so that an SD card sees few commits."""

    async def scenario() -> None:
        async with opened(path, commit_interval_ms=NEVER) as database:
            before = await database.read(lambda conn: conn.execute("PRAGMA data_version").fetchone())
            ledger = Ledger(database)
            for number in range(1, 201):
                ledger.request(request(number), [attempt(number)])
            assert database.lag_ms >= 0
            assert await database.read(lambda conn: conn.execute("SELECT COUNT(*) FROM requests").fetchone()) == (0,)
            assert await database.settle(10)
            after = await database.read(lambda conn: conn.execute("PRAGMA data_version").fetchone())
            assert after[0] == before[0] + 1
            assert database.lag_ms == 0

    run(scenario())
    assert rows(path, "SELECT COUNT(*) FROM requests") == [(200,)]
    assert rows(path, "SELECT COUNT(*) FROM attempts") == [(200,)]


def test_five_hundred_facts_do_not_wait(path: Path) -> None:
    """A full batch is committed before its interval is over."""

    async def scenario() -> None:
        async with opened(path, commit_interval_ms=NEVER) as database:
            ledger = Ledger(database)
            for number in range(1, 501):
                ledger.request(request(number))
                if number % 100 == 1:
                    await database.read(lambda conn: None)  # gives the writer time to lie down until its interval ends
            await appears(path, "SELECT 1 FROM requests")

    run(scenario())


def test_a_request_that_ends_in_the_same_commit_is_never_marked_as_begun(path: Path) -> None:
    """The row that says that a request has begun is only written when a commit comes before its end."""
    Database.open(path).close()
    rows(path, "CREATE TRIGGER seen AFTER INSERT ON begun BEGIN INSERT INTO state VALUES (NEW.id, 'begun', 0); END")

    async def scenario() -> None:
        async with opened(path, commit_interval_ms=NEVER) as database:
            ledger = Ledger(database)
            ledger.begun(begun(1))
            ledger.begun(begun(2))
            ledger.request(request(1))
            assert await database.settle(10)
            assert rows(path, "SELECT id FROM begun") == [(2,)]
            ledger.request(request(2))
            assert await database.settle(10)

    run(scenario())
    assert rows(path, "SELECT key FROM state") == [("2",)]
    assert rows(path, "SELECT id FROM begun") == []
    assert rows(path, "SELECT id FROM requests ORDER BY id") == [(1,), (2,)]


def test_a_request_that_goes_on_is_marked_by_itself(path: Path) -> None:
    """Nobody has to ask: the begin of a lone request is in the file after the commit interval."""

    async def scenario() -> None:
        async with opened(path, commit_interval_ms=20) as database:
            ledger = Ledger(database)
            for number in range(1, 4):
                ledger.begun(begun(number))
                await appears(path, f"SELECT 1 FROM begun WHERE id = {number}")  # noqa: S608

    run(scenario())


def test_a_begin_that_is_written_late_does_not_outlive_its_request(path: Path) -> None:
    """A request that ends while its begin waits for a locked file leaves no row that says that it runs."""

    async def scenario() -> None:
        async with opened(path, busy_timeout_ms=10, commit_interval_ms=1) as database:
            ledger = Ledger(database)
            with Watch("cannot be written") as watch, locked(path):
                ledger.begun(begun(1))
                await watch.wait()
                ledger.request(request(1))
            assert await database.settle(10)
            assert await database.settle(10)
        assert rows(path, "SELECT id FROM begun") == []
        assert rows(path, "SELECT id FROM requests") == [(1,)]

    run(scenario())


def test_an_end_that_is_refused_leaves_the_begin(path: Path) -> None:
    """A request whose end cannot be stored is not forgotten: the next start finds that it had begun."""

    async def scenario() -> None:
        async with opened(path, commit_interval_ms=NEVER) as database:
            ledger = Ledger(database)
            ledger.begun(begun(1))
            ledger.begun(begun(2))
            assert await database.settle(10)
            ledger.request(request(1, client=None))
            ledger.request(request(2))
            assert await database.settle(10)
            assert rows(path, "SELECT id FROM begun") == [(1,)]
            assert rows(path, "SELECT id FROM requests") == [(2,)]

    run(scenario())


def test_what_a_crash_left_is_booked_at_the_next_start(path: Path, tmp_path: Path) -> None:
    """A request without an end becomes an interrupted one with its reserved cost as an estimate, and one event."""
    copy = tmp_path / "copy.sqlite3"

    async def crash() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            ledger.begun(begun(1, reserved=700))
            ledger.begun(begun(2))
            ledger.begun(begun(3))
            assert await database.settle(10)
            ledger.request(request(3))
            assert await database.settle(10)
            for end in ("", "-wal"):
                shutil.copy(f"{path}{end}", f"{copy}{end}")

    async def restart() -> None:
        async with opened(copy) as database:
            found = await database.read(lambda conn: stats.recent_requests(conn, 10))
            interrupted = {row.record.id: row.record for row in found if row.record.outcome is Outcome.INTERRUPTED}
            assert set(interrupted) == {1, 2}
            assert interrupted[1].cost.nanodollars == 700
            assert interrupted[1].cost.exactness is Exactness.ESTIMATED
            assert interrupted[1].account == ACCOUNT
            assert interrupted[2].cost.exactness is Exactness.UNKNOWN
            assert interrupted[1].ended_at_ms > NOW
            events = await database.read(lambda conn: stats.events(conn, 10))
            assert [event.event_type for event in events] == ["requests_interrupted"]
            assert events[0].details.startswith("2 requests")
        assert rows(copy, "SELECT COUNT(*) FROM begun") == [(0,)]

    run(crash())
    run(restart())
    run(restart())


def test_a_locked_file_delays_the_books_only(path: Path) -> None:
    """While another program holds the file nothing fails; afterwards every fact is there, and people were told once."""

    async def scenario() -> None:
        async with opened(path, busy_timeout_ms=10, commit_interval_ms=1) as database:
            ledger = Ledger(database)
            with Watch("cannot be written") as watch:
                with locked(path):
                    for number in range(1, 51):
                        ledger.request(request(number), [attempt(number)])
                    await watch.wait()
                    assert not await database.settle(0.3)  # several tries
                    assert database.lag_ms > 0
                    # Pages go on, with what was known before.
                    assert (await database.read(lambda conn: stats.summary(conn, 0, 2 * NOW))).total_requests == 0
                assert await database.settle(10)
                assert await database.settle(10)  # the event about the end is a fact of its own
            assert (await database.read(lambda conn: stats.summary(conn, 0, 2 * NOW))).total_requests == 50
            events = await database.read(lambda conn: stats.events(conn, 10))
            assert [event.event_type for event in events] == ["books_caught_up", "books_delayed"]
            assert sum("cannot be written" in line for line in watch.lines) == 1

    run(scenario())


def test_two_times_of_trouble_are_told_twice(path: Path) -> None:
    """A file that is locked again is news again."""

    async def scenario() -> None:
        async with opened(path, busy_timeout_ms=10, commit_interval_ms=1) as database:
            ledger = Ledger(database)
            for number in (1, 2):
                with Watch("cannot be written") as watch, locked(path):
                    ledger.request(request(number))
                    await watch.wait()
                assert await database.settle(10)
                assert await database.settle(10)
        kinds = [kind for (kind,) in rows(path, "SELECT kind FROM events ORDER BY id")]
        assert kinds == ["books_delayed", "books_caught_up"] * 2

    run(scenario())


def test_a_bad_fact_does_not_hold_up_the_others(path: Path) -> None:
    """A fact that breaks a constraint or cannot be stored is dropped, counted and named without its content."""

    async def scenario() -> None:
        async with opened(path, commit_interval_ms=NEVER) as database:
            ledger = Ledger(database)
            ledger.request(request(1))
            database.put(Fact("broken", (("INSERT INTO requests (id, client) VALUES (?, ?)", (9, "content")),), 1))
            database.put(Fact("too large", (("INSERT INTO state VALUES (?, ?, ?)", ("content", "", 2**70)),), 1))
            ledger.request(request(2), [attempt(2)])
            with Watch("refused") as watch:
                assert await database.settle(10)
                await watch.wait()
                assert await database.settle(10)
            assert "2 facts" in watch.lines[0]
            assert "content" not in "".join(watch.lines)
            events = await database.read(lambda conn: stats.events(conn, 10))
            assert [event.event_type for event in events] == ["books_facts_refused"]
            assert "content" not in events[0].details
        assert rows(path, "SELECT id FROM requests ORDER BY id") == [(1,), (2,)]
        assert rows(path, "SELECT request_id FROM attempts") == [(2,)]

    run(scenario())


def test_all_of_a_fact_or_nothing(path: Path) -> None:
    """When one statement of a fact is refused, the others of that fact leave nothing."""

    async def scenario() -> None:
        async with opened(path, commit_interval_ms=NEVER) as database:
            good = ("INSERT INTO state VALUES (?, ?, ?)", ("key", "value", 1))
            bad = ("INSERT INTO state VALUES (?, ?, ?)", ("other", None, 1))
            database.put(Fact("half", (good, bad), 1))
            assert await database.settle(10)
        assert rows(path, "SELECT key FROM state") == []

    run(scenario())


def test_what_is_too_much_is_summed_up(path: Path) -> None:
    """Beyond half of the bound attempts go, then requests are counted instead of kept, and one event tells the sums."""

    async def scenario() -> None:
        async with opened(path, busy_timeout_ms=10, commit_interval_ms=1, max_facts=20) as database:
            ledger = Ledger(database)
            with Watch("cannot be written") as watch, locked(path):
                ledger.request(request(1))
                await watch.wait()
                for number in range(2, 102):
                    usage = Usage(input_tokens=10, output_tokens=1)
                    ledger.request(request(number, usage=usage), [attempt(number)])
                assert database.lag_ms > 0
            assert await database.settle(10)
            assert await database.settle(10)
            kept = await database.read(lambda conn: stats.summary(conn, 0, 2 * NOW))
            lost = await database.read(lambda conn: stats.events(conn, 10, "books_facts_lost"))
            assert 15 <= kept.total_requests <= 21
            missing = 101 - kept.total_requests
            assert len(lost) == 1
            assert f"{missing} requests with {missing * 10} input tokens, {missing} output tokens" in lost[0].details
        assert 8 <= int(rows(path, "SELECT COUNT(*) FROM attempts")[0][0]) <= 11

    run(scenario())


def test_closing_writes_what_waits(path: Path) -> None:
    """Nothing that was put before the end is missing, and closing again does nothing."""
    database = Database.open(path, commit_interval_ms=NEVER)
    ledger = Ledger(database)
    for number in range(1, 1301):
        ledger.request(request(number), [attempt(number)])
    database.close()
    database.close()
    assert rows(path, "SELECT COUNT(*) FROM requests") == [(1300,)]
    assert rows(path, "SELECT COUNT(*) FROM attempts") == [(1300,)]
    assert not path.with_name(path.name + "-wal").exists()


def test_closing_is_bounded(path: Path) -> None:
    """A file that stays locked does not keep the server from ending; the log says what was lost."""
    database = Database.open(path, busy_timeout_ms=10)
    with Watch("among them 2 requests") as watch, locked(path):
        Ledger(database).request(request(1))
        Ledger(database).request(request(2), [attempt(2)])
        database.close(timeout_s=0.1)
        assert watch.seen.is_set(), watch.lines
    Ledger(database).request(request(3))
    Database.open(path).close()


def test_a_closed_database_says_so(path: Path) -> None:
    """Reading and upkeep after the end are refused in one sentence, and a settlement is not claimed."""

    async def scenario() -> None:
        database = Database.open(path)
        await database.aclose()
        with pytest.raises(StoreError, match="closed"):
            await database.read(lambda conn: None)
        with pytest.raises(StoreError, match="closed"):
            await database.write(lambda conn: None)
        assert await database.settle(1)

    run(scenario())


def test_a_read_sees_one_state(path: Path) -> None:
    """Two questions in one read have answers that fit together, whatever is committed in between."""

    async def scenario() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            first, go = threading.Event(), threading.Event()

            def ask(conn: sqlite3.Connection) -> tuple[int, int]:
                before = stats.summary(conn, 0, 2 * NOW).total_requests
                first.set()
                assert go.wait(10)
                return before, stats.summary(conn, 0, 2 * NOW).total_requests

            async def commit() -> None:
                await asyncio.to_thread(first.wait, 10)
                ledger.request(request(1))
                assert await database.settle(10)
                go.set()

            answers, _ = await asyncio.gather(database.read(ask), commit())
            assert answers == (0, 0)
            assert (await database.read(lambda conn: stats.summary(conn, 0, 2 * NOW))).total_requests == 1

    run(scenario())


def test_readers_cannot_write(path: Path) -> None:
    """A page cannot change the books, and an error of its SQL comes out as ours."""

    async def scenario() -> None:
        async with opened(path) as database:
            with pytest.raises(StoreError, match="cannot be used"):
                await database.read(lambda conn: conn.execute("DELETE FROM requests"))
            with pytest.raises(ZeroDivisionError):
                await database.read(lambda conn: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                await database.write(lambda conn: 1 // 0)
            assert await database.read(lambda conn: 7) == 7

    run(scenario())


def test_upkeep_that_fails_leaves_nothing(path: Path) -> None:
    """A function on the writing connection is one transaction, and its mistakes do not end the writer."""

    async def scenario() -> None:
        async with opened(path) as database:

            def half(conn: sqlite3.Connection) -> None:
                conn.execute("INSERT INTO state VALUES ('key', 'value', 1)")
                conn.execute("no such statement")

            with pytest.raises(StoreError):
                await database.write(half)
            assert await database.read(lambda conn: conn.execute("SELECT * FROM state").fetchall()) == []
            Ledger(database).request(request(1))
            assert await database.settle(10)

    run(scenario())


def test_only_one_process_writes(path: Path) -> None:
    """A second server with the same file is told in one sentence; after the first has ended it can start."""
    first = Database.open(path)
    with pytest.raises(StoreError, match="Another eggpool process writes to"):
        Database.open(path)
    with pytest.raises(StoreError, match="Another eggpool process writes to"):
        migrate(path)
    first.close()
    Database.open(path).close()


def test_nobody_else_can_read_the_file(path: Path) -> None:
    """Folder and file are made for their owner only, and deleted rows can give their space back."""
    Database.open(path).close()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert rows(path, "PRAGMA auto_vacuum") == [(2,)]
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]


def test_without_a_write_ahead_log(path: Path) -> None:
    """`wal = false` is honoured, on an existing file too."""

    async def scenario() -> None:
        async with opened(path, wal=False, synchronous="FULL") as database:
            Ledger(database).request(request(1))
            assert await database.settle(10)
            assert (await database.read(lambda conn: stats.summary(conn, 0, 2 * NOW))).total_requests == 1

    Database.open(path).close()
    run(scenario())
    assert rows(path, "PRAGMA journal_mode") == [("delete",)]


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    """A path below a file is refused in one sentence."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(StoreError, match="cannot be made for the database"):
        Database.open(blocker / "folder" / "books.sqlite3")
    with pytest.raises(StoreError, match="cannot be opened for writing"):
        Database.open(tmp_path)


def test_a_file_that_is_no_database(path: Path) -> None:
    """Something else under that name is left as it is."""
    path.parent.mkdir()
    path.write_text("shopping list")
    with pytest.raises(StoreError, match="not a SQLite database"):
        Database.open(path)
    assert path.read_text() == "shopping list"


def test_a_damaged_file(path: Path) -> None:
    """A database whose inside is garbage is refused with advice."""
    Database.open(path).close()
    content = bytearray(path.read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"is damaged .* restore a backup"):
        Database.open(path)


def test_a_database_of_the_versions_before(path: Path) -> None:
    """The reference system's file is left alone, and the sentence says what can be done."""
    path.parent.mkdir()
    rows(path, "CREATE TABLE _migrations (version INTEGER PRIMARY KEY, name TEXT, applied_at TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="cannot take its history over yet; move the file away or set"):
        Database.open(path)
    assert path.read_bytes() == before


def test_a_database_of_another_program(path: Path) -> None:
    """Tables that are not ours are left alone."""
    path.parent.mkdir()
    rows(path, "CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(StoreError, match="another program"):
        Database.open(path)


def test_a_file_that_is_locked_at_the_start(path: Path) -> None:
    """The start does not wait for ever for another program."""
    Database.open(path).close()
    with locked(path), pytest.raises(StoreError, match="is locked by another program"):
        Database.open(path, busy_timeout_ms=10)
    Database.open(path).close()


def test_a_request_is_kept_though_a_try_cannot_be(path: Path) -> None:
    """What cannot be written of a try takes nothing away from its request."""

    async def scenario() -> None:
        async with opened(path) as database:
            Ledger(database).request(request(1), [attempt(2**70)])
            assert await database.settle(10)
        assert rows(path, "SELECT id FROM requests") == [(1,)]
        assert rows(path, "SELECT COUNT(*) FROM attempts") == [(0,)]

    run(scenario())
