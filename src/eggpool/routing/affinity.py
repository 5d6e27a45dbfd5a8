"""Which account a conversation is bound to, and how well that serves: a bounded map, the oldest forgotten first.

A binding is warm while the account's prompt cache may still hold the conversation. Whether a request follows a warm
binding is the plan's to say; here it is remembered and counted. Instants are wall-clock milliseconds from the caller,
because bindings outlive the process: `unsaved` gives what has changed as texts to be kept, `restore` takes them back.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping

import msgspec

from eggpool.domain import AccountLabel

MAX_BINDINGS = 50_000
SHARDS = 64
"""Bindings are kept in so many texts, by their key: a change rewrites one of them, not all."""

_PREFIX = "affinity:"
_REWRITES = 4  # of a binding that only goes on being used, within its lifetime

_Kept = dict[AccountLabel, dict[str, int]]  # by account: a key in hexadecimal, and when it was used last


class Binding(msgspec.Struct, frozen=True, gc=False):
    """Where a conversation was served last. `warm` while its prompt may be cached there."""

    account: AccountLabel
    used_at_ms: int
    warm: bool


class Tally(msgspec.Struct, frozen=True):
    """What came of the bindings since the program began, or of those to one account.

    Each request of a conversation is one of `begun` (new, or cold), `hits` (at its warm account), `moves` (elsewhere,
    because the warm account could not serve it) and `escapes` (elsewhere, because another was so much better); moves
    and escapes are counted at the account that was left.
    """

    begun: int = 0
    hits: int = 0
    moves: int = 0
    escapes: int = 0
    cached_tokens: int = 0
    saved_nanodollars: int = 0


class _Bound(msgspec.Struct, gc=False):
    account: AccountLabel
    used_at_ms: int
    answered: bool = True  # false while the conversation's first request is on its way there
    kept_at_ms: int | None = None  # `used_at_ms` when it was last given away to be kept


class Affinity:
    """The bindings of all conversations. `lifetime_ms` is how long an unused one stays warm."""

    def __init__(self, lifetime_ms: int, max_bindings: int = MAX_BINDINGS) -> None:
        self.lifetime_ms = lifetime_ms
        self._max_bindings = max_bindings
        self._bindings: OrderedDict[bytes, _Bound] = OrderedDict()  # the least recently used first
        self._changed: set[int] = set()  # shards
        self._kept: dict[int, int] = {}  # shards that were given away, with the newest use in them
        self._counts: Counter[tuple[str, AccountLabel]] = Counter()

    def __len__(self) -> int:
        return len(self._bindings)

    def bound(self, key: bytes | None, now_ms: int) -> Binding | None:
        """Where a conversation was served last; None when that is not known."""
        found = self._bindings.get(key) if key is not None else None
        if found is None:
            return None
        return Binding(found.account, found.used_at_ms, self._is_warm(found, now_ms))

    def expect(self, key: bytes, account: AccountLabel, now_ms: int) -> None:
        """A request of the conversation is sent to `account`.

        When it is the first one, or the first in a long time, those that come before it is answered follow it: agents
        begin with several at once. Nothing is counted, and a warm binding stays as it is.
        """
        found = self._bindings.get(key)
        if found is None or not self._is_warm(found, now_ms):
            self._put(key, _Bound(account, now_ms, answered=False))

    def bind(self, key: bytes, account: AccountLabel, now_ms: int, *, escaped: bool = False) -> None:
        """A request of the conversation is answered by `account`.

        `escaped` says that a warm account could have served it and was left for a better one.
        """
        found = self._bindings.get(key)
        if found is None or not found.answered or not self._is_warm(found, now_ms):
            self._counts["begun", account] += 1
        elif found.account == account:
            self._counts["hits", account] += 1
        else:
            self._counts["escapes" if escaped else "moves", found.account] += 1
        if found is None or found.account != account:
            found = _Bound(account, now_ms)
        kept_at_ms = found.kept_at_ms
        if kept_at_ms is None or abs(now_ms - kept_at_ms) > self.lifetime_ms // _REWRITES:
            self._changed.add(_shard(key))
        found.used_at_ms, found.answered = now_ms, True
        self._put(key, found)

    def cached(self, account: AccountLabel, tokens: int, saved_nanodollars: int) -> None:
        """An account read so many tokens of a prompt from its cache, which saved so much."""
        self._counts["cached_tokens", account] += tokens
        self._counts["saved_nanodollars", account] += saved_nanodollars

    def tally(self, account: AccountLabel | None = None) -> Tally:
        """The counts of one account, or of all."""
        totals: Counter[str] = Counter()
        for (what, whose), count in self._counts.items():
            if account is None or whose == account:
                totals[what] += count
        return Tally(**totals)

    def spread(self, now_ms: int) -> dict[AccountLabel, int]:
        """How many warm conversations each account has."""
        return dict(Counter(bound.account for _, bound in self._warm(now_ms)))

    def unsaved(self, now_ms: int) -> dict[str, str | None]:
        """What has changed since the last call, as texts by name; None for a name that can be forgotten.

        Only warm bindings are kept: a restart is short, and a cold one says nothing. One that only goes on being used
        is given a few times in its lifetime and not at each use.
        """
        due = self._changed | {shard for shard, newest in self._kept.items() if abs(now_ms - newest) > self.lifetime_ms}
        self._changed.clear()
        if not due:
            return {}
        by_shard: dict[int, _Kept] = {}
        newest: dict[int, int] = {}
        for key, bound in self._warm(now_ms):
            shard = _shard(key)
            if shard in due and bound.answered:
                by_shard.setdefault(shard, {}).setdefault(bound.account, {})[key.hex()] = bound.used_at_ms
                newest.setdefault(shard, bound.used_at_ms)
                bound.kept_at_ms = bound.used_at_ms
        over = [shard for shard in due if shard in self._kept and shard not in newest]
        for shard in over:
            del self._kept[shard]
        self._kept |= newest
        texts: dict[str, str | None] = dict.fromkeys(map(_name, over))
        return texts | {_name(shard): msgspec.json.encode(kept).decode() for shard, kept in by_shard.items()}

    def restore(self, texts: Mapping[str, str], now_ms: int) -> None:
        """Take back what `unsaved` once gave; names and texts that are none of its are passed over."""
        found: list[tuple[int, bytes, AccountLabel]] = []
        for name, text in texts.items():
            if not name.startswith(_PREFIX):
                continue
            try:
                kept = msgspec.json.decode(text, type=_Kept)
                mine = [
                    (used_at_ms, bytes.fromhex(key), account)
                    for account, keys in kept.items()
                    for key, used_at_ms in keys.items()
                ]
            except (msgspec.DecodeError, ValueError):
                continue
            found += [one for one in mine if one[1]]
        for used_at_ms, key, account in sorted(found)[-self._max_bindings :]:
            self._bindings[key] = _Bound(account, used_at_ms, kept_at_ms=used_at_ms)
            shard = _shard(key)
            self._kept[shard] = max(used_at_ms, self._kept.get(shard, used_at_ms))

    def _put(self, key: bytes, bound: _Bound) -> None:
        self._bindings[key] = bound
        self._bindings.move_to_end(key)
        if len(self._bindings) > self._max_bindings:
            self._bindings.popitem(last=False)

    def _warm(self, now_ms: int) -> Iterator[tuple[bytes, _Bound]]:
        """The warm bindings, the most recently used first."""
        for key, bound in reversed(self._bindings.items()):
            if not self._is_warm(bound, now_ms):
                return
            yield key, bound

    def _is_warm(self, bound: _Bound, now_ms: int) -> bool:
        # A clock that was set back leaves uses that lie in the future; they are as old as they are far.
        return abs(now_ms - bound.used_at_ms) <= self.lifetime_ms


def _shard(key: bytes) -> int:
    return key[0] % SHARDS


def _name(shard: int) -> str:
    return f"{_PREFIX}{shard}"
