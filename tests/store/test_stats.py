"""The read side: what the statistics say about known books."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.store.books import ACCOUNT, NOW, attempt, begun, opened, request, run

from eggpool.domain import AccountLabel, Cost, EventRecord, Exactness, Outcome, Usage
from eggpool.store import stats
from eggpool.store.ledger import Ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "books.sqlite3"


def test_a_summary_of_known_books(path: Path) -> None:
    """Each field counts what its name says, running requests do not count, and the end of the period is outside."""

    async def scenario() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            usage = Usage(100, 40, 10, 0, 20, 5)
            ledger.request(
                request(
                    1,
                    usage=usage,
                    cost=Cost(1500, Exactness.DERIVED),
                    streamed=True,
                    first_byte_us=2000,
                    bytes_received=7,
                    bytes_emitted=9,
                )
            )
            ledger.request(
                request(2, usage=usage, cost=Cost(1000, Exactness.EXACT), total_us=15_000, first_byte_us=4000)
            )
            ledger.request(request(3, usage=Usage(1), account=AccountLabel("beta/x"), client="other"))
            ledger.request(request(4, outcome=Outcome.ERROR, status=502, account=None, total_us=99))
            ledger.request(request(5, outcome=Outcome.CLIENT_ERROR, status=400, account=None))
            ledger.request(request(6, outcome=Outcome.CANCELLED, status=499, cost=Cost(1, Exactness.ESTIMATED)))
            ledger.request(request(7, ended_at_ms=NOW - 1))
            ledger.request(request(8, ended_at_ms=NOW + 10))
            ledger.begun(begun(9))
            assert await database.settle(10)
            found = await database.read(lambda conn: stats.summary(conn, NOW, NOW + 10, period="1h", books_lag_ms=12))
            assert found == stats.Summary(
                period="1h",
                books_lag_ms=12,
                total_requests=6,
                successful_requests=3,
                error_requests=1,
                client_error_requests=1,
                cancelled_requests=1,
                error_rate=1 / 6,
                total_input_tokens=201,
                total_output_tokens=40,
                total_cache_read_tokens=80,
                total_cache_write_tokens=20,
                total_reasoning_tokens=10,
                total_cost_microdollars=3,
                total_cost_nanodollars=2501,
                unpriced_requests=1,
                avg_latency_ms=(5 + 15 + 5) / 3,
                streamed_requests=1,
                non_streamed_requests=5,
                exact_count=1,
                derived_count=1,
                estimated_count=1,
                unknown_count=3,
                total_bytes_received=7,
                total_bytes_emitted=9,
                total_providers=2,
                avg_ttft_ms=3.0,
                p50_ttft_ms=2.0,
                p99_ttft_ms=4.0,
            )
            other = await database.read(lambda conn: stats.summary(conn, NOW, NOW + 10, "other"))
            assert (other.total_requests, other.total_input_tokens) == (1, 1)

    run(scenario())


def test_a_summary_of_nothing(path: Path) -> None:
    """Empty books have zeros, and no averages that look measured."""

    async def scenario() -> None:
        async with opened(path) as database:
            found = await database.read(lambda conn: stats.summary(conn, 0, NOW))
            assert (found.total_requests, found.error_rate, found.total_cost_microdollars) == (0, 0.0, 0)
            assert (found.avg_latency_ms, found.avg_ttft_ms, found.p50_ttft_ms, found.p99_ttft_ms) == (None,) * 4

    run(scenario())


def test_percentiles_are_by_nearest_rank(path: Path) -> None:
    """Of the times 1 to 200 ms the median is 100 and the 99th percentile 198."""

    async def scenario() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            for number in range(1, 201):
                ledger.request(request(number, first_byte_us=((number * 37) % 200 + 1) * 1000))
            assert await database.settle(10)
            found = await database.read(lambda conn: stats.summary(conn, NOW, NOW + 10))
            assert (found.p50_ttft_ms, found.p99_ttft_ms) == (100.0, 198.0)

    run(scenario())


def test_a_summary_uses_the_index_on_the_end(path: Path) -> None:
    """The cost of a summary grows with its period, not with the file."""

    async def scenario() -> None:
        async with opened(path) as database:
            plan = await database.read(
                lambda conn: conn.execute(f"EXPLAIN QUERY PLAN {stats._SUMMARY}", (1, 2, None, None)).fetchall()
            )
            assert any("requests_ended" in str(row) for row in plan)

    run(scenario())


def test_events_newest_first(path: Path) -> None:
    """Events come in the order in which they happened, the newest first, bounded, and of one kind when asked."""

    async def scenario() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            ledger.event(EventRecord(NOW, "account_resting", "first", ACCOUNT))
            ledger.event(EventRecord(NOW + 1, "catalog_failed", "second"))
            ledger.event(EventRecord(NOW + 2, "account_resting", "third", ACCOUNT))
            assert await database.settle(10)
            found = await database.read(lambda conn: stats.events(conn, 10))
            assert [event.details for event in found] == ["third", "second", "first"]
            assert found[0].account_id == "alpha/one"
            assert found[0].account_name == "one"
            assert found[0].created_at == "2023-11-14T22:13:20.002Z"
            assert found[1].account_name is None
            resting = await database.read(lambda conn: stats.events(conn, 1, "account_resting"))
            assert [event.details for event in resting] == ["third"]
            assert await database.read(lambda conn: stats.events(conn, -1)) == ()

    run(scenario())


def test_recent_requests_of_one_client(path: Path) -> None:
    """The newest come first, each with its attempts in order, and another client's are not among them."""

    async def scenario() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            ledger.request(request(1), [attempt(1, 2), attempt(1, 1)])
            ledger.request(request(2, ended_at_ms=NOW + 50), [attempt(2)])
            ledger.request(request(3, client="other"))
            assert await database.settle(10)
            found = await database.read(lambda conn: stats.recent_requests(conn, 10, "default"))
            assert [row.record.id for row in found] == [2, 1]
            assert [record.number for record in found[1].attempts] == [1, 2]
            assert len(await database.read(lambda conn: stats.recent_requests(conn, 1))) == 1

    run(scenario())
