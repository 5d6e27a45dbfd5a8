"""What rests now, and what of it is kept over a restart.

The rules are `routing.health`'s; here they are applied to the scopes of a running pool, told as events, and written
down: a provider that said «come back on Monday» said it to the next process too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import msgspec

from eggpool.domain import AccountLabel, EventRecord
from eggpool.engine.clock import Clock
from eggpool.routing import health
from eggpool.routing.health import Rest, ScopeKey
from eggpool.store.ledger import Ledger

_log = logging.getLogger(__name__)

KEPT_FROM_S = 5.0  # a shorter rest is over before a new process serves
MOST_RESTS = 10_000  # models are named by callers, so there could be any number of scopes

UNTOLD = frozenset({"model_missing", "forbidden"})  # a caller that asks for ever new names could fill the events

_PREFIX = "rest:"


class _Kept(msgspec.Struct, frozen=True):
    """A rest as it is written down: its end on the wall clock, because the monotonic one ends with the process."""

    kind: str
    until_ms: int
    on_providers_word: bool
    failures: int


class Rests:
    """The scopes that rest, are due, or are on trial; all others are well."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._kept: set[ScopeKey] = set()
        self.states: dict[ScopeKey, Rest] = {}

    def status(self, scope: ScopeKey) -> health.Status:
        """Where a scope stands now."""
        return health.status(self.states.get(scope), self._clock.now())

    def due(self, scopes: Iterable[ScopeKey]) -> list[ScopeKey]:
        """Those whose rest is over and that nobody has tried since."""
        return [scope for scope in scopes if self.status(scope) == "due"] if self.states else []

    def step(self, scopes: Iterable[ScopeKey], event: health.Event, account: AccountLabel) -> float | None:
        """Move scopes on by an event; gives the length in seconds of the rest that it leads to, if any."""
        if not self.states and not isinstance(event, health.Failed):
            return None
        now = self._clock.now()
        length: float | None = None
        for scope in scopes:
            before = self.states.get(scope)
            after = health.step(before, event, now)
            if after is None:
                self._forget(scope)
                if before is not None:
                    self._tell(
                        "account_recovered", account, before, f"{_words(scope)} works again after {before.kind}."
                    )
                continue
            self.states[scope] = after
            if isinstance(event, health.Failed):
                length = after.until - now
                self._keep(scope, after, length)
                if before is None or before.kind != after.kind:
                    self._tell(
                        "account_resting", account, after, f"{_words(scope)} rests for {length:.0f} s: {after.kind}."
                    )
        if len(self.states) > MOST_RESTS:
            self._forget_oldest()
        return length

    def rest_by_hand(self, scope: ScopeKey, length_s: float) -> Rest:
        """Put an account or a provider to rest because the user says so, until that is over or the user wakes it."""
        now = self._clock.now()
        after = self.states[scope] = health.by_hand(self.states.get(scope), length_s, now)
        length_s = after.until - now
        self._keep(scope, after, length_s)
        self._tell("account_resting", _account(scope), after, f"{_words(scope)} rests for {length_s:.0f} s: by hand.")
        return after

    def wake(self, scopes: Iterable[ScopeKey]) -> None:
        """End the rests of scopes because the user says so, whoever began them."""
        for scope in scopes:
            before = self.states.get(scope)
            if before is not None:
                self._forget(scope)
                detail = f"{_words(scope)} was woken by hand from its rest: {before.kind}."
                self._tell("account_woken", _account(scope), before, detail)

    def doubt(self, scope: ScopeKey, kind: str) -> None:
        """A newer word contradicts a rest of that kind: one request may find out which of the two is true."""
        rest, now = self.states.get(scope), self._clock.now()
        if rest is None or rest.kind != kind or rest.on_trial or now >= rest.until:
            return
        after = self.states[scope] = msgspec.structs.replace(rest, until=now)
        self._keep(scope, after, 0.0)

    def restore(self, state: Mapping[str, str]) -> None:
        """Take over what the last process wrote down, but for what is over by now or cannot be read."""
        now, now_ms = self._clock.now(), self._clock.wall_ms()
        for key, text in state.items():
            if not key.startswith(_PREFIX):
                continue
            try:
                scope = msgspec.json.decode(key.removeprefix(_PREFIX), type=tuple[str, ...])
                kept = msgspec.json.decode(text, type=_Kept)
            except msgspec.DecodeError:
                continue
            left_s = min((kept.until_ms - now_ms) / 1000, health.LONGEST_TOLD_S)
            self._kept.add(scope)
            if left_s > 0:
                self.states[scope] = Rest(kept.kind, now + left_s, kept.on_providers_word, kept.failures, since=now)

    def _keep(self, scope: ScopeKey, rest: Rest, length_s: float) -> None:
        if length_s < KEPT_FROM_S and scope not in self._kept:
            return
        self._kept.add(scope)
        until_ms = self._clock.wall_ms() + round(length_s * 1000)
        kept = _Kept(rest.kind, until_ms, rest.on_providers_word, rest.failures)
        self._ledger.state(_key(scope), msgspec.json.encode(kept).decode())

    def _forget(self, scope: ScopeKey) -> None:
        self.states.pop(scope, None)
        if scope in self._kept:
            self._kept.discard(scope)
            self._ledger.state(_key(scope), None)

    def _forget_oldest(self) -> None:
        """Let the half go that ends first: over or not, those matter least."""
        for scope in sorted(self.states, key=lambda one: self.states[one].until)[: MOST_RESTS // 2]:
            self._forget(scope)

    def _tell(self, kind: str, account: AccountLabel | None, rest: Rest, detail: str) -> None:
        if rest.kind in UNTOLD:
            return
        _log.info("%s: %s", account or "provider", detail)
        self._ledger.event(EventRecord(self._clock.wall_ms(), kind, detail, account))


def _key(scope: ScopeKey) -> str:
    return _PREFIX + msgspec.json.encode(scope).decode()


def _words(scope: ScopeKey) -> str:
    kind, *names = scope
    return f"The {kind}" if kind == "account" else f"The {kind} {names[-1]}"


def _account(scope: ScopeKey) -> AccountLabel | None:
    return None if scope[0] == "provider" else AccountLabel(scope[1])
