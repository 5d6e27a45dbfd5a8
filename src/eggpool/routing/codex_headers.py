"""The pool's own quota in the headers that Codex shows to its user, and by which it warns.

They describe the whole pool as if it were one plan: a short and a long window, each with the mean share that is used of
it over all accounts that have it. What may live here: that mean, and the headers' names and units.

Source: openai/codex, codex-rs/codex-api/src/rate_limits.rs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eggpool.domain import WindowSource
from eggpool.routing.quota import WindowView

Headers = list[tuple[bytes, bytes]]

PREFIXES = (b"x-codex-primary-", b"x-codex-secondary-")
SHORTEST_S = 3600  # what is shorter is a rate limit, and over before anybody has read of it


def of_the_pool(accounts: Iterable[Sequence[WindowView]]) -> Headers:
    """The headers for the windows of all accounts; none where no window's use is known.

    `used-percent` is from 0 to 100, `window-minutes` the window's length, `reset-at` in seconds since 1970: when the
    first of the accounts gets its quota back.
    """
    by_length: dict[int, list[WindowView]] = {}
    for windows in accounts:
        for window in windows:
            if _tells(window):
                by_length.setdefault(window.length_s, []).append(window)
    lengths = dict.fromkeys((min(by_length), max(by_length))) if by_length else ()
    headers: Headers = []
    for prefix, length_s in zip(PREFIXES, lengths, strict=False):
        windows = by_length[length_s]
        used = sum(min(1.0, window.used_share or 0.0) for window in windows) / len(windows)
        headers.append((prefix + b"used-percent", b"%.1f" % (100 * used)))
        headers.append((prefix + b"window-minutes", b"%d" % (length_s // 60)))
        resets_ms = min((one.resets_at_ms for one in windows if one.resets_at_ms is not None), default=None)
        if resets_ms is not None:
            headers.append((prefix + b"reset-at", b"%d" % (resets_ms // 1000)))
    return headers


def _tells(window: WindowView) -> bool:
    """Whether a window is known, and one that a person plans by."""
    known = window.source is not WindowSource.ASSUMED and window.used_share is not None
    return known and window.model is None and window.length_s >= SHORTEST_S
