"""Which accounts can take a request, in what order, and why the others cannot: one pure function.

A provider's word (or a ceiling that the user enforces) refuses; everything else only orders. Availability is a row of
one-line questions, each with its reason, so that the books and the pages can say why. Ties are broken by stated keys,
never by chance. It runs for every request over every account, so what is only read when somebody asks is made then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from eggpool.domain import AccountLabel, Billing, Dialect, Needs, Refusal
from eggpool.routing.capabilities import lacks
from eggpool.routing.catalog import Candidate, Offer
from eggpool.routing.health import Rest, ScopeKey, account_scope, model_scope, provider_scope, status
from eggpool.routing.quota import Quota
from eggpool.routing.speech import Surface, spoken
from eggpool.routing.spending import NOTHING, Spending

TRIAL_S = 1.0  # when to come back while another request is finding out whether an account works again
IN_FLIGHT_COST = 0.02  # of score, for each request in flight by weight: a burst spreads at once
TRANSLATION_COST = 0.01  # of score: where all else is equal, an answer that needs no translation is better
AFFINITY_SLACK = 0.30
STEPS = 1000  # of score, in one window: what differs by less is a tie, so that small requests spread too

NO_NEEDS = Needs()

Binding = Literal["none", "cool", "kept", "escaped", "resting", "gone"]
"""What became of a conversation's binding: there was none; it was not warm any more; obeyed; its account was too far
ahead of the best; its account rests on our own guess; its account was refused or does not serve this."""


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
    @property
    def billing(self) -> Billing: ...
    @property
    def quota(self) -> Quota: ...


class View(Protocol):
    """What is read of the pool: live state, nothing is copied."""

    @property
    def accounts(self) -> Mapping[AccountLabel, AccountView]: ...
    @property
    def rests(self) -> Mapping[ScopeKey, Rest]: ...
    @property
    def refused_surfaces(self) -> Mapping[Surface, float]: ...


class Affinity(msgspec.Struct, frozen=True, gc=False):
    """The account that a conversation is bound to, and whether its prompt cache there is still warm."""

    account: AccountLabel
    warm: bool


class Demand(msgspec.Struct, frozen=True):
    """What a request needs of an account."""

    dialect: Dialect
    translates: bool = False  # other dialects will do as well
    only: AccountLabel | None = None  # the one account that knows what the request refers to
    estimate: Spending = NOTHING
    affinity: Affinity | None = None
    affinity_slack: float = AFFINITY_SLACK
    needs: Needs = NO_NEEDS


class Choice(msgspec.Struct, frozen=True):
    """A candidate with what put it where it is in the order."""

    candidate: Candidate
    last_resort: bool  # resting on our own guess
    exhausted: bool  # by our own estimate
    billing: Billing
    score: float
    in_flight: int
    last_used: float


Row = tuple[int, float, int, float, str, Candidate]
"""What candidates are sorted by, and the candidate: group, score, in flight, last used, label (unique, ends ties)."""

_METERED = 1
_EXHAUSTED = 2
_TIER = 4
_LAST_RESORT = 1 << 40  # beyond any tier


class Plan(msgspec.Struct, frozen=True):
    """Every account of the offer once: to be tried in this order, or refused with a reason.

    `retry_after_s` is when the first refused account comes back, None when nobody knows.
    """

    rows: list[Row]
    refused: tuple[Refusal, ...]
    retry_after_s: float | None
    binding: Binding

    @property
    def count(self) -> int:
        """How many accounts can be tried."""
        return len(self.rows)

    @property
    def first(self) -> Choice | None:
        """The account to try now, None when there is none."""
        return _choice(self.rows[0]) if self.rows else None

    @property
    def choices(self) -> tuple[Choice, ...]:
        """All accounts that can be tried, best first."""
        return tuple(_choice(row) for row in self.rows)

    def best(self, most: int) -> list[tuple[AccountLabel, float]]:
        """The first `most` of the accounts that can be tried, with their scores."""
        return [(row[5].account, row[1]) for row in self.rows[:most]]

    @property
    def wrong_dialect(self) -> bool:
        """True when all are refused because nobody serves the model in the client's dialect."""
        return bool(self.refused) and all(refusal.reason == "dialect" for refusal in self.refused)


def _choice(row: Row) -> Choice:
    group, score, in_flight, last_used, _, candidate = row
    last_resort = group > _LAST_RESORT // 2
    return Choice(
        candidate=candidate,
        last_resort=last_resort,
        exhausted=bool(group & _EXHAUSTED),
        billing="metered" if group & _METERED else "plan",
        score=score,
        in_flight=in_flight,
        last_used=last_used,
    )


def plan(view: View, offer: Offer, demand: Demand, now: float, now_ms: int) -> Plan:
    """Order the offer's candidates. `now` is monotonic seconds, `now_ms` the same instant on the wall clock."""
    rows: list[Row] = []
    lacking: list[tuple[str, Row]] = []
    refused: list[Refusal] = []
    back_s: list[float] = []
    accounts, dialect, only, needs = view.accounts, demand.dialect, demand.only, demand.needs
    extra = demand.estimate.amounts
    surfaces, translates = view.refused_surfaces, demand.translates
    resting = _resting(view, now)
    for candidate in offer.candidates:
        label = candidate.account
        account = accounts[label]
        quota = account.quota
        if quota.per_model or not quota.since_ms <= now_ms < quota.until_ms:
            quota.refresh(now_ms, candidate.model)
        in_flight, limit = account.in_flight, account.max_concurrency
        native = dialect in candidate.dialects and not surfaces
        heard = dialect if native else spoken(candidate, dialect, translates=translates, refused=surfaces, now=now)
        rested = bool(resting) and (label in resting or candidate.provider in resting)
        if (
            rested
            or quota.refused is not None
            or heard is None
            or (only is not None and label != only)
            or (limit is not None and in_flight >= limit)
        ):
            reason, wait_s = _refusal(view, account, candidate, demand, heard, now, now_ms)
            if reason is not None:
                back_s += [] if wait_s is None else [wait_s]
                refused.append(Refusal(label, reason, None if wait_s is None else now_ms + round(wait_s * 1000)))
                continue
        group = -_TIER * candidate.routing_priority
        if quota.exhausted_now:
            group += _EXHAUSTED
        if account.billing == "metered":
            group += _METERED
        if rested and _guessed_bad(view, candidate, now):
            group += _LAST_RESORT
        score = (
            quota.value
            + quota.slope * (now_ms - quota.since_ms)
            + extra[quota.place] * quota.ratio
            + IN_FLIGHT_COST * in_flight / account.weight
        )
        if heard is not dialect:
            score += TRANSLATION_COST
        score = round(score * STEPS) / STEPS
        row = (group, score, in_flight, account.last_used, label, candidate)
        lack = lacks(candidate, needs) if needs is not NO_NEEDS else None
        if lack is None:
            rows.append(row)
        else:
            lacking.append((lack, row))
    if lacking:
        if rows:
            refused += [Refusal(row[5].account, reason) for reason, row in lacking]
        else:
            rows = [row for _, row in lacking]
    rows.sort()
    binding = _bind(rows, demand, view) if demand.affinity is not None else "none"
    return Plan(rows, tuple(refused), min(back_s, default=None), binding)


def _bind(rows: list[Row], demand: Demand, view: View) -> Binding:
    """Move the account that a warm conversation is bound to up to the front, unless there is a reason not to.

    A crowded short window is a reason not to begin there; whoever is there stays until it is really full, because
    moving costs more than waiting saves.
    """
    affinity = demand.affinity
    if affinity is None:
        return "none"
    if not affinity.warm:
        return "cool"
    for place, bound in enumerate(rows):  # noqa: B007 - where the search ends is what is looked for
        if bound[4] == affinity.account:
            break
    else:
        return "gone"
    if bound[0] > _LAST_RESORT // 2:
        return "resting"
    crowded = view.accounts[affinity.account].quota.crowded
    if place and bound[1] - crowded > rows[0][1] + demand.affinity_slack:
        return "escaped"
    rows.insert(0, rows.pop(place))
    return "kept"


def _resting(view: View, now: float) -> frozenset[str]:
    """The accounts and providers of which something rests or is on trial."""
    rests = view.rests
    if not rests:
        return frozenset()
    return frozenset(scope[1] for scope, rest in rests.items() if rest.on_trial or now < rest.until)


def _refusal(
    view: View,
    account: AccountView,
    candidate: Candidate,
    demand: Demand,
    heard: Dialect | None,
    now: float,
    now_ms: int,
) -> tuple[str | None, float | None]:
    """The reason that rules an account out, and in how many seconds it ends; (None, None) when nothing does."""
    if heard is None:
        return "dialect", None
    if demand.only is not None and candidate.account != demand.only:
        return "pinned_elsewhere", None
    words = [
        ((rest.until if stands == "resting" else max(rest.until, now + TRIAL_S)) - now, f"resting_{rest.kind}")
        for rest in _rests(view, candidate)
        if rest.on_providers_word and (stands := status(rest, now)) in ("resting", "trial")
    ]
    spent = account.quota.refused
    if spent is not None:
        words.append(((spent.until_ms - now_ms) / 1000, spent.reason))
    if words:
        wait_s, reason = max(words)  # it is back when the last of them has ended
        return reason, wait_s
    if account.max_concurrency is not None and account.in_flight >= account.max_concurrency:
        return "max_concurrency", None
    return None, None


def _guessed_bad(view: View, candidate: Candidate, now: float) -> bool:
    return any(status(rest, now) in ("resting", "trial") for rest in _rests(view, candidate))


def _rests(view: View, candidate: Candidate) -> list[Rest]:
    scopes = (
        provider_scope(candidate.provider),
        account_scope(candidate.account),
        model_scope(candidate.account, candidate.model),
    )
    return [rest for scope in scopes if (rest := view.rests.get(scope)) is not None]
