"""When each account's usage endpoint is asked, and what is done with what it says.

The schedule of the job `poll_meters`, and one turn of it. A meter that fails is asked less and less often and changes
nothing else: what is known of the account stays as it is, and grows old.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import msgspec

from eggpool.domain import AccountLabel, EventRecord
from eggpool.engine.pool import Pool
from eggpool.store.ledger import Ledger
from eggpool.upstream.meters import Reading, ask

_log = logging.getLogger(__name__)

LONGEST_PAUSE_S = 3600.0  # however often a meter has failed, unless its own interval is longer
FIRST_WITHIN_S = 5.0  # after the start: soon, but not all accounts in one moment
_SPREAD = 0.1  # by what part a pause may be longer, so that accounts do not stay in step
_LONGEST_NAP_S = 10.0  # until accounts are looked at anew: the configuration may have changed

Learn = Callable[[AccountLabel, Reading], None]
"""Where a good reading goes."""


class _Turn(msgspec.Struct):
    """When an account is asked next, and how often in a row that has failed."""

    due: float
    failures: int = 0


class Meters:
    """The usage endpoints of a pool's accounts."""

    def __init__(self, pool: Pool, ledger: Ledger, learn: Learn) -> None:
        self._pool = pool
        self._ledger = ledger
        self._learn = learn
        self._turns: dict[AccountLabel, _Turn] = {}

    def due(self) -> list[AccountLabel]:
        """The accounts that are to be asked now; none is due again before a pause is over."""
        now = self._pool.clock.now()
        intervals = self._intervals()
        self._turns = {label: turn for label, turn in self._turns.items() if label in intervals}
        found = []
        for label, interval_s in intervals.items():
            turn = self._turns.get(label)
            if turn is None:
                turn = self._turns[label] = _Turn(now + random.random() * min(interval_s, FIRST_WITHIN_S))  # noqa: S311
            if turn.due <= now:
                turn.due = now + pause_s(interval_s, turn.failures, random.random())  # noqa: S311 - guards nothing
                found.append(label)
        return found

    def nap_s(self) -> float:
        """How long nothing is due."""
        now = self._pool.clock.now()
        return max(0.0, min([turn.due - now for turn in self._turns.values()] + [_LONGEST_NAP_S]))

    async def ask(self, label: AccountLabel) -> None:
        """Ask for one account's usage, and pass on what it says."""
        state, account = self._pool.accounts.get(label), self._pool.config.account(label)
        if state is None or account is None or not account.meter:
            return
        at_ms = self._pool.clock.wall_ms()
        reading = await ask(self._pool.clients[state.provider], state.target, account.meter, at_ms)
        turn = self._turns.setdefault(label, _Turn(0.0))
        turn.failures = 0 if reading.error is None else turn.failures + 1
        interval_s = account.meter_interval_s or LONGEST_PAUSE_S
        turn.due = self._pool.clock.now() + pause_s(interval_s, turn.failures, random.random())  # noqa: S311
        if reading.error is None:
            self._learn(label, reading)
        elif turn.failures == 1:
            _log.warning("%s: %s", label, reading.error)
            self._ledger.event(EventRecord(at_ms, "meter_failed", reading.error, label))

    def _intervals(self) -> dict[AccountLabel, float]:
        """The accounts that have a meter, with the seconds between two questions."""
        found: dict[AccountLabel, float] = {}
        for label in self._pool.accounts:
            account = self._pool.config.account(label)
            if account is not None and account.meter and account.meter_interval_s:
                found[label] = account.meter_interval_s
        return found


def pause_s(interval_s: float, failures: int, jitter: float) -> float:
    """Seconds until the next question after so many failures in a row; `jitter` is 0 to 1."""
    longest = max(interval_s, LONGEST_PAUSE_S)
    return min(interval_s * 2.0 ** min(failures, 30), longest) * (1.0 + _SPREAD * jitter)
