"""Which accounts can take a request, in what order, and why the others cannot: one pure function.

A provider's word refuses; everything else only orders. Availability is a row of one-line questions, each with its
reason, so that the books and the pages can say why. Ties are broken by stated keys, never by chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from eggpool.domain import AccountLabel, Dialect, Refusal
from eggpool.routing.catalog import Candidate, Offer
from eggpool.routing.health import Rest, ScopeKey, account_scope, model_scope, provider_scope, status

TRIAL_S = 1.0  # when to come back while another request is finding out whether an account works again


class AccountView(Protocol):
    """What is read of an account's live state."""

    @property
    def in_flight(self) -> int: ...
    @property
    def last_used(self) -> float: ...
    @property
    def weight(self) -> float: ...
    @property
    def max_concurrency(self) -> int | None: ...


class View(Protocol):
    """What is read of the pool: live state, nothing is copied."""

    @property
    def accounts(self) -> Mapping[AccountLabel, AccountView]: ...
    @property
    def rests(self) -> Mapping[ScopeKey, Rest]: ...


class Demand(msgspec.Struct, frozen=True):
    """What a request needs of an account."""

    dialect: Dialect
    only: AccountLabel | None = None  # the one account that knows what the request refers to


class Choice(msgspec.Struct, frozen=True):
    """A candidate with what put it where it is in the order."""

    candidate: Candidate
    last_resort: bool  # resting on our own guess
    load: float  # requests in flight by weight
    last_used: float


class Plan(msgspec.Struct, frozen=True):
    """Every account of the offer once: to be tried in this order, or refused with a reason.

    `retry_after_s` is when the first refused account comes back, None when nobody knows.
    """

    choices: tuple[Choice, ...]
    refused: tuple[Refusal, ...]
    retry_after_s: float | None

    @property
    def wrong_dialect(self) -> bool:
        """True when all are refused because nobody serves the model in the client's dialect."""
        return bool(self.refused) and all(refusal.reason == "dialect" for refusal in self.refused)


def plan(view: View, offer: Offer, demand: Demand, now: float, now_ms: int) -> Plan:
    """Order the offer's candidates. `now` is monotonic seconds, `now_ms` the same instant on the wall clock."""
    choices: list[Choice] = []
    refused: list[Refusal] = []
    back_s: list[float] = []
    for candidate in offer.candidates:
        account = view.accounts[candidate.account]
        rests = _rests(view, candidate)
        reason, until = _refusal(account, candidate, demand, rests, now)
        if reason is not None:
            back_s += [] if until is None else [until - now]
            until_ms = None if until is None else now_ms + round((until - now) * 1000)
            refused.append(Refusal(candidate.account, reason, until_ms))
            continue
        load = account.in_flight / account.weight
        choices.append(Choice(candidate, _guessed_bad(rests, now), load, account.last_used))
    choices.sort(key=_order)
    return Plan(tuple(choices), tuple(refused), min(back_s, default=None))


def _order(choice: Choice) -> tuple[bool, int, float, float, str]:
    """What the choices are sorted by."""
    candidate = choice.candidate
    return choice.last_resort, -candidate.routing_priority, choice.load, choice.last_used, candidate.account


def _refusal(
    account: AccountView, candidate: Candidate, demand: Demand, rests: list[Rest], now: float
) -> tuple[str | None, float | None]:
    """The reason that rules an account out, and when it ends; (None, None) when nothing does."""
    if demand.dialect not in candidate.dialects:
        return "dialect", None
    if demand.only is not None and candidate.account != demand.only:
        return "pinned_elsewhere", None
    words = [
        (rest.until if stands == "resting" else max(rest.until, now + TRIAL_S), rest.kind)
        for rest in rests
        if rest.on_providers_word and (stands := status(rest, now)) in ("resting", "trial")
    ]
    if words:
        until, kind = max(words)  # it is back when the last of them has ended
        return f"resting_{kind}", until
    if account.max_concurrency is not None and account.in_flight >= account.max_concurrency:
        return "max_concurrency", None
    return None, None


def _guessed_bad(rests: list[Rest], now: float) -> bool:
    return bool(rests) and any(status(rest, now) in ("resting", "trial") for rest in rests)


def _rests(view: View, candidate: Candidate) -> list[Rest]:
    if not view.rests:
        return []
    scopes = (
        provider_scope(candidate.provider),
        account_scope(candidate.account),
        model_scope(candidate.account, candidate.model),
    )
    return [rest for scope in scopes if (rest := view.rests.get(scope)) is not None]
