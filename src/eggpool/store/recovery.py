"""What a crash left: requests that had begun and whose end was never written."""

from __future__ import annotations

import sqlite3

from eggpool.domain import (
    AccountLabel,
    Cost,
    Dialect,
    EventRecord,
    Exactness,
    Outcome,
    RequestRecord,
)
from eggpool.store import facts
from eggpool.store.ids import IdMaker


def book_interrupted(conn: sqlite3.Connection, ids: IdMaker, now_ms: int) -> int:
    """Book every left-over `begun` row as an interrupted request with the cost that was reserved for it, marked as
    estimated, and say so in one event; returns how many there were.

    They count in the period in which they are found, so that a closed period never changes. One transaction, in which
    the rows go away too; the connection must be in autocommit mode. Raises sqlite3.Error.
    """
    conn.execute("BEGIN IMMEDIATE")
    try:
        # An end that was written has taken its row along; this holds even for a file that somebody has repaired.
        conn.execute("DELETE FROM begun WHERE id IN (SELECT id FROM requests)")
        rows = conn.execute(
            "SELECT id, client, account, model, dialect, streamed, started_at_ms, reserved_nanodollars FROM begun"
        ).fetchall()
        conn.executemany(facts.INSERT_REQUEST, [facts.request_row(_interrupted(row, now_ms), None) for row in rows])
        conn.execute("DELETE FROM begun")
        if rows:
            detail = f"{len(rows)} requests were running when the server died; booked as interrupted, costs estimated"
            event = facts.event(ids.next(now_ms), EventRecord(now_ms, "requests_interrupted", detail))
            for sql, values in event.steps:
                conn.execute(sql, values)
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise
    return len(rows)


def _interrupted(row: tuple[int, str, str, str, str, int, int, int], now_ms: int) -> RequestRecord:
    request_id, client, account, model, dialect, streamed, started_at_ms, reserved = row
    return RequestRecord(
        id=request_id,
        client=client,
        client_address="",
        dialect=Dialect(dialect),
        path="",
        model_asked=model,
        streamed=bool(streamed),
        outcome=Outcome.INTERRUPTED,
        status=0,  # nobody knows what the client saw
        started_at_ms=started_at_ms,
        ended_at_ms=now_ms,
        total_us=0,  # nor for how long it ran
        attempts=1,
        account=AccountLabel(account),
        model_served=model,
        cost=Cost(reserved, Exactness.ESTIMATED) if reserved > 0 else Cost(None, Exactness.UNKNOWN),
        reserved_nanodollars=reserved,
    )
