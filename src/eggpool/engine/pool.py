"""The accounts and all that outlives a request: load, rests, model lists, the catalogue, replies to come back to.

The only lasting state of the program. Every change is one synchronous method, so nothing here needs a lock. A lease is
the one object that a request holds on an account; it is settled exactly once.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from eggpool.config.schema import Config
from eggpool.domain import AccountLabel
from eggpool.engine.clock import Clock
from eggpool.engine.prices import price_table
from eggpool.engine.rests import Rests
from eggpool.routing import catalog as catalogs
from eggpool.routing import health
from eggpool.routing.catalog import AccountModels, Candidate, Catalog, Offer
from eggpool.routing.health import Rest, ScopeKey
from eggpool.routing.plan import Choice
from eggpool.routing.verdict import VERDICTS, Kind
from eggpool.store.ledger import Ledger
from eggpool.upstream.client import Client
from eggpool.upstream.target import Target

MAX_REMEMBERED_REPLIES = 20_000


class AccountState:
    """What is known of one account while the program runs."""

    __slots__ = ("in_flight", "label", "last_used", "max_concurrency", "provider", "target", "weight")

    def __init__(self, target: Target, weight: float, max_concurrency: int | None) -> None:
        self.target = target
        self.label = target.account
        self.provider = target.provider.id
        self.weight = weight
        self.max_concurrency = max_concurrency
        self.in_flight = 0
        self.last_used = 0.0


class Lease:
    """One attempt's hold on an account: taken by `Pool.lease`, ended by exactly one call of a settling method."""

    __slots__ = ("_account", "_began", "_pool", "_trials", "candidate", "settled")

    def __init__(self, pool: Pool, account: AccountState, candidate: Candidate) -> None:
        self._pool = pool
        self._account = account
        self._trials: list[ScopeKey] = []
        self.candidate = candidate
        self._began = account.last_used
        self.settled = False

    @property
    def target(self) -> Target:
        """Where the leased account is."""
        return self._account.target

    def begin_trials(self) -> None:
        """What is due is tried by this very request; until it has ended, others see that somebody is trying."""
        if self._pool.rests:
            self._trials = self._pool.resting_scopes.due(self._scopes().values())
            self._step(self._trials, health.TrialBegan())

    def answered(self) -> None:
        """The account answers: whatever rested on the way is well, however long the answer takes."""
        if self._pool.rests:
            self._step(self._scopes().values(), health.Succeeded(self._began))

    def ended(self) -> None:
        """The answer is over, whole or not wanted any more."""
        self._settle()

    def left(self) -> None:
        """The attempt ended without telling anything about the account."""
        self._settle()
        self._step(self._trials, health.TrialLeft())

    def failed(self, kind: Kind, told_s: float | None) -> float | None:
        """The attempt failed; what the verdict names is put to rest. Gives the length of that rest in seconds."""
        self._settle()
        verdict = VERDICTS[kind]
        scope = self._scopes().get(verdict.scope) if verdict.scope else None
        self._step([trial for trial in self._trials if trial != scope], health.TrialLeft())
        if scope is None:
            return None
        failure = health.Failed(
            kind=kind.value,
            on_providers_word=verdict.on_providers_word,
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
        return self._pool.resting_scopes.step(scopes, event, self.candidate.account)

    def _settle(self) -> None:
        if self.settled:
            raise RuntimeError("a lease was settled twice")
        self.settled = True
        self._account.in_flight -= 1


class Pool:
    """All accounts of a configuration."""

    def __init__(self, config: Config, ledger: Ledger, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self.accounts: dict[AccountLabel, AccountState] = {}
        self.clients: dict[str, Client] = {}
        self.resting_scopes = Rests(ledger, clock)
        self.lists: dict[AccountLabel, AccountModels] = {}
        self.catalog = Catalog()
        self._replies: OrderedDict[str, AccountLabel] = OrderedDict()
        for provider in config.providers.values():
            self.clients[provider.id] = Client(provider)
            for account in provider.accounts:
                if provider.enabled and account.enabled:
                    target = Target(provider, account)
                    self.accounts[account.label] = AccountState(target, account.weight, account.max_concurrency)

    @property
    def rests(self) -> Mapping[ScopeKey, Rest]:
        """What rests, is due or on trial, by scope."""
        return self.resting_scopes.states

    @property
    def in_flight(self) -> int:
        """Leases not settled yet."""
        return sum(account.in_flight for account in self.accounts.values())

    @property
    def resting(self) -> frozenset[AccountLabel]:
        """The accounts that rest as a whole now."""
        status = self.resting_scopes.status
        return frozenset(label for label in self.accounts if status(health.account_scope(label)) == "resting")

    @property
    def ready(self) -> bool:
        """Whether at least one account can be tried now."""
        status = self.resting_scopes.status
        refusing = {scope for scope, rest in self.rests.items() if rest.on_providers_word and status(scope) != "due"}
        return any(
            health.account_scope(label) not in refusing and health.provider_scope(account.provider) not in refusing
            for label, account in self.accounts.items()
        )

    def everyone(self) -> Offer:
        """All accounts, for a request that names no model."""
        return Offer(
            "",
            tuple(
                Candidate(
                    account=account.label,
                    provider=account.provider,
                    model="",
                    dialects=account.target.provider.dialects,
                    routing_priority=account.target.provider.routing_priority,
                )
                for account in self.accounts.values()
            ),
        )

    def lease(self, choice: Choice) -> Lease:
        """Take the account of a choice; the caller settles the lease, whatever happens."""
        now = self.clock.now()
        candidate = choice.candidate
        account = self.accounts[candidate.account]
        account.in_flight += 1
        account.last_used = now
        lease = Lease(self, account, candidate)
        lease.begin_trials()
        return lease

    def take_list(self, account: AccountLabel, models: AccountModels) -> None:
        """Replace what an account is known to have, and the catalogue with it."""
        self.lists[account] = models
        self.rebuild()

    def rebuild(self) -> None:
        """Build the catalogue anew from the lists."""
        self.catalog = catalogs.build(
            self.config, self.lists, price_table(self.config, self.lists), self.clock.wall_ms()
        )

    def remember_reply(self, reply_id: str, account: AccountLabel) -> None:
        """Later requests that name this reply go to the account that made it. The oldest are forgotten."""
        self._replies[reply_id] = account
        self._replies.move_to_end(reply_id)
        if len(self._replies) > MAX_REMEMBERED_REPLIES:
            self._replies.popitem(last=False)

    def account_of_reply(self, reply_id: str) -> AccountLabel | None:
        """The account that made a reply, None when it is not remembered."""
        return self._replies.get(reply_id)

    async def aclose(self) -> None:
        """Close all connections to providers."""
        for client in self.clients.values():
            await client.aclose()
