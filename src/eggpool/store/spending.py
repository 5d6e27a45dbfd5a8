"""What accounts have spent since an instant, out of the books: what quota windows missed while nobody counted."""

from __future__ import annotations

import sqlite3

import msgspec

from eggpool.domain import AccountLabel

MAX_ROWS = 2_000_000
"""More requests than any account makes between two snapshots; a bound for a file that nobody took snapshots of."""


class Spent(msgspec.Struct, frozen=True, gc=False):
    """One request that an account has answered."""

    account: AccountLabel
    model: str
    started_at_ms: int
    ended_at_ms: int
    nanodollars: int
    tokens: int


def spent_since(conn: sqlite3.Connection, ended_after_ms: int) -> list[Spent]:
    """What ended after that instant, oldest first."""
    rows = conn.execute(
        "SELECT account, model_served, started_at_ms, ended_at_ms, cost_nanodollars, input_tokens + output_tokens "
        "FROM requests WHERE ended_at_ms > ? AND account IS NOT NULL ORDER BY ended_at_ms LIMIT ?",
        (ended_after_ms, MAX_ROWS),
    )
    return [
        Spent(AccountLabel(account), model or "", started, ended, cost or 0, tokens)
        for account, model, started, ended, cost, tokens in rows
    ]
