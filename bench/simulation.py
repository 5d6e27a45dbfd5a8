"""One world under one strategy: the pool's side of each request as the engine does it, in simulated time.

Plans, windows, reservations and rests are the real ones; what the engine does around them (tries, leases, settlement)
is done here in the same order, without sockets.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable
from typing import NamedTuple

from bench.providers import Answer, Served, TrueAccount
from bench.strategies import Account, Pool, Situation, Strategy
from bench.worlds import CACHE_LIFETIME_S, STARTS_MS, AccountFacts, Prices, Turn, WindowFacts, World
from eggpool.domain import AccountLabel, Dialect, QuotaUnit, WindowKind, WindowSource, WindowSpec
from eggpool.routing import health
from eggpool.routing.catalog import Candidate, Offer
from eggpool.routing.quota import Quota, Reservation
from eggpool.routing.spending import Spending
from eggpool.routing.verdict import VERDICTS, Kind

NANO = 10**9
ASSUMED = (("five_hour", 12, 5 * 3600), ("weekly", 30, 7 * 86_400), ("monthly", 60, 30 * 86_400))  # `[limits]`
FAILURES: dict[Answer, Kind] = {"down": Kind.SERVER_ERROR, "error": Kind.SERVER_ERROR, "full": Kind.PLAN_WINDOW}


class Figures(NamedTuple):
    """What came of it; shares are parts of 1."""

    requests: int
    refused_with_room: int  # although an account that was eligible would have served
    refused_waiting: int  # although one would have, that had refused for quota within minutes and named no end
    refused: float
    beyond: float  # of the work, what the plans cannot serve even in hindsight
    unspent: float  # of what the plans can serve; negative where more is spent on reading anew
    cached: float  # of input tokens
    paid_per_million: float  # dollars to metered accounts, for each million tokens served
    cost: float  # dollars at list price of all that was served, by token
    spread: float  # between the most and the least used plan, in parts of what one serves on average
    moves: float  # of turns whose cache was warm, those that went elsewhere


class _Asks(NamedTuple):
    """An agent asks: which conversation, which of its turns."""

    conversation: int
    turn: int


class _Lease(NamedTuple):
    account: AccountLabel
    reservation: Reservation
    spent: Spending
    turn: Turn
    served: Served


_Event = _Asks | _Lease | AccountLabel
"""A request, the end of one, or a meter that is read."""


class Simulation:
    """A world, a strategy, and how far they have come."""

    def __init__(self, world: World, strategy: Strategy) -> None:
        self._world = world
        self._strategy = strategy
        self._jitter = random.Random(f"jitter {world.seed}")
        self._truth = {AccountLabel(facts.name): TrueAccount(facts, world.prices) for facts in world.accounts}
        self._pool = Pool({AccountLabel(facts.name): _pool_side(facts, world.prices) for facts in world.accounts})
        dialects = frozenset({Dialect.CHAT})
        self._offer = Offer(
            "model", tuple(Candidate(label, label.partition("/")[0], "model", dialects, 0) for label in self._truth)
        )
        self._events: list[tuple[int, int, _Event]] = []
        self._count = 0
        self._unasked: set[AccountLabel] = set()  # that rest for a guessed time, because they named no end
        self._asked: dict[AccountLabel, int] = {}  # when a meter was read last
        self._bound: dict[int, tuple[AccountLabel, int]] = {}  # conversation: account, when it was used last
        self._requests = self._refused = self._refused_with_room = self._refused_waiting = self._warm = self._moves = 0
        self._input = self._cached = self._output = 0

    def run(self) -> Figures:
        """Play it to its end."""
        for number, conversation in enumerate(self._world.conversations):
            self._at(conversation.begins_ms, _Asks(number, 0))
        for label, truth in self._truth.items():
            if truth.facts.poll_s is not None:
                self._at(STARTS_MS + self._jitter.randrange(truth.facts.poll_s * 1000), label)
        while self._events:
            now_ms, _, event = heapq.heappop(self._events)
            if now_ms >= self._world.ends_ms:
                break
            if isinstance(event, _Asks):
                self._take(event, now_ms)
            elif isinstance(event, _Lease):
                self._end(event, now_ms)
            else:
                self._poll(event, now_ms)
        return self._figures()

    def _at(self, at_ms: int, event: _Event) -> None:
        self._count += 1
        heapq.heappush(self._events, (at_ms, self._count, event))

    def _take(self, asks: _Asks, now_ms: int) -> None:
        """A request comes in: tries until one account serves, or none is left."""
        number, place = asks
        turns = self._world.conversations[number].turns
        turn = turns[place]
        self._requests += 1
        bound, used_ms = self._bound.get(number, (None, 0))
        warm = bound is not None and now_ms - used_ms <= CACHE_LIFETIME_S * 1000
        estimate = self._estimate(turn, warm=warm)
        tried: set[AccountLabel] = set()
        lasts_ms = 0
        while True:
            left = Offer("model", tuple(one for one in self._offer.candidates if one.account not in tried))
            now = now_ms / 1000
            label = self._strategy(
                Situation(self._pool, left if tried else self._offer, estimate, now, now_ms, bound, warm)
            )
            if label is None:
                self._refused += 1
                able = [other for other, one in self._truth.items() if other not in tried and one.can_serve(now_ms)]
                waiting = [other for other in able if other in self._unasked]
                self._refused_waiting += bool(waiting)
                self._refused_with_room += len(waiting) < len(able)
                break
            answer = self._try(label, turn, now_ms, first=not tried)
            if answer == "serves":
                self._serve(label, number, turn, estimate, now_ms)
                self._warm += warm
                self._moves += warm and label != bound
                lasts_ms = turn.lasts_ms
                break
            tried.add(label)
        if place + 1 < len(turns):
            self._at(now_ms + lasts_ms + turns[place + 1].gap_ms, _Asks(number, place + 1))

    def _estimate(self, turn: Turn, *, warm: bool) -> Spending:
        dollars = self._world.prices.cost(turn.prompt, turn.kept if warm else 0, turn.output) * turn.estimate_error
        return Spending(round(dollars * NANO), round((turn.prompt + turn.output) * turn.estimate_error))

    def _try(self, label: AccountLabel, turn: Turn, now_ms: int, *, first: bool) -> Answer:
        """One attempt, with what it does to the account's rests."""
        candidate = next(one for one in self._offer.candidates if one.account == label)
        scopes: dict[str, health.ScopeKey] = {
            "model": health.model_scope(label, candidate.model),
            "account": health.account_scope(label),
            "provider": health.provider_scope(candidate.provider),
        }
        now = now_ms / 1000
        answer = self._truth[label].ask(turn, now_ms, first=first)
        due = [scope for scope in scopes.values() if health.status(self._pool.rests.get(scope), now) == "due"]
        self._step(due, health.TrialBegan(), now)
        self._unasked.discard(label)
        if answer == "serves":
            self._step(scopes.values(), health.Succeeded(now), now)
            return answer
        kind = FAILURES[answer]
        verdict = VERDICTS[kind]
        failed = scopes[verdict.scope or "account"]
        self._step([one for one in due if one != failed], health.TrialLeft(), now)
        told_s = self._truth[label].back_s(now_ms) if answer == "full" else None
        if answer == "full" and told_s is None:
            self._unasked.add(label)
        failure = health.Failed(
            kind.value, verdict.on_providers_word, verdict.first_rest_s, self._jitter.random(), told_s
        )
        self._step([failed], failure, now)
        return answer

    def _step(self, scopes: Iterable[health.ScopeKey], event: health.Event, now: float) -> None:
        rests = self._pool.rests
        for scope in scopes:
            rest = health.step(rests.get(scope), event, now)
            if rest is None:
                rests.pop(scope, None)
            else:
                rests[scope] = rest

    def _serve(self, label: AccountLabel, number: int, turn: Turn, estimate: Spending, now_ms: int) -> None:
        account = self._pool.accounts[label]
        served = self._truth[label].serve(number, turn, now_ms)
        account.in_flight += 1
        account.last_used = now_ms / 1000
        reservation = account.quota.reserve(estimate, now_ms)
        spent = Spending(round(served.dollars * NANO), turn.prompt + turn.output)
        self._bound[number] = (label, now_ms)
        self._input += turn.prompt
        self._cached += served.cached
        self._output += turn.output
        self._at(now_ms + turn.lasts_ms, _Lease(label, reservation, spent, turn, served))

    def _end(self, lease: _Lease, now_ms: int) -> None:
        account = self._pool.accounts[lease.account]
        account.in_flight -= 1
        account.quota.settle(lease.reservation, lease.spent, now_ms)
        self._truth[lease.account].charge(lease.turn, lease.served, now_ms)

    def _poll(self, label: AccountLabel, now_ms: int) -> None:
        truth, account = self._truth[label], self._pool.accounts[label]
        poll_ms = (truth.facts.poll_s or 0) * 1000
        asked_ms = self._asked.get(label, 0)
        if now_ms - asked_ms >= 3_600_000 or account.in_flight or account.last_used * 1000 >= asked_ms - 60_000:
            self._asked[label] = now_ms
            for report in truth.reports(now_ms):
                account.quota.learn(report, now_ms)
            scope = health.account_scope(label)
            rest = self._pool.rests.get(scope)
            if rest is not None and rest.kind == Kind.PLAN_WINDOW and account.quota.refusal(now_ms) is None:
                self._step([scope], health.Succeeded(now_ms / 1000), now_ms / 1000)  # it has room again
                self._unasked.discard(label)
        self._at(now_ms + poll_ms, label)

    def _figures(self) -> Figures:
        plans = [one for one in self._truth.values() if not one.facts.metered]
        paid = sum(one.dollars for one in self._truth.values() if one.facts.metered)
        tokens = self._input + self._output
        used = [one.dollars for one in plans]
        total = sum(used) + paid
        return Figures(
            requests=self._requests,
            refused_with_room=self._refused_with_room,
            refused_waiting=self._refused_waiting,
            refused=self._refused / self._requests,
            beyond=max(0.0, 1 - self._world.capacity / self._world.demand),
            unspent=1 - sum(used) / self._world.capacity,
            cached=self._cached / self._input,
            paid_per_million=paid / tokens * 1e6,
            cost=total / tokens * 1e6,
            spread=(max(used) - min(used)) / (self._world.capacity / len(plans)),
            moves=self._moves / self._warm if self._warm else 0.0,
        )


def _pool_side(facts: AccountFacts, prices: Prices) -> Account:
    """What the pool knows of an account when it starts."""
    if facts.metered:
        return Account(Quota(), "metered")
    poll_ms = (facts.poll_s or 300) * 1000
    quota = Quota([_spec(window) for window in facts.windows] if facts.known else _assumed(), poll_ms)
    if facts.known:
        for report in TrueAccount(facts, prices).reports(STARTS_MS):
            quota.learn(report, STARTS_MS)  # what was used before, from the pool's own books
    return Account(quota, "plan")


def _spec(window: WindowFacts) -> WindowSpec:
    scale = NANO if window.unit is QuotaUnit.MONEY else 1
    return WindowSpec(
        name=window.name,
        kind=window.kind,
        unit=window.unit,
        limit=round(window.limit * scale),
        length_s=window.length_ms // 1000,
        source=WindowSource.PRESET,
        every=window.every if window.kind is WindowKind.ANCHORED else None,
        anchor_day=window.anchor_day,
        anchor_s=window.anchor_s,
    )


def _assumed() -> list[WindowSpec]:
    return [
        WindowSpec(name, WindowKind.ROLLING, QuotaUnit.MONEY, dollars * NANO, length_s, WindowSource.ASSUMED)
        for name, dollars, length_s in ASSUMED
    ]
