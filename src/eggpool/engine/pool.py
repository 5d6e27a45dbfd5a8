"""The accounts and all that outlives a request: load, rests, model lists, the catalogue, replies to come back to.

The only lasting state of the program. Every change is one synchronous method, so nothing here needs a lock. A lease is
the one object that a request holds on an account; it is settled exactly once.
"""

from __future__ import annotations

import logging
import random
from collections import OrderedDict

from eggpool.config.schema import Config
from eggpool.domain import AccountLabel, EventRecord
from eggpool.engine.clock import Clock
from eggpool.engine.prices import price_table
from eggpool.routing import catalog as catalogs
from eggpool.routing import health
from eggpool.routing.catalog import AccountModels, Candidate, Catalog, Offer
from eggpool.routing.health import Rest, ScopeKey
from eggpool.routing.plan import Choice
from eggpool.routing.verdict import VERDICTS, Kind
from eggpool.store.ledger import Ledger
from eggpool.upstream.client import Client
from eggpool.upstream.target import Target

_log = logging.getLogger(__name__)

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

    __slots__ = ("_account", "_began", "_pool", "_scopes", "_trials", "candidate", "settled")

    def __init__(self, pool: Pool, account: AccountState, candidate: Candidate, trials: list[ScopeKey]) -> None:
        self._pool = pool
        self._account = account
        self._trials = trials
        self.candidate = candidate
        self._began = account.last_used
        self.settled = False
        self._scopes: dict[str, ScopeKey] = {
            "model": health.model_scope(candidate.account, candidate.model),
            "account": health.account_scope(candidate.account),
            "provider": health.provider_scope(candidate.provider),
        }

    @property
    def target(self) -> Target:
        """Where the leased account is."""
        return self._account.target

    def answered(self) -> None:
        """The account answers: whatever rested on the way is well, however long the answer takes."""
        self._pool.step(tuple(self._scopes.values()), health.Succeeded(self._began), self.candidate.account)

    def ended(self) -> None:
        """The answer is over, whole or not wanted any more."""
        self._settle()

    def left(self) -> None:
        """The attempt ended without telling anything about the account."""
        self._settle()
        self._pool.step(tuple(self._trials), health.TrialLeft(), self.candidate.account)

    def failed(self, kind: Kind, told_s: float | None) -> float | None:
        """The attempt failed; what the verdict names is put to rest. Gives the length of that rest in seconds."""
        self._settle()
        verdict = VERDICTS[kind]
        scope = self._scopes.get(verdict.scope) if verdict.scope else None
        others = tuple(trial for trial in self._trials if trial != scope)
        self._pool.step(others, health.TrialLeft(), self.candidate.account)
        if scope is None:
            return None
        failure = health.Failed(
            kind=kind.value,
            on_providers_word=verdict.on_providers_word,
            first_rest_s=verdict.first_rest_s,
            jitter=random.random(),  # noqa: S311 - spreads retries, guards nothing
            told_s=told_s,
        )
        return self._pool.step((scope,), failure, self.candidate.account)

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
        self._ledger = ledger
        self.accounts: dict[AccountLabel, AccountState] = {}
        self.clients: dict[str, Client] = {}
        self.rests: dict[ScopeKey, Rest] = {}
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
    def in_flight(self) -> int:
        """Leases not settled yet."""
        return sum(account.in_flight for account in self.accounts.values())

    @property
    def resting(self) -> frozenset[AccountLabel]:
        """The accounts that rest as a whole now."""
        now = self.clock.now()
        return frozenset(
            label
            for label in self.accounts
            if health.status(self.rests.get(health.account_scope(label)), now) == "resting"
        )

    @property
    def ready(self) -> bool:
        """Whether at least one account can be tried now."""
        now = self.clock.now()
        refusing = {
            scope for scope, rest in self.rests.items() if rest.on_providers_word and health.status(rest, now) != "due"
        }
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
        trials: list[ScopeKey] = []
        if self.rests:
            for scope in (
                health.model_scope(candidate.account, candidate.model),
                health.account_scope(candidate.account),
                health.provider_scope(candidate.provider),
            ):
                if health.status(self.rests.get(scope), now) == "due":
                    trials.append(scope)
            self.step(tuple(trials), health.TrialBegan(), candidate.account)
        return Lease(self, account, candidate, trials)

    def step(self, scopes: tuple[ScopeKey, ...], event: health.Event, account: AccountLabel) -> float | None:
        """Move scopes on by an event; gives the length in seconds of the rest that it leads to, if any."""
        if not self.rests and not isinstance(event, health.Failed):
            return None
        now = self.clock.now()
        length: float | None = None
        for scope in scopes:
            before = self.rests.get(scope)
            after = health.step(before, event, now)
            if after is None:
                self.rests.pop(scope, None)
                if before is not None:
                    self._tell("account_recovered", account, f"{_words(scope)} works again after {before.kind}.")
                continue
            self.rests[scope] = after
            if isinstance(event, health.Failed):
                length = after.until - now
                if before is None or before.kind != after.kind:
                    self._tell("account_resting", account, f"{_words(scope)} rests for {length:.0f} s: {after.kind}.")
        return length

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

    def _tell(self, kind: str, account: AccountLabel, detail: str) -> None:
        _log.info("%s: %s", account, detail)
        self._ledger.event(EventRecord(self.clock.wall_ms(), kind, detail, account))


def _words(scope: ScopeKey) -> str:
    kind, *names = scope
    return f"The {kind}" if kind != "model" else f"The model {names[1]}"
