"""What is written into the books: each record of the domain as statements with their values.

Only values live here: no connection, no clock, no thread. A statement must not depend on another statement of the
same commit, because the writer sorts them by their text. The SQL is the subset that SQLite and PostgreSQL share.

What every request leaves only carries its records until the writer asks for the statements: the event loop, which
books it, has no time for rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import ClassVar, TypeAlias

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

SqlValue = str | int | None
Row = tuple[SqlValue, ...]
Step = tuple[str, Row]

MEASURE_MAX = 2**44 - 1
"""More than any one request can count in tokens, bytes, microseconds or nanodollars (17,592 dollars, 203 days);
half a million such rows still add up within 63 bits."""

ROW_BYTES = 600  # about what a row costs in memory, apart from texts that can be long


class Tally(msgspec.Struct, frozen=True):
    """What is left of request facts that could not be kept one by one."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nanodollars: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cost_nanodollars + other.cost_nanodollars,
        )


class Fact(msgspec.Struct, frozen=True, gc=False):
    """Something to be written, all of it or nothing.

    `size` is an estimate in bytes. Facts that are not `essential` are the first to go when the file cannot be written
    for long.
    """

    kind: str
    steps: tuple[Step, ...]
    size: int
    essential: bool = True


class Begun(msgspec.Struct, frozen=True, gc=False):
    """An account was taken for a request; a second one for the same request replaces the first.

    Need not be written when the request ends before that, so it has no size in the queue.
    """

    record: RequestBegun
    kind: ClassVar[str] = "begun"
    size: ClassVar[int] = 0
    essential: ClassVar[bool] = True

    @property
    def steps(self) -> tuple[Step, ...]:
        """The row that a crash leaves."""
        return ((UPSERT_BEGUN, begun_row(self.record)),)


class Ended(msgspec.Struct, frozen=True, gc=False):
    """A request has ended, after these tries. The row that said it had begun, if there is one, goes away in the same
    transaction; `price_id` is that of the price that the cost was computed with."""

    record: RequestRecord
    price_id: int | None
    tries: tuple[AttemptRecord, ...]
    size: int
    kind: ClassVar[str] = "request"
    essential: ClassVar[bool] = True

    @property
    def steps(self) -> tuple[Step, ...]:
        """The request's row, and one for each try."""
        return ((INSERT_REQUEST, request_row(self.record, self.price_id)), *self.try_steps())

    def try_steps(self) -> list[Step]:
        """The rows of the tries."""
        return [(INSERT_ATTEMPT, attempt_row(record)) for record in self.tries]

    def without_tries(self) -> Ended:
        """What of it is essential."""
        return request(self.record, self.price_id, ())

    def tally(self) -> Tally:
        """What remains of it when it cannot be kept."""
        usage, cost = self.record.usage, self.record.cost
        return Tally(1, _clamp(usage.input_tokens), _clamp(usage.output_tokens), _clamp(cost.nanodollars or 0))


AnyFact: TypeAlias = Fact | Begun | Ended


def _upsert(table: str, key: tuple[str, ...], columns: tuple[str, ...], update: bool, rows: int = 1) -> str:
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns if column not in key)
    action = f"UPDATE SET {changes}" if update else "NOTHING"
    marks = ", ".join([f"({', '.join('?' * len(columns))})"] * rows)
    # Table and column names are the literals below, never input.
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {marks} ON CONFLICT ({', '.join(key)}) DO {action}"  # noqa: S608


REQUEST_COLUMNS = (
    "id",
    "client",
    "client_address",
    "dialect",
    "path",
    "model_asked",
    "streamed",
    "outcome",
    "status",
    "started_at_ms",
    "ended_at_ms",
    "total_us",
    "attempts",
    "account",
    "provider",
    "model_served",
    "upstream_dialect",
    "error_class",
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "reported_nanodollars",
    "usage_source",
    "cost_nanodollars",
    "exactness",
    "reserved_nanodollars",
    "price_id",
    "queue_us",
    "connect_us",
    "first_byte_us",
    "first_event_us",
    "bytes_received",
    "bytes_emitted",
    "upstream_request_id",
    "decision",
    "clamped",
)
ATTEMPT_COLUMNS = (
    "request_id",
    "number",
    "account",
    "model",
    "dialect",
    "started_at_ms",
    "status",
    "error_class",
    "error_detail",
    "scope",
    "rest_ms",
    "connect_us",
    "first_byte_us",
    "total_us",
    "upstream_request_id",
    "bytes_received",
)
BEGUN_COLUMNS = (
    "id",
    "client",
    "account",
    "model",
    "dialect",
    "streamed",
    "started_at_ms",
    "reserved_nanodollars",
)

INSERT_REQUEST = _upsert("requests", ("id",), REQUEST_COLUMNS, update=False)
INSERT_ATTEMPT = _upsert("attempts", ("request_id", "number"), ATTEMPT_COLUMNS, update=False)
UPSERT_BEGUN = _upsert("begun", ("id",), BEGUN_COLUMNS, update=True)
DELETE_BEGUN = "DELETE FROM begun WHERE id = ?"
INSERT_EVENT = "INSERT INTO events (id, at_ms, kind, detail, account) VALUES (?, ?, ?, ?, ?)"
INSERT_PING = (
    "INSERT INTO pings (id, account, at_ms, latency_us, status, model_count, error) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
UPSERT_MODEL_LIST = _upsert("model_lists", ("account",), ("account", "models", "fetched_at_ms"), update=True)
UPSERT_PRICE = (
    "INSERT INTO prices (id, provider, model, price, first_at_ms, last_at_ms) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET last_at_ms = excluded.last_at_ms"
)
UPSERT_STATE = _upsert("state", ("key",), ("key", "value", "updated_at_ms"), update=True)

MAX_VALUES = 999  # in one statement; every SQLite takes as many
_REQUESTS_AT_ONCE = MAX_VALUES // len(REQUEST_COLUMNS)
_ATTEMPTS_AT_ONCE = MAX_VALUES // len(ATTEMPT_COLUMNS)

WIDE: Mapping[str, tuple[int, str]] = {
    INSERT_REQUEST: (
        _REQUESTS_AT_ONCE,
        _upsert("requests", ("id",), REQUEST_COLUMNS, update=False, rows=_REQUESTS_AT_ONCE),
    ),
    INSERT_ATTEMPT: (
        _ATTEMPTS_AT_ONCE,
        _upsert("attempts", ("request_id", "number"), ATTEMPT_COLUMNS, update=False, rows=_ATTEMPTS_AT_ONCE),
    ),
}
"""The same statement for so many rows at once: what every request leaves is written with fewer steps."""


_Measures: TypeAlias = Callable[[Row], Iterable[int | None]]


def _places(columns: tuple[str, ...], measures: tuple[str, ...]) -> _Measures:
    return itemgetter(*(columns.index(column) for column in measures))


_REQUEST_MEASURES = (
    "status",
    "started_at_ms",
    "ended_at_ms",
    "total_us",
    "attempts",
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "reported_nanodollars",
    "cost_nanodollars",
    "reserved_nanodollars",
    "queue_us",
    "connect_us",
    "first_byte_us",
    "first_event_us",
    "bytes_received",
    "bytes_emitted",
)
_ATTEMPT_MEASURES = ("started_at_ms", "status", "rest_ms", "connect_us", "first_byte_us", "total_us", "bytes_received")
_measures_of_request = _places(REQUEST_COLUMNS, _REQUEST_MEASURES)
_measures_of_attempt = _places(ATTEMPT_COLUMNS, _ATTEMPT_MEASURES)


def _text(value: str) -> str:
    """The text as the database can store it: a lone surrogate becomes a question mark."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def _text_or_none(value: str | None) -> str | None:
    return None if value is None else _text(value)


def mended(row: Row) -> Row:
    """The row with texts that the database can store.

    Texts of the rows that every request leaves are only looked at when the database has refused one: they come out of
    strict decoders. What a provider may have put into a header or an error is mended at once.
    """
    return tuple(_text(value) if isinstance(value, str) else value for value in row)


def _clamp(value: int) -> int:
    return min(max(value, 0), MEASURE_MAX)


def _are_sound(measures: Iterable[int | None]) -> bool:
    """Whether none of them needs to be clamped. The largest measure is all ones, so the bits of all of them together
    are within it exactly when each of them is."""
    bits = 0
    for measure in measures:
        if measure:
            bits |= measure
    return 0 <= bits <= MEASURE_MAX


def _clamped(row: Row, columns: tuple[str, ...], measures: tuple[str, ...]) -> Row:
    return tuple(
        _clamp(value) if column in measures and isinstance(value, int) else value
        for column, value in zip(columns, row, strict=True)
    )


def begun_row(record: RequestBegun) -> Row:
    """The values of `BEGUN_COLUMNS`."""
    return (
        record.id,
        record.client,
        record.account,
        record.model,
        str(record.dialect),
        int(record.streamed),
        _clamp(record.started_at_ms),
        _clamp(record.reserved_nanodollars),
    )


def request_row(record: RequestRecord, price_id: int | None) -> Row:
    """The values of `REQUEST_COLUMNS`. Measures beyond all reason are clamped, and the row says so."""
    usage = record.usage
    row: Row = (
        record.id,
        record.client,
        record.client_address,
        str(record.dialect),
        record.path,
        record.model_asked,
        int(record.streamed),
        str(record.outcome),
        record.status,
        record.started_at_ms,
        record.ended_at_ms,
        record.total_us,
        record.attempts,
        record.account,
        None if record.account is None else provider_of(record.account),
        record.model_served,
        None if record.upstream_dialect is None else str(record.upstream_dialect),
        record.error_class,
        usage.input_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        usage.cost_nanodollars,
        str(record.usage_source),
        record.cost.nanodollars,
        str(record.cost.exactness),
        record.reserved_nanodollars,
        price_id,
        record.queue_us,
        record.connect_us,
        record.first_byte_us,
        record.first_event_us,
        record.bytes_received,
        record.bytes_emitted,
        _text_or_none(record.upstream_request_id),
        record.decision,
        0,
    )
    if _are_sound(_measures_of_request(row)):
        return row
    return (*_clamped(row, REQUEST_COLUMNS, _REQUEST_MEASURES)[:-1], 1)


def attempt_row(record: AttemptRecord) -> Row:
    """The values of `ATTEMPT_COLUMNS`, clamped like those of a request."""
    row: Row = (
        record.request_id,
        record.number,
        record.account,
        record.model,
        str(record.dialect),
        record.started_at_ms,
        record.status,
        record.error_class,
        _text_or_none(record.error_detail),
        record.scope,
        record.rest_ms,
        record.connect_us,
        record.first_byte_us,
        record.total_us,
        _text_or_none(record.upstream_request_id),
        record.bytes_received,
    )
    if _are_sound(_measures_of_attempt(row)):
        return row
    return _clamped(row, ATTEMPT_COLUMNS, _ATTEMPT_MEASURES)


def request(record: RequestRecord, price_id: int | None, tries: Sequence[AttemptRecord]) -> Ended:
    """A request has ended, after these tries; `price_id` is that of the price it was computed with."""
    size = 2 * ROW_BYTES + len(record.decision or "")
    for one in tries:
        size += ROW_BYTES + len(one.error_detail or "")
    return Ended(record, price_id, tuple(tries), size)


def begun_gone(request_id: int) -> Step:
    """Takes the row away that said that a request has begun."""
    return DELETE_BEGUN, (request_id,)


def event(event_id: int, record: EventRecord) -> Fact:
    """Something that a person may want to know."""
    row: Row = (
        event_id,
        _clamp(record.at_ms),
        _text(record.kind),
        _text(record.detail),
        _text_or_none(record.account),
    )
    return Fact("event", ((INSERT_EVENT, row),), ROW_BYTES + len(record.detail))


def ping(ping_id: int, record: PingRecord) -> Fact:
    """One fetch of a model list."""
    row: Row = (
        ping_id,
        _text(record.account),
        _clamp(record.at_ms),
        _clamp(record.latency_us),
        None if record.status is None else _clamp(record.status),
        None if record.model_count is None else _clamp(record.model_count),
        _text_or_none(record.error),
    )
    return Fact("ping", ((INSERT_PING, row),), ROW_BYTES, essential=False)


def model_list(account: AccountLabel, models: Sequence[ListedModel], fetched_at_ms: int) -> Fact:
    """The last good list of an account, in place of the one before."""
    text = msgspec.json.encode(
        [
            msgspec.structs.replace(model, id=_text(model.id), display_name=_text_or_none(model.display_name))
            for model in models
        ]
    ).decode()
    return Fact(
        "model_list",
        ((UPSERT_MODEL_LIST, (_text(account), text, _clamp(fetched_at_ms))),),
        ROW_BYTES + len(text),
    )


def price_id_of(provider: str, model: str, price: Price) -> int:
    """The id of a price: the same for the same content, in every process and on every node."""
    content = msgspec.json.encode((_text(provider), _text(model), price))
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1


def price(provider: str, model: str, price: Price, at_ms: int) -> Fact:
    """A price that holds from `at_ms` on; one that was seen before only has its last time moved."""
    at = _clamp(at_ms)
    text = msgspec.json.encode(price).decode()
    row: Row = (price_id_of(provider, model, price), _text(provider), _text(model), text, at, at)
    return Fact("price", ((UPSERT_PRICE, row),), ROW_BYTES)


def state(key: str, value: str | None, at_ms: int) -> Fact:
    """A value that outlives a restart. None is written as an empty text, which readers leave out: a statement of its
    own could be carried out before the one that it should follow."""
    return Fact("state", ((UPSERT_STATE, (_text(key), _text(value or ""), at_ms)),), ROW_BYTES + len(value or ""))
