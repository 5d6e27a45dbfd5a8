"""One account while the program runs, and the hold that an attempt has on it.

A lease is taken by `Pool.lease` and settled exactly once: the place is given back or handed on, what was reserved
becomes what was spent, and the scopes that failed rest. All of it is synchronous.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from eggpool.config.schema import Account
from eggpool.domain import Billing
from eggpool.engine.clock import Clock
from eggpool.engine.rests import Rests
from eggpool.engine.waiting import Line
from eggpool.routing import health
from eggpool.routing.catalog import Candidate
from eggpool.routing.health import ScopeKey
from eggpool.routing.quota import Quota
from eggpool.routing.rate_headers import periods_of
from eggpool.routing.spending import NOTHING, Spending
from eggpool.routing.verdict import VERDICTS, Kind
from eggpool.upstream.target import Target


class AccountState:
    """What is known of one account while the program runs."""

    __slots__ = (
        "balance_nanodollars",
        "billing",
        "changed",
        "in_flight",
        "label",
        "last_used",
        "max_concurrency",
        "periods",
        "provider",
        "quota",
        "target",
        "weight",
    )

    def __init__(self, target: Target, account: Account) -> None:
        self.target = target
        self.label = target.account
        self.provider = target.provider.id
        self.weight = account.weight
        self.max_concurrency = account.max_concurrency
        self.billing: Billing = account.billing or target.provider.billing or "metered"
        interval_s = account.meter_interval_s or target.provider.meter_interval_s
        self.quota = Quota(account.quota, round(interval_s * 1000))
        self.periods = periods_of(target.provider.base_url)  # that its rate-limit headers mean
        self.balance_nanodollars: int | None = None  # money that is left, where its provider tells
        self.changed = False  # whether its quota has moved since it was kept last
        self.in_flight = 0
        self.last_used = 0.0


ONE_REQUEST = Spending(0, 0, 1)
"""A request of which nobody knows what it cost."""


class Lease:
    """One attempt's hold on an account: taken by `Pool.lease`, ended by exactly one call of a settling method."""

    __slots__ = (
        "_account",
        "_clock",
        "_line",
        "_reservation",
        "_rests",
        "_trials",
        "began",
        "began_ms",
        "candidate",
        "settled",
    )

    def __init__(
        self, account: AccountState, candidate: Candidate, estimate: Spending, rests: Rests, line: Line, clock: Clock
    ) -> None:
        self._account = account
        self._rests = rests
        self._line = line
        self._clock = clock
        self._trials: list[ScopeKey] = []
        self.candidate = candidate
        self.began = account.last_used = clock.now()
        account.in_flight += 1
        self.began_ms = clock.wall_ms()
        self._reservation = account.quota.reserve(estimate, self.began_ms, candidate.model)
        self.settled = False

    @property
    def target(self) -> Target:
        """Where the leased account is."""
        return self._account.target

    def begin_trials(self) -> None:
        """What is due is tried by this very request; until it has ended, others see that somebody is trying."""
        if self._rests.states:
            self._trials = self._rests.due(self._scopes().values())
            self._step(self._trials, health.TrialBegan())

    def answered(self) -> None:
        """The account answers: whatever rested on the way is well, however long the answer takes."""
        resting = len(self._rests.states)
        if resting:
            self._step(self._scopes().values(), health.Succeeded(self.began))
            if len(self._rests.states) < resting:
                self._line.wake()

    def ended(self, spent: Spending) -> None:
        """The answer is over, whole or not wanted any more."""
        self._settle(spent)

    def left(self) -> None:
        """The attempt ended without telling anything about the account, not even what it cost."""
        self._settle(ONE_REQUEST)
        self._step(self._trials, health.TrialLeft())
        if self._trials:
            self._line.wake()  # for the next trial

    def failed(self, kind: Kind, told_s: float | None, spent: Spending = NOTHING) -> float | None:
        """The attempt failed; what the verdict names is put to rest. Gives the length of that rest in seconds."""
        self._settle(spent)
        verdict = VERDICTS[kind]
        scope = self._scopes().get(verdict.scope) if verdict.scope else None
        obeys = verdict.obeys and told_s is not None
        if obeys and told_s is not None:
            told_s = min(told_s, health.LONGEST_GUESS_S)  # it is not a window: nobody knows how long it will last
        self._step([trial for trial in self._trials if trial != scope], health.TrialLeft())
        if scope is None:
            return None
        failure = health.Failed(
            kind=kind.value,
            on_providers_word=verdict.on_providers_word or obeys,
            first_rest_s=verdict.first_rest_s,
            jitter=random.random(),  # noqa: S311 - spreads retries, guards nothing
            told_s=told_s,
        )
        return self._step((scope,), failure)

    def _scopes(self) -> dict[str, ScopeKey]:
        """What may rest on the way to the account, by the verdict's word for it."""
        candidate = self.candidate
        return {
            "model": health.model_scope(candidate.account, candidate.model),
            "account": health.account_scope(candidate.account),
            "provider": health.provider_scope(candidate.provider),
        }

    def _step(self, scopes: Iterable[ScopeKey], event: health.Event) -> float | None:
        return self._rests.step(scopes, event, self.candidate.account)

    def _settle(self, spent: Spending) -> None:
        if self.settled:
            raise RuntimeError("a lease was settled twice")
        self.settled = True
        account = self._account
        account.quota.settle(self._reservation, spent, self._clock.wall_ms())
        account.changed = True
        account.in_flight -= 1
        if len(self._line):
            hand_on(account, self._line)


def hand_on(account: AccountState, line: Line) -> None:
    """Give a free place to whoever waits for it; it counts as taken until that request takes it."""
    bound = account.max_concurrency
    if bound is not None and account.in_flight < bound and line.hand(account.label):
        account.in_flight += 1
