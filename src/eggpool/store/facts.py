"""What is written into the books: each record of the domain as statements with their values.

Only values live here: no connection, no clock, no thread. A statement must not depend on another statement of the
same commit, because the writer sorts them by their text. The SQL is the subset that SQLite and PostgreSQL share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

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


class Fact(msgspec.Struct, frozen=True):
    """Something to be written, all of it or nothing.

    `begins` and `ends` are request ids: a fact that begins a request need not be written when its end goes into the
    same commit. `size` is an estimate in bytes. Facts that are not `essential` are the first to go when the file
    cannot be written for long.
    """

    kind: str
    steps: tuple[Step, ...]
    size: int
    essential: bool = True
    begins: int | None = None
    ends: int | None = None
    tally: Tally | None = None


def _upsert(table: str, key: tuple[str, ...], columns: tuple[str, ...], update: bool) -> str:
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns if column not in key)
    action = f"UPDATE SET {changes}" if update else "NOTHING"
    marks = ", ".join("?" * len(columns))
    # Table and column names are the literals below, never input.
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) ON CONFLICT ({', '.join(key)}) DO {action}"  # noqa: S608


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


def _text(value: str) -> str:
    """The text as the database can store it: a lone surrogate, which clients do send, becomes a question mark."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def _text_or_none(value: str | None) -> str | None:
    return None if value is None else _text(value)


class _Clamp:
    """Keeps measures within their bounds and remembers whether it had to."""

    def __init__(self) -> None:
        self.used = 0

    def __call__(self, value: int) -> int:
        if 0 <= value <= MEASURE_MAX:
            return value
        self.used = 1
        return 0 if value < 0 else MEASURE_MAX

    def optional(self, value: int | None) -> int | None:
        return None if value is None else self(value)


def begun(record: RequestBegun) -> Fact:
    """An account was taken for a request; a second one for the same request replaces the first."""
    clamp = _Clamp()
    row: Row = (
        record.id,
        _text(record.client),
        _text(record.account),
        _text(record.model),
        record.dialect.value,
        int(record.streamed),
        clamp(record.started_at_ms),
        clamp(record.reserved_nanodollars),
    )
    return Fact("begun", ((UPSERT_BEGUN, row),), ROW_BYTES, begins=record.id)


def request_row(record: RequestRecord, price_id: int | None) -> Row:
    """The values of `REQUEST_COLUMNS`. Measures beyond all reason are clamped, and the row says so."""
    clamp = _Clamp()
    usage = record.usage
    row: Row = (
        record.id,
        _text(record.client),
        _text(record.client_address),
        record.dialect.value,
        _text(record.path),
        _text(record.model_asked),
        int(record.streamed),
        record.outcome.value,
        clamp(record.status),
        clamp(record.started_at_ms),
        clamp(record.ended_at_ms),
        clamp(record.total_us),
        clamp(record.attempts),
        _text_or_none(record.account),
        None if record.account is None else _text(provider_of(record.account)),
        _text_or_none(record.model_served),
        None if record.upstream_dialect is None else record.upstream_dialect.value,
        _text_or_none(record.error_class),
        clamp(usage.input_tokens),
        clamp(usage.cache_read_tokens),
        clamp(usage.cache_write_tokens),
        clamp(usage.cache_write_1h_tokens),
        clamp(usage.output_tokens),
        clamp(usage.reasoning_tokens),
        clamp.optional(usage.cost_nanodollars),
        record.usage_source.value,
        clamp.optional(record.cost.nanodollars),
        record.cost.exactness.value,
        clamp(record.reserved_nanodollars),
        price_id,
        clamp.optional(record.queue_us),
        clamp.optional(record.connect_us),
        clamp.optional(record.first_byte_us),
        clamp.optional(record.first_event_us),
        clamp(record.bytes_received),
        clamp(record.bytes_emitted),
        _text_or_none(record.upstream_request_id),
        _text_or_none(record.decision),
    )
    return (*row, clamp.used)


def request(record: RequestRecord, price_id: int | None) -> Fact:
    """A request has ended; the row that said it had begun goes away in the same transaction."""
    row = request_row(record, price_id)
    values = dict(zip(REQUEST_COLUMNS, row, strict=True))
    tally = Tally(
        1,
        int(values["input_tokens"] or 0),
        int(values["output_tokens"] or 0),
        int(values["cost_nanodollars"] or 0),
    )
    return Fact(
        "request",
        ((INSERT_REQUEST, row), (DELETE_BEGUN, (record.id,))),
        2 * ROW_BYTES + len(record.decision or ""),
        ends=record.id,
        tally=tally,
    )


def attempts(records: Sequence[AttemptRecord]) -> Fact:
    """The tries that a request took."""
    clamp = _Clamp()
    rows: list[Row] = [
        (
            record.request_id,
            record.number,
            _text(record.account),
            _text(record.model),
            record.dialect.value,
            clamp(record.started_at_ms),
            clamp.optional(record.status),
            _text_or_none(record.error_class),
            _text_or_none(record.error_detail),
            _text_or_none(record.scope),
            clamp.optional(record.rest_ms),
            clamp.optional(record.connect_us),
            clamp.optional(record.first_byte_us),
            clamp.optional(record.total_us),
            _text_or_none(record.upstream_request_id),
            clamp(record.bytes_received),
        )
        for record in records
    ]
    size = sum(ROW_BYTES + len(record.error_detail or "") for record in records)
    return Fact("attempts", tuple((INSERT_ATTEMPT, row) for row in rows), size, essential=False)


def event(event_id: int, record: EventRecord) -> Fact:
    """Something that a person may want to know."""
    row: Row = (
        event_id,
        _Clamp()(record.at_ms),
        _text(record.kind),
        _text(record.detail),
        _text_or_none(record.account),
    )
    return Fact("event", ((INSERT_EVENT, row),), ROW_BYTES + len(record.detail))


def ping(ping_id: int, record: PingRecord) -> Fact:
    """One fetch of a model list."""
    clamp = _Clamp()
    row: Row = (
        ping_id,
        _text(record.account),
        clamp(record.at_ms),
        clamp(record.latency_us),
        clamp.optional(record.status),
        clamp.optional(record.model_count),
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
        ((UPSERT_MODEL_LIST, (_text(account), text, _Clamp()(fetched_at_ms))),),
        ROW_BYTES + len(text),
    )


def price_id_of(provider: str, model: str, price: Price) -> int:
    """The id of a price: the same for the same content, in every process and on every node."""
    content = msgspec.json.encode((_text(provider), _text(model), price))
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1


def price(provider: str, model: str, price: Price, at_ms: int) -> Fact:
    """A price that holds from `at_ms` on; one that was seen before only has its last time moved."""
    at = _Clamp()(at_ms)
    text = msgspec.json.encode(price).decode()
    row: Row = (price_id_of(provider, model, price), _text(provider), _text(model), text, at, at)
    return Fact("price", ((UPSERT_PRICE, row),), ROW_BYTES)


def state(key: str, value: str | None, at_ms: int) -> Fact:
    """A value that outlives a restart. None is written as an empty text, which readers leave out: a statement of its
    own could be carried out before the one that it should follow."""
    return Fact("state", ((UPSERT_STATE, (_text(key), _text(value or ""), at_ms)),), ROW_BYTES + len(value or ""))
