"""Resting and recovery, as a table: `step(rest, event, now)` gives the next state of one scope.

A scope is a model at an account, an account, or a provider. It is well (no Rest), resting, due (its time is over and
nobody has tried yet) or on trial (one request is trying). Times are monotonic seconds given by the caller, and so is
the jitter; nothing here reads a clock.

A rest on a provider's word refuses; a rest on our own guess only puts the account last. The user's word refuses too,
and nothing that happens meanwhile changes it.
"""

from __future__ import annotations

from typing import Literal, assert_never

import msgspec

from eggpool.domain import AccountLabel

Status = Literal["well", "resting", "due", "trial"]
Scope = Literal["request", "model", "account", "provider"]
ScopeKey = tuple[str, ...]

LONGEST_GUESS_S = 300.0  # before jitter, which adds a tenth at most
LONGEST_TOLD_S = 31 * 24 * 3600.0  # the longest window that any provider counts in
SHORTEST_TOLD_S = 1.0

BY_HAND = "by_hand"
"""The kind of a rest that the user asked for; the others are kinds of `routing.verdict`."""


class Rest(msgspec.Struct, frozen=True):
    """Why and until when a scope rests."""

    kind: str  # BY_HAND, or a kind of routing/verdict.py
    until: float
    on_providers_word: bool
    failures: int  # in a row; doubles the next guess
    on_trial: bool = False
    since: float = 0.0


class Failed(msgspec.Struct, frozen=True, tag=True):
    """An attempt failed. `told_s` is the provider's own time; `jitter` is 0 to 1, from the caller."""

    kind: str
    on_providers_word: bool
    first_rest_s: float
    jitter: float
    told_s: float | None = None


class Succeeded(msgspec.Struct, frozen=True, tag=True):
    """An attempt that began at `began` gave an answer; it says nothing about a rest that came after that."""

    began: float


class TrialBegan(msgspec.Struct, frozen=True, tag=True):
    """One request was let through to see whether it works again."""


class TrialLeft(msgspec.Struct, frozen=True, tag=True):
    """That request ended without telling anything (the client left)."""


Event = Failed | Succeeded | TrialBegan | TrialLeft


def model_scope(account: AccountLabel, model: str) -> ScopeKey:
    """The scope of one model at one account."""
    return ("model", account, model)


def account_scope(account: AccountLabel) -> ScopeKey:
    """The scope of one account."""
    return ("account", account)


def provider_scope(provider: str) -> ScopeKey:
    """The scope of one provider."""
    return ("provider", provider)


def status(rest: Rest | None, now: float) -> Status:
    """Where a scope stands."""
    if rest is None:
        return "well"
    if rest.on_trial:
        return "trial"
    return "resting" if now < rest.until else "due"


def step(rest: Rest | None, event: Event, now: float) -> Rest | None:
    """The state after an event; None is well."""
    match event:
        case Succeeded(began=began):
            return rest if rest is not None and rest.since > began else None
        case Failed():
            return _after_failure(rest, event, now)
        case TrialBegan():
            return msgspec.structs.replace(rest, on_trial=True) if rest else None
        case TrialLeft():
            return msgspec.structs.replace(rest, on_trial=False) if rest else None
        case _:
            assert_never(event)


def by_hand(rest: Rest | None, length_s: float, now: float) -> Rest:
    """The state after the user put a scope to rest; a provider's word that lasts longer than that keeps its end."""
    length = min(max(length_s, SHORTEST_TOLD_S), LONGEST_TOLD_S)
    told = rest.until if rest is not None and rest.on_providers_word and rest.kind != BY_HAND else now
    return Rest(BY_HAND, max(now + length, told), on_providers_word=True, failures=0, since=now)


def _after_failure(rest: Rest | None, event: Failed, now: float) -> Rest:
    resting = rest if rest is not None and now < rest.until else None
    if resting is not None and resting.kind == BY_HAND:
        return resting
    if resting is not None and resting.on_providers_word and not event.on_providers_word:
        # What a provider said holds: a guess neither shortens it nor makes it refuse for longer.
        return msgspec.structs.replace(resting, on_trial=False)
    failures = 1 if rest is None else rest.failures + 1
    if resting is not None and not resting.on_trial:
        # Requests that were under way together fail together: that is one failure, not many.
        failures = resting.failures
    if event.told_s is not None:
        length = min(max(event.told_s, SHORTEST_TOLD_S), LONGEST_TOLD_S)
    else:
        length = min(event.first_rest_s * 2.0 ** min(failures - 1, 30), LONGEST_GUESS_S) * (1.0 + 0.1 * event.jitter)
    until = now + length
    same_word = resting is not None and resting.on_providers_word == event.on_providers_word
    if resting is not None and same_word and event.told_s is None and until < resting.until:
        # Only a time that was told can be shorter than the one before: a length that we made up says nothing new.
        return msgspec.structs.replace(resting, failures=failures, on_trial=False)
    return Rest(event.kind, until, event.on_providers_word, failures, since=now)
