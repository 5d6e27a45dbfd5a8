"""What the pool remembers over a restart: quota windows, the bindings of conversations, what a byte is worth.

Windows are kept as snapshots, some time apart; what was spent after the last one is read out of the books, so that not
even a crash loses any of it. Bindings are kept while they are warm.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping

import msgspec

from eggpool.domain import AccountLabel
from eggpool.engine.pool import Pool
from eggpool.routing.quota import QuotaSnapshot
from eggpool.routing.spending import Spending
from eggpool.routing.windows import Window
from eggpool.store.ledger import Ledger
from eggpool.store.spending import Spent
from eggpool.wire.counting import Learnt

KEEP_INTERVAL_S = 30.0
LONGEST_WINDOW_MS = 32 * 86_400_000
"""How far back the books are read for an account that has no snapshot: no window is longer."""

_PREFIX = "quota:"
_CALIBRATION = "calibration"

_log = logging.getLogger(__name__)


def keep(pool: Pool, ledger: Ledger) -> None:
    """Write down what has changed since the last time."""
    now_ms = pool.clock.wall_ms()
    for label, account in pool.accounts.items():
        if account.changed:
            account.changed = False
            ledger.state(_PREFIX + label, msgspec.json.encode(account.quota.snapshot(now_ms)).decode())
    ledger.state(_CALIBRATION, msgspec.json.encode(pool.calibration.snapshot()).decode())
    for name, text in pool.affinity.unsaved(now_ms).items():
        ledger.state(name, text)


class _Restored(msgspec.Struct, frozen=True):
    """Up to when an account's snapshot counted, and the windows of which it says nothing."""

    at_ms: int
    unknown: tuple[Window, ...] = ()


async def restore(pool: Pool, ledger: Ledger, state: Mapping[str, str]) -> None:
    """Take back what `keep` wrote down, and count what was spent since.

    A window that is new, or that the configuration has changed, is counted anew from the books.
    """
    now_ms = pool.clock.wall_ms()
    began_ms = now_ms - LONGEST_WINDOW_MS
    found: dict[AccountLabel, _Restored] = {}
    for label, account in pool.accounts.items():
        snapshot = _snapshot(state.get(_PREFIX + label))
        if snapshot is None:
            found[label] = _Restored(began_ms)
        else:
            found[label] = _Restored(min(snapshot.at_ms, now_ms), account.quota.restore(snapshot, now_ms))
    if found:
        since_ms = min(began_ms if one.unknown else one.at_ms for one in found.values())
        for spent in await ledger.spent_since(since_ms):
            _count(pool, spent, found, now_ms)
    pool.affinity.restore(state, now_ms)
    with contextlib.suppress(msgspec.DecodeError):
        pool.calibration.restore(msgspec.json.decode(state.get(_CALIBRATION, "{}"), type=dict[str, Learnt]))


def _count(pool: Pool, spent: Spent, found: Mapping[AccountLabel, _Restored], now_ms: int) -> None:
    account = pool.accounts.get(spent.account)
    if account is None:
        return
    restored = found[spent.account]
    only = restored.unknown if spent.ended_at_ms <= restored.at_ms else None
    amounts = Spending(spent.nanodollars, spent.tokens, 1)
    account.quota.add(amounts, spent.started_at_ms, min(spent.ended_at_ms, now_ms), spent.model, only=only)
    account.changed = True


def _snapshot(text: str | None) -> QuotaSnapshot | None:
    """A snapshot as it was written; None when there is none, or one of another version."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=QuotaSnapshot)
    except msgspec.DecodeError:
        _log.info("a kept state of an account's quota cannot be read any more and is made anew from the books")
        return None
