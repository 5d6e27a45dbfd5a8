"""Requests that wait for an account: first come, first served.

A place that becomes free at an account with a bound on its concurrency is handed to whoever has waited longest for that
account, and stays taken until that request takes it; so nobody who came later can be faster. What may live here: the
order of waiting. What may not: who is waited for, and why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from eggpool.domain import AccountLabel


class Waiter:
    """One request in the line."""

    __slots__ = ("accounts", "turn")

    def __init__(self, accounts: frozenset[AccountLabel], turn: asyncio.Future[AccountLabel | None]) -> None:
        self.accounts = accounts
        self.turn = turn


class Line:
    """The requests that wait, in the order in which they came."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: dict[Waiter, None] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def join(self, accounts: Iterable[AccountLabel]) -> Waiter:
        """Stand at the end of the line for any of these accounts. The caller leaves the line, whatever happens."""
        waiter = Waiter(frozenset(accounts), asyncio.get_running_loop().create_future())
        self._waiters[waiter] = None
        return waiter

    def leave(self, waiter: Waiter) -> AccountLabel | None:
        """Go. Gives the account whose place was handed over, which is then the caller's to use or to hand on."""
        self._waiters.pop(waiter, None)
        if waiter.turn.done() and not waiter.turn.cancelled():
            return waiter.turn.result()
        waiter.turn.cancel()
        return None

    def hand(self, account: AccountLabel) -> bool:
        """Hand a free place at an account to the first who waits for it; False when nobody does."""
        for waiter in self._waiters:
            if account in waiter.accounts and not waiter.turn.done():
                waiter.turn.set_result(account)
                return True
        return False

    def wake(self) -> None:
        """Something has changed: everybody looks again, the first one first."""
        for waiter in self._waiters:
            if not waiter.turn.done():
                waiter.turn.set_result(None)
