"""Requests that wait for an account: first come, first served.

A place that becomes free at an account with a bound on its concurrency is handed to whoever has waited longest for that
account, and stays taken until that request takes it; so nobody who came later can be faster. A request that looks again
in between keeps its rank. What may live here: the order of waiting. What may not: who is waited for, and why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from eggpool.domain import AccountLabel


class Waiter:
    """One request in the line. `place` is the account of which a place was handed to it."""

    __slots__ = ("accounts", "place", "rank", "turn")

    def __init__(self, accounts: frozenset[AccountLabel], rank: int, turn: asyncio.Future[None]) -> None:
        self.accounts = accounts
        self.rank = rank
        self.turn = turn
        self.place: AccountLabel | None = None

    def call(self) -> None:
        """Let it look again."""
        if not self.turn.done():
            self.turn.set_result(None)


class Line:
    """The requests that wait, in the order in which they came."""

    __slots__ = ("_ranks", "_waiters")

    def __init__(self) -> None:
        self._ranks = 0
        self._waiters: list[Waiter] = []  # by rank

    def __len__(self) -> int:
        return len(self._waiters)

    def rank(self) -> int:
        """A rank behind everybody who has one; whoever joins again joins with the same."""
        self._ranks += 1
        return self._ranks

    def join(self, accounts: Iterable[AccountLabel], rank: int) -> Waiter:
        """Stand in the line for any of these accounts. The caller leaves the line, whatever happens."""
        waiter = Waiter(frozenset(accounts), rank, asyncio.get_running_loop().create_future())
        at = len(self._waiters)
        while at and self._waiters[at - 1].rank > rank:
            at -= 1
        self._waiters.insert(at, waiter)
        return waiter

    def leave(self, waiter: Waiter) -> AccountLabel | None:
        """Go. Gives the account whose place was handed over, which is then the caller's to use or to hand on."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        waiter.turn.cancel()
        place, waiter.place = waiter.place, None
        return place

    def hand(self, account: AccountLabel) -> bool:
        """Hand a free place at an account to the first who waits for it; False when nobody does."""
        for waiter in self._waiters:
            if waiter.place is None and account in waiter.accounts:
                waiter.place = account
                waiter.call()
                return True
        return False

    def wake(self) -> None:
        """Something has changed: everybody looks again, the first one first."""
        for waiter in self._waiters:
            waiter.call()
