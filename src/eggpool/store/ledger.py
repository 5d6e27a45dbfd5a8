"""The write side of the books: one function for each fact, what a restart reads back, and retention.

A function that books a fact never waits, and never fails for what the fact contains.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from eggpool.domain import (
    AccountLabel,
    AttemptRecord,
    EventRecord,
    ListedModel,
    PingRecord,
    Price,
    RequestBegun,
    RequestRecord,
    provider_of,
)
from eggpool.store import facts
from eggpool.store.db import Books
from eggpool.store.ids import first_id_at
from eggpool.store.spending import Spent, spent_since

DAY_MS = 86_400_000
TRIM_BATCH = 500  # rows deleted in one transaction: facts wait only for milliseconds
TRIM_PAGES = 256  # free pages given back in one transaction
MAX_PRICES = 20_000  # remembered so that a price is written only when it changes


class ModelList(msgspec.Struct, frozen=True):
    """The last good list of an account."""

    account: AccountLabel
    models: tuple[ListedModel, ...]
    fetched_at_ms: int


class Trimmed(msgspec.Struct, frozen=True):
    """How many rows a trim took away."""

    requests: int = 0
    attempts: int = 0
    events: int = 0
    pings: int = 0
    prices: int = 0


class Ledger:
    """Writes facts into the books."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._prices: dict[tuple[str, str], tuple[Price, int]] = {}

    def new_id(self, now_ms: int) -> int:
        """A unique id of 63 bits for something that happens at `now_ms`; ids only grow, whatever the clock does."""
        return self._books.ids.next(now_ms)

    def begun(self, record: RequestBegun) -> None:
        """An account was taken for a request. A crash from here on leaves a trace of it."""
        self._books.put(facts.Begun(record))

    def request(self, record: RequestRecord, attempts: Sequence[AttemptRecord] = ()) -> None:
        """A request has ended, after these attempts."""
        price_id = None
        if record.price is not None:
            provider = "" if record.account is None else provider_of(record.account)
            model = record.model_served or record.model_asked
            price_id = self.price(provider, model, record.price, record.ended_at_ms)
        self._books.put(facts.request(record, price_id, attempts))

    def event(self, record: EventRecord) -> None:
        """Something that a person may want to know about."""
        self._books.put(facts.event(self.new_id(record.at_ms), record))

    def ping(self, record: PingRecord) -> None:
        """One fetch of a model list, good or bad."""
        self._books.put(facts.ping(self.new_id(record.at_ms), record))

    def model_list(self, account: AccountLabel, models: Sequence[ListedModel], fetched_at_ms: int) -> None:
        """The last good list of an account, from which a restart serves."""
        self._books.put(facts.model_list(account, models, fetched_at_ms))

    def price(self, provider: str, model: str, price: Price, at_ms: int) -> int:
        """The price of a model at a provider; written only when it has changed. Returns its id."""
        known = self._prices.get((provider, model))
        if known is not None and (known[0] is price or known[0] == price):
            return known[1]
        if len(self._prices) >= MAX_PRICES:
            self._prices.clear()
        price_id = facts.price_id_of(provider, model, price)
        self._prices[provider, model] = (price, price_id)
        self._books.put(facts.price(provider, model, price, at_ms))
        return price_id

    def state(self, key: str, value: str | None) -> None:
        """Keep a text over a restart under a key, such as a rest; None forgets it."""
        self._books.put(facts.state(key, value, time.time_ns() // 1_000_000))

    async def load_model_lists(self) -> Mapping[AccountLabel, ModelList]:
        """The last good list of each account. One that cannot be read any more is left out."""
        return await self._books.read(_model_lists)

    async def spent_since(self, ended_after_ms: int) -> list[Spent]:
        """What accounts have spent in requests that ended after that instant, oldest first."""
        return await self._books.read(lambda conn: spent_since(conn, ended_after_ms))

    async def load_state(self) -> Mapping[str, str]:
        """What `state` has kept."""
        return await self._books.read(_state)

    async def trim(self, now_ms: int, request_days: int, event_days: int, ping_days: int) -> Trimmed:
        """Delete what is older than that many days, in small steps, and give the space back.

        Raises StoreError when the file cannot be written; the next call goes on where this one ended.
        """
        requests_before = now_ms - request_days * DAY_MS
        # Attempts whose request was never written go by the time in their id, with a day for requests that run long.
        strays_before = first_id_at(requests_before - DAY_MS)
        trimmed = Trimmed(
            requests=await self._repeat(lambda conn: _trim_requests(conn, requests_before)),
            attempts=await self._repeat(lambda conn: _trim_attempts(conn, strays_before)),
            events=await self._repeat(lambda conn: _trim_events(conn, now_ms - event_days * DAY_MS)),
            pings=await self._repeat(lambda conn: _trim_pings(conn, now_ms - ping_days * DAY_MS)),
            prices=await self._trim_prices(requests_before),
        )
        await self._repeat(_trim_state)
        while await self._books.write(_give_back_pages):
            pass
        return trimmed

    async def _trim_prices(self, before_ms: int) -> int:
        """Prices of old that no request points to. What is still in use is written anew before the next request that
        points to it, because it is forgotten here; what waits to be written is written first."""
        self._prices.clear()
        if not await self._books.settle(1.0):
            return 0
        return await self._repeat(lambda conn: _trim_prices(conn, before_ms))

    async def _repeat(self, step: Callable[[sqlite3.Connection], int]) -> int:
        total = 0
        while True:
            count = await self._books.write(step)
            total += count
            if count < TRIM_BATCH:
                return total


def _model_lists(conn: sqlite3.Connection) -> dict[AccountLabel, ModelList]:
    lists = {}
    for account, text, fetched_at_ms in conn.execute("SELECT account, models, fetched_at_ms FROM model_lists"):
        try:
            models = msgspec.json.decode(text, type=tuple[ListedModel, ...])
        except msgspec.DecodeError:
            continue  # of another version; the next fetch replaces it
        lists[AccountLabel(account)] = ModelList(AccountLabel(account), models, fetched_at_ms)
    return lists


def _state(conn: sqlite3.Connection) -> dict[str, str]:
    return dict(conn.execute("SELECT key, value FROM state WHERE value <> ''").fetchall())


def _trim_requests(conn: sqlite3.Connection, before_ms: int) -> int:
    rows = conn.execute(
        "SELECT id FROM requests WHERE ended_at_ms < ? ORDER BY ended_at_ms LIMIT ?", (before_ms, TRIM_BATCH)
    ).fetchall()
    conn.executemany("DELETE FROM attempts WHERE request_id = ?", rows)
    conn.executemany("DELETE FROM requests WHERE id = ?", rows)
    return len(rows)


def _trim_attempts(conn: sqlite3.Connection, before_id: int) -> int:
    rows = conn.execute(
        "SELECT request_id, number FROM attempts WHERE request_id < ? ORDER BY request_id LIMIT ?",
        (before_id, TRIM_BATCH),
    ).fetchall()
    conn.executemany("DELETE FROM attempts WHERE request_id = ? AND number = ?", rows)
    return len(rows)


def _trim_events(conn: sqlite3.Connection, before_ms: int) -> int:
    rows = conn.execute(
        "SELECT id FROM events WHERE at_ms < ? ORDER BY at_ms LIMIT ?", (before_ms, TRIM_BATCH)
    ).fetchall()
    conn.executemany("DELETE FROM events WHERE id = ?", rows)
    return len(rows)


def _trim_pings(conn: sqlite3.Connection, before_ms: int) -> int:
    rows = conn.execute(
        "SELECT id FROM pings WHERE at_ms < ? ORDER BY at_ms LIMIT ?", (before_ms, TRIM_BATCH)
    ).fetchall()
    conn.executemany("DELETE FROM pings WHERE id = ?", rows)
    return len(rows)


def _trim_prices(conn: sqlite3.Connection, before_ms: int) -> int:
    rows = conn.execute(
        "SELECT id FROM prices WHERE last_at_ms < ? "
        "AND id NOT IN (SELECT price_id FROM requests WHERE price_id IS NOT NULL) LIMIT ?",
        (before_ms, TRIM_BATCH),
    ).fetchall()
    conn.executemany("DELETE FROM prices WHERE id = ?", rows)
    return len(rows)


def _trim_state(conn: sqlite3.Connection) -> int:
    rows = conn.execute("SELECT key FROM state WHERE value = '' LIMIT ?", (TRIM_BATCH,)).fetchall()
    conn.executemany("DELETE FROM state WHERE key = ?", rows)
    return len(rows)


def _give_back_pages(conn: sqlite3.Connection) -> bool:
    """Whether there are more."""
    free = int(conn.execute("PRAGMA freelist_count").fetchone()[0])
    conn.execute(f"PRAGMA incremental_vacuum({TRIM_PAGES})").fetchall()
    return int(conn.execute("PRAGMA freelist_count").fetchone()[0]) < free and free > TRIM_PAGES
