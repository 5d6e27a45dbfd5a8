"""The read side of the books: one typed function for each table or chart that is shown.

Each takes a connection whose transaction sees one state of the file, and returns plain values.
"""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta

import msgspec

from eggpool.domain import (
    AttemptRecord,
    Price,
    RequestRecord,
)
from eggpool.store.facts import ATTEMPT_COLUMNS, REQUEST_COLUMNS

MAX_ROWS = 1000  # the most that a list gives at once


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """All requests of a period, in the field names of the statistics endpoint. Times are milliseconds."""

    period: str
    books_lag_ms: int
    total_requests: int
    successful_requests: int
    error_requests: int
    client_error_requests: int
    cancelled_requests: int
    error_rate: float
    total_input_tokens: int
    total_output_tokens: int
    total_cache_read_tokens: int
    total_cache_write_tokens: int
    total_reasoning_tokens: int
    total_cost_microdollars: int
    total_cost_nanodollars: int
    unpriced_requests: int
    avg_latency_ms: float | None
    streamed_requests: int
    non_streamed_requests: int
    exact_count: int
    derived_count: int
    estimated_count: int
    unknown_count: int
    total_bytes_received: int
    total_bytes_emitted: int
    total_providers: int
    avg_ttft_ms: float | None
    p50_ttft_ms: float | None
    p99_ttft_ms: float | None
    refused_at_the_door: int = 0  # since the server began; they leave no rows


class EventRow(msgspec.Struct, frozen=True):
    """One event, in the field names of the events endpoint. The id is text: JavaScript would round it."""

    id: str
    account_id: str | None
    account_name: str | None
    event_type: str
    details: str
    created_at: str  # ISO 8601, UTC
    at_ms: int


class RequestRow(msgspec.Struct, frozen=True):
    """One request with its attempts. `clamped` when the provider told numbers beyond all reason."""

    record: RequestRecord
    attempts: tuple[AttemptRecord, ...]
    clamped: bool


_SUMMARY = """
SELECT
    COUNT(*) AS total_requests,
    COALESCE(SUM(CASE WHEN outcome = 'completed' THEN 1 ELSE 0 END), 0) AS successful_requests,
    COALESCE(SUM(CASE WHEN outcome IN ('error', 'interrupted') THEN 1 ELSE 0 END), 0) AS error_requests,
    COALESCE(SUM(CASE WHEN outcome = 'client_error' THEN 1 ELSE 0 END), 0) AS client_error_requests,
    COALESCE(SUM(CASE WHEN outcome = 'cancelled' THEN 1 ELSE 0 END), 0) AS cancelled_requests,
    COALESCE(SUM(input_tokens), 0) AS total_input_tokens,
    COALESCE(SUM(output_tokens), 0) AS total_output_tokens,
    COALESCE(SUM(cache_read_tokens), 0) AS total_cache_read_tokens,
    COALESCE(SUM(cache_write_tokens), 0) AS total_cache_write_tokens,
    COALESCE(SUM(reasoning_tokens), 0) AS total_reasoning_tokens,
    COALESCE(SUM(cost_nanodollars), 0) AS total_cost_nanodollars,
    COALESCE(SUM(CASE WHEN exactness = 'unknown' AND input_tokens + output_tokens > 0 THEN 1 ELSE 0 END), 0)
        AS unpriced_requests,
    AVG(CASE WHEN outcome = 'completed' THEN total_us END) / 1000.0 AS avg_latency_ms,
    COALESCE(SUM(streamed), 0) AS streamed_requests,
    COALESCE(SUM(1 - streamed), 0) AS non_streamed_requests,
    COALESCE(SUM(CASE WHEN exactness = 'exact' THEN 1 ELSE 0 END), 0) AS exact_count,
    COALESCE(SUM(CASE WHEN exactness = 'derived' THEN 1 ELSE 0 END), 0) AS derived_count,
    COALESCE(SUM(CASE WHEN exactness = 'estimated' THEN 1 ELSE 0 END), 0) AS estimated_count,
    COALESCE(SUM(CASE WHEN exactness = 'unknown' THEN 1 ELSE 0 END), 0) AS unknown_count,
    COALESCE(SUM(bytes_received), 0) AS total_bytes_received,
    COALESCE(SUM(bytes_emitted), 0) AS total_bytes_emitted,
    COUNT(DISTINCT provider) AS total_providers,
    AVG(first_byte_us) / 1000.0 AS avg_ttft_ms,
    COUNT(first_byte_us) AS first_bytes
FROM requests WHERE ended_at_ms >= ? AND ended_at_ms < ? AND (? IS NULL OR client = ?)
"""

_RANKED_FIRST_BYTE = """
SELECT first_byte_us FROM requests
WHERE ended_at_ms >= ? AND ended_at_ms < ? AND (? IS NULL OR client = ?) AND first_byte_us IS NOT NULL
ORDER BY first_byte_us LIMIT 1 OFFSET ?
"""


def summary(
    conn: sqlite3.Connection,
    since_ms: int,
    until_ms: int,
    client: str | None = None,
    *,
    period: str = "",
    books_lag_ms: int = 0,
    refused_at_the_door: int = 0,
) -> Summary:
    """Everything that ended in the period, of one client or of all; running requests do not count.

    `successful` are the completed ones, `error` the failed and the interrupted; `error_rate` is their share of all,
    from 0 to 1. Latency is of completed requests; the time to the first byte is of all that got one, its percentiles
    by nearest rank. `unpriced_requests` had tokens but no price. What is not in the books, `period`,
    `books_lag_ms` and `refused_at_the_door`, is passed on.

    The cost is a scan of the rows of the period by the index on their end, plus a sort for each percentile. Roll-ups
    by hour will replace the scan.
    """
    where = (since_ms, until_ms, client, client)
    cursor = conn.execute(_SUMMARY, where)
    names = [column[0] for column in cursor.description]
    values = dict(zip(names, cursor.fetchone(), strict=True))
    first_bytes = values.pop("first_bytes")
    total = values["total_requests"]

    def percentile(percent: int) -> float | None:
        if not first_bytes:
            return None
        rank = (first_bytes * percent + 99) // 100 - 1
        return float(conn.execute(_RANKED_FIRST_BYTE, (*where, rank)).fetchone()[0]) / 1000

    return Summary(
        period=period,
        books_lag_ms=books_lag_ms,
        refused_at_the_door=refused_at_the_door,
        error_rate=values["error_requests"] / total if total else 0.0,
        total_cost_microdollars=(values["total_cost_nanodollars"] + 500) // 1000,
        p50_ttft_ms=percentile(50),
        p99_ttft_ms=percentile(99),
        **values,
    )


def events(conn: sqlite3.Connection, limit: int, kind: str | None = None) -> tuple[EventRow, ...]:
    """The newest events first, of one kind or of all; at most `MAX_ROWS`."""
    condition, values = ("WHERE kind = ?", (kind,)) if kind else ("", ())
    rows = conn.execute(
        f"SELECT id, at_ms, kind, detail, account FROM events {condition} ORDER BY id DESC LIMIT ?",  # noqa: S608
        (*values, _bounded(limit)),
    )
    return tuple(
        EventRow(
            id=str(event_id),
            account_id=account,
            account_name=None if account is None else account.partition("/")[2],
            event_type=event_kind,
            details=detail,
            created_at=_iso(at_ms),
            at_ms=at_ms,
        )
        for event_id, at_ms, event_kind, detail, account in rows
    )


def recent_requests(conn: sqlite3.Connection, limit: int, client: str | None = None) -> tuple[RequestRow, ...]:
    """The requests that ended last, newest first, each with its attempts in order; at most `MAX_ROWS`."""
    columns = ", ".join(f"requests.{column}" for column in REQUEST_COLUMNS)
    requests = conn.execute(
        f"SELECT {columns}, prices.price FROM requests LEFT JOIN prices ON prices.id = requests.price_id "  # noqa: S608
        "WHERE (? IS NULL OR client = ?) ORDER BY ended_at_ms DESC, requests.id DESC LIMIT ?",
        (client, client, _bounded(limit)),
    ).fetchall()
    names = (*REQUEST_COLUMNS, "price")
    rows = []
    for values in requests:
        row = dict(zip(names, values, strict=True))
        found = conn.execute(
            f"SELECT {', '.join(ATTEMPT_COLUMNS)} FROM attempts WHERE request_id = ? ORDER BY number",  # noqa: S608
            (row["id"],),
        )
        attempts = tuple(_attempt(dict(zip(ATTEMPT_COLUMNS, attempt, strict=True))) for attempt in found)
        rows.append(RequestRow(_request(row), attempts, bool(row["clamped"])))
    return tuple(rows)


def _bounded(limit: int) -> int:
    return min(max(limit, 0), MAX_ROWS)


def _iso(at_ms: int) -> str:
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
    except OverflowError:
        return ""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


_USAGE_COLUMNS = {
    "input_tokens": "input_tokens",
    "cache_read_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "cache_write_1h_tokens": "cache_write_1h_tokens",
    "output_tokens": "output_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "reported_nanodollars": "cost_nanodollars",
}
_NOT_IN_RECORD = {*_USAGE_COLUMNS, "provider", "cost_nanodollars", "exactness", "price_id", "price", "clamped"}


def _request(row: dict[str, object]) -> RequestRecord:
    fields: dict[str, object] = {name: value for name, value in row.items() if name not in _NOT_IN_RECORD}
    fields["streamed"] = bool(row["streamed"])
    fields["usage"] = {field: row[column] for column, field in _USAGE_COLUMNS.items()}
    fields["cost"] = {"nanodollars": row["cost_nanodollars"], "exactness": row["exactness"]}
    fields["price"] = None if row["price"] is None else msgspec.json.decode(str(row["price"]), type=Price)
    return msgspec.convert(fields, RequestRecord)


def _attempt(row: dict[str, object]) -> AttemptRecord:
    return msgspec.convert(row, AttemptRecord)
