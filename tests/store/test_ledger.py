"""The write side: what is put in comes out again, and what is old goes away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.store.books import ACCOUNT, NOW, attempt, begun, opened, request, rows, run

from eggpool.domain import (
    AccountLabel,
    AttemptRecord,
    Cost,
    Dialect,
    EventRecord,
    Exactness,
    Limits,
    ListedModel,
    Outcome,
    PingRecord,
    Price,
    RequestBegun,
    RequestRecord,
    Usage,
    UsageSource,
)
from eggpool.store import stats
from eggpool.store.facts import MEASURE_MAX
from eggpool.store.ledger import DAY_MS, Ledger, Trimmed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "books.sqlite3"


measures = st.integers(0, MEASURE_MAX)
words = st.text(st.characters(codec="utf-8"), max_size=12)
maybe_words = st.none() | words
maybe_measures = st.none() | measures
labels = st.builds(lambda provider, name: AccountLabel(f"{provider}/{name}"), words, words)
prices = st.builds(Price, maybe_measures, maybe_measures, source=st.sampled_from(["config", "provider"]))
requests = st.builds(
    RequestRecord,
    id=st.just(1),
    client=words,
    client_address=words,
    path=words,
    model_asked=words,
    status=st.integers(100, 599),
    started_at_ms=measures,
    ended_at_ms=measures,
    total_us=measures,
    attempts=st.integers(0, 9),
    account=st.none() | labels,
    model_served=maybe_words,
    error_class=maybe_words,
    usage=st.builds(Usage, *[measures] * 6, maybe_measures),
    cost=st.builds(Cost, maybe_measures, st.sampled_from(Exactness)),
    price=st.none() | prices,
    reserved_nanodollars=measures,
    queue_us=maybe_measures,
    connect_us=maybe_measures,
    first_byte_us=maybe_measures,
    first_event_us=maybe_measures,
    bytes_received=measures,
    bytes_emitted=measures,
    upstream_request_id=maybe_words,
    decision=maybe_words,
)
tries = st.lists(
    st.builds(
        AttemptRecord,
        request_id=st.just(1),
        number=st.integers(1, 99),
        account=labels,
        model=words,
        started_at_ms=measures,
        status=st.none() | st.integers(100, 599),
        error_class=maybe_words,
        error_detail=maybe_words,
        scope=maybe_words,
        rest_ms=maybe_measures,
        connect_us=maybe_measures,
        first_byte_us=maybe_measures,
        total_us=maybe_measures,
        upstream_request_id=maybe_words,
        bytes_received=measures,
    ),
    max_size=3,
    unique_by=lambda record: record.number,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(record=requests, attempts=tries)
def test_a_request_comes_out_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory, record: RequestRecord, attempts: list[AttemptRecord]
) -> None:
    """Every field of a request, its attempts and its price survive the books."""

    async def scenario() -> None:
        async with opened(tmp_path_factory.mktemp("books") / "books.sqlite3") as database:
            Ledger(database).request(record, attempts)
            assert await database.settle(10)
            (row,) = await database.read(lambda conn: stats.recent_requests(conn, 5))
            assert row.record == record
            assert row.attempts == tuple(sorted(attempts, key=lambda attempt: attempt.number))
            assert not row.clamped

    run(scenario())


def test_absurd_numbers_are_clamped_and_marked(path: Path) -> None:
    """What a provider reports beyond all reason neither breaks the books nor the sums over them."""

    async def scenario() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            usage = Usage(input_tokens=2**80, output_tokens=-5, cost_nanodollars=2**70)
            ledger.request(request(1, usage=usage, cost=Cost(2**70, Exactness.EXACT)))
            ledger.request(request(2))
            ledger.begun(RequestBegun(3, "c", ACCOUNT, "m", Dialect.CHAT, False, 2**70, 2**70))
            assert await database.settle(10)
            second, first = await database.read(lambda conn: stats.recent_requests(conn, 5))
            assert first.clamped
            assert first.record.usage.input_tokens == MEASURE_MAX
            assert first.record.usage.output_tokens == 0
            assert first.record.cost.nanodollars == MEASURE_MAX
            assert not second.clamped
            assert await database.read(lambda conn: stats.events(conn, 5)) == ()

    run(scenario())


def test_text_that_cannot_be_stored_is_mended(path: Path) -> None:
    """A lone surrogate, which clients do send in a model name, costs one character and not the whole fact."""

    async def scenario() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            ledger.request(request(1, model_asked="a\ud800b"), [attempt(1, error_detail="\udfff")])
            ledger.model_list(ACCOUNT, [ListedModel("x\ud800", "y\ud800")], NOW)
            ledger.event(EventRecord(NOW, "kind", "\ud800"))
            ledger.state("\ud800", "\ud800")
            ledger.price("p", "\ud800", Price(1, 2), NOW)
            assert await database.settle(10)
            (row,) = await database.read(lambda conn: stats.recent_requests(conn, 5))
            assert row.record.model_asked == "a?b"
            assert row.attempts[0].error_detail == "?"
            (event,) = await database.read(lambda conn: stats.events(conn, 5))
            assert event.details == "?"
            assert (await ledger.load_model_lists())[ACCOUNT].models[0].id == "x?"
            assert await ledger.load_state() == {"?": "?"}

    run(scenario())


TEXTS_OF_A_REQUEST = (
    "client",
    "client_address",
    "path",
    "model_asked",
    "account",
    "model_served",
    "error_class",
    "upstream_request_id",
    "decision",
)


@pytest.mark.parametrize("field", TEXTS_OF_A_REQUEST)
def test_no_text_of_a_request_costs_the_request(path: Path, field: str) -> None:
    """Whichever text holds a lone surrogate, the request is booked with it mended, and so are its neighbours."""

    async def scenario() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            for number in range(1, 101):
                ledger.request(request(number), [attempt(number)])
            ledger.request(request(101, **{field: "a\ud800/b"}), [attempt(101)])
            assert await database.settle(10)
            assert rows(path, f"SELECT {field} FROM requests WHERE id = 101") == [("a?/b",)]  # noqa: S608
            assert rows(path, "SELECT COUNT(*) FROM requests") == [(101,)]
            assert rows(path, "SELECT COUNT(*) FROM attempts") == [(101,)]
            assert await database.read(lambda conn: stats.events(conn, 5)) == ()

    run(scenario())


@pytest.mark.parametrize("field", ["account", "model", "error_class", "error_detail", "scope", "upstream_request_id"])
def test_no_text_of_an_attempt_costs_the_attempt(path: Path, field: str) -> None:
    """Whichever text holds a lone surrogate, the attempt and the begin of its request are booked with it mended."""

    async def scenario() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            ledger.request(request(1), [msgspec.structs.replace(attempt(1), **{field: "\udcff"})])
            ledger.begun(RequestBegun(2, "\ud800", AccountLabel("\ud800"), "\ud800", Dialect.CHAT, True, NOW))
            assert await database.settle(10)
            assert rows(path, f"SELECT {field} FROM attempts") == [("?",)]  # noqa: S608
            assert rows(path, "SELECT client, account, model FROM begun") == [("?", "?", "?")]
            assert await database.read(lambda conn: stats.events(conn, 5)) == ()

    run(scenario())


def test_many_requests_come_out_as_they_went_in(path: Path) -> None:
    """Rows that share a statement do not mix, whatever their number, and a second one of an id changes nothing."""

    async def scenario() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            expected = [
                (request(number, model_asked=f"m{number}", status=number), [attempt(number, 1), attempt(number, 2)])
                for number in range(1, 211)
            ]
            for record, attempts in expected:
                ledger.request(record, attempts)
                ledger.request(request(record.id, model_asked="again"))
            assert await database.settle(10)
            found = await database.read(lambda conn: stats.recent_requests(conn, 500))
            assert sorted((row.record.id, row.record.model_asked, row.record.status) for row in found) == [
                (record.id, record.model_asked, record.status) for record, _ in expected
            ]
            assert all([tried.number for tried in row.attempts] == [1, 2] for row in found)
            assert all(tried.request_id == row.record.id for row in found for tried in row.attempts)

    run(scenario())


def test_every_measure_is_clamped(path: Path) -> None:
    """No single number of a request or an attempt can be beyond the bounds, and a clamped request says so."""
    usage = [field.name for field in msgspec.structs.fields(Usage)]
    absurd: list[dict[str, Any]] = [
        *({"usage": Usage(**{name: value})} for name in usage for value in (MEASURE_MAX + 1, 2**90, -1)),
        *(
            {name: value}
            for name in ("status", "ended_at_ms", "total_us", "attempts", "reserved_nanodollars", "queue_us")
            for value in (MEASURE_MAX + 1, 2**90, -1)
        ),
        *({name: -(2**70)} for name in ("connect_us", "first_byte_us", "first_event_us", "bytes_received")),
        {"cost": Cost(2**90, Exactness.EXACT)},
        {"bytes_emitted": 2**64},
        {"started_at_ms": 2**63},
    ]

    async def scenario() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            for number, changes in enumerate(absurd, start=1):
                ledger.request(request(number, **changes), [attempt(number, rest_ms=2**90, bytes_received=-1)])
            assert await database.settle(10)
            found = await database.read(lambda conn: stats.recent_requests(conn, 500))
            assert len(found) == len(absurd)
            assert all(row.clamped for row in found)
            assert rows(path, "SELECT DISTINCT rest_ms, bytes_received FROM attempts") == [(MEASURE_MAX, 0)]
            assert await database.read(lambda conn: stats.events(conn, 5)) == ()

    run(scenario())


def test_a_second_account_replaces_the_first_begun(path: Path) -> None:
    """After a failover the row that says that a request runs names the account that has it now."""

    async def scenario() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            ledger.begun(begun(1, reserved=5))
            assert await database.settle(10)
            ledger.begun(RequestBegun(1, "default", AccountLabel("beta/two"), "m2", Dialect.CHAT, True, NOW, 9))
            assert await database.settle(10)
            assert rows(path, "SELECT account, model, reserved_nanodollars FROM begun") == [("beta/two", "m2", 9)]

    run(scenario())


def test_model_lists_and_state_outlive_a_restart(path: Path) -> None:
    """The last good list of each account and the last value of each key are there at the next start."""
    models = (
        ListedModel("m", "M", 5, Limits(1000, None, 10), frozenset({Dialect.CHAT, Dialect.MESSAGES}), Price(1, 2)),
        ListedModel("n"),
    )

    async def write() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            ledger.model_list(ACCOUNT, [ListedModel("old")], NOW)
            ledger.model_list(ACCOUNT, models, NOW + 1)
            ledger.state("rest:a", "one")
            ledger.state("rest:b", "two")
            ledger.state("rest:a", "three")
            ledger.state("rest:b", None)

    async def read() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            lists = await ledger.load_model_lists()
            assert lists[ACCOUNT].models == models
            assert lists[ACCOUNT].fetched_at_ms == NOW + 1
            assert await ledger.load_state() == {"rest:a": "three"}
            rows(path, "UPDATE model_lists SET models = '[{\"nonsense\": 1}]'")
            assert await ledger.load_model_lists() == {}

    run(write())
    run(read())


def test_a_price_is_written_when_it_changes(path: Path) -> None:
    """The same price has one row, however often it is told, and a request points to the one it was priced with."""

    async def scenario() -> None:
        async with opened(path) as database:
            first, second = Price(1, 2, source="config"), Price(3, 4, source="config")
            ledger = Ledger(database)
            old = ledger.price("alpha", "m", first, NOW)
            assert ledger.price("alpha", "m", first, NOW + 1) == old
            ledger.request(request(1, price=second))
            assert Ledger(database).price("alpha", "m", first, NOW + 9) == old
            assert ledger.price("beta", "m", first, NOW) != old
            assert await database.settle(10)
            found = rows(
                path, "SELECT provider, price, first_at_ms, last_at_ms FROM prices ORDER BY provider, last_at_ms"
            )
            assert len(found) == 3
            assert [(row[0], row[2], row[3]) for row in found] == [
                ("alpha", NOW + 5, NOW + 5),
                ("alpha", NOW, NOW + 9),
                ("beta", NOW, NOW),
            ]
            (row,) = await database.read(lambda conn: stats.recent_requests(conn, 5))
            assert row.record.price == second

    run(scenario())


def test_ids_go_on_after_a_restart_with_a_wrong_clock(path: Path) -> None:
    """The next id is larger than everything in the file, even when the machine believes that it is 1970."""

    async def scenario() -> int:
        async with opened(path) as database:
            ledger = Ledger(database)
            made = ledger.new_id(5)
            assert made < ledger.new_id(NOW)
            ledger.event(EventRecord(NOW, "kind", "detail"))
            assert await database.settle(10)
            return made

    async def again() -> int:
        async with opened(path) as database:
            return Ledger(database).new_id(5)

    run(scenario())
    largest = rows(path, "SELECT MAX(id) FROM events")[0][0]
    assert run(again()) > largest


def test_what_is_old_goes_in_small_steps(path: Path) -> None:
    """Retention takes requests with their attempts, events and pings by their own ages, and the file shrinks."""
    day = 86_400_000

    async def scenario() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            for number in range(3000):
                at = NOW - 40 * day if number else NOW
                request_id = ledger.new_id(at) if number else 2**62
                ledger.request(request(request_id, ended_at_ms=at, decision="x" * 500), [attempt(request_id)])
                ledger.ping(PingRecord(ACCOUNT, at, 5, 200, 3))
                ledger.event(EventRecord(at, "kind", "detail"))
            assert await database.settle(10)
            pages = rows(path, "PRAGMA page_count")[0][0]
            assert await ledger.trim(NOW, 30, 90, 7) == Trimmed(requests=2999, pings=2999)
            assert await ledger.trim(NOW, 30, 30, 7) == Trimmed(events=2999)
            assert rows(path, "SELECT COUNT(*) FROM requests") == [(1,)]
            assert rows(path, "SELECT COUNT(*) FROM attempts") == [(1,)]
            assert rows(path, "SELECT COUNT(*) FROM pings") == [(1,)]
            assert rows(path, "SELECT COUNT(*) FROM events") == [(1,)]
            assert rows(path, "PRAGMA page_count")[0][0] < pages / 2
            assert await ledger.trim(NOW, 30, 90, 7) == Trimmed()

    run(scenario())
    assert day == DAY_MS


def test_prices_that_nothing_points_to_go_too(path: Path) -> None:
    """An old price stays as long as a request was priced with it, and one that comes back is written again."""

    async def scenario() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            used, unused = Price(1, 2), Price(3, 4)
            ledger.price("alpha", "m", used, NOW - 40 * DAY_MS)
            ledger.request(request(2**62, price=used))
            ledger.price("beta", "m", unused, NOW - 40 * DAY_MS)
            assert await ledger.trim(NOW, 30, 90, 7) == Trimmed(prices=1)
            assert rows(path, "SELECT provider FROM prices") == [("alpha",)]
            ledger.price("beta", "m", unused, NOW)
            assert await database.settle(10)
            assert rows(path, "SELECT provider FROM prices ORDER BY provider") == [("alpha",), ("beta",)]

    run(scenario())


def test_attempts_without_a_request_go_too(path: Path) -> None:
    """Attempts whose request was never written do not stay for ever."""

    async def scenario() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            stray = ledger.new_id(NOW - 40 * DAY_MS)
            ledger.request(request(2**62), [attempt(stray), attempt(2**62)])
            assert await database.settle(10)
            assert await ledger.trim(NOW, 30, 90, 7) == Trimmed(attempts=1)
            assert rows(path, "SELECT request_id FROM attempts") == [(2**62,)]

    run(scenario())


def test_a_request_is_booked_once(path: Path) -> None:
    """A second fact with the same id changes nothing, so money is never counted twice."""

    async def scenario() -> None:
        async with opened(path) as database:
            ledger = Ledger(database)
            ledger.request(request(1, cost=Cost(5, Exactness.DERIVED), usage_source=UsageSource.REPORTED))
            ledger.request(request(1, cost=Cost(9, Exactness.DERIVED), outcome=Outcome.ERROR))
            assert await database.settle(10)
            (row,) = await database.read(lambda conn: stats.recent_requests(conn, 5))
            assert row.record.cost.nanodollars == 5

    run(scenario())
