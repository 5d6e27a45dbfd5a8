"""The accounts and all that outlives a request: load, rests, model lists, the catalogue, replies to come back to.

The only lasting state of the program. Every change is one synchronous method, so nothing here needs a lock. A lease is
the one object that a request holds on an account; it is settled exactly once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from eggpool.config.schema import Config
from eggpool.domain import AccountLabel, Dialect, QuotaReport
from eggpool.engine.clock import Clock
from eggpool.engine.leases import AccountState, Lease, hand_on
from eggpool.engine.prices import price_table
from eggpool.engine.rests import Rests
from eggpool.engine.waiting import Line, Waiter
from eggpool.errors import NoAccount, NotFound
from eggpool.routing import catalog as catalogs
from eggpool.routing import codex_headers, health
from eggpool.routing.affinity import Affinity
from eggpool.routing.catalog import AccountModels, Candidate, Catalog, Offer
from eggpool.routing.health import Rest, ScopeKey
from eggpool.routing.plan import Choice
from eggpool.routing.rate_headers import read as read_headers
from eggpool.routing.speech import REFUSED_FOR_S, Surface
from eggpool.routing.spending import NOTHING, Spending
from eggpool.routing.verdict import Kind
from eggpool.routing.windows import Channel
from eggpool.store.ledger import Ledger
from eggpool.upstream.client import Client
from eggpool.upstream.meters import Reading
from eggpool.upstream.target import Target
from eggpool.wire.counting import Calibration

MAX_REMEMBERED_REPLIES = 20_000
MAX_REMEMBERED_NAMES = 1000
MAX_REFUSED_SURFACES = 10_000  # models are named by callers


class Pool:
    """All accounts of a configuration."""

    def __init__(self, config: Config, ledger: Ledger, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self.accounts: dict[AccountLabel, AccountState] = {}
        self.clients: dict[str, Client] = {}
        self.resting_scopes = Rests(ledger, clock)
        self.line = Line()
        self.calibration = Calibration()
        self.refused_surfaces: dict[Surface, float] = {}
        self.affinity = Affinity(config.routing.affinity_ttl_s * 1000)
        self.lists: dict[AccountLabel, AccountModels] = {}
        self.catalog = Catalog()
        self._offers: dict[str, tuple[Offer, ...]] = {}  # of names that were asked for since it was built
        self._replies: OrderedDict[str, AccountLabel] = OrderedDict()
        for provider in config.providers.values():
            self.clients[provider.id] = Client(provider)
            for account in provider.accounts:
                if provider.enabled and account.enabled:
                    self.accounts[account.label] = AccountState(Target(provider, account), account)

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
        now_ms = self.clock.wall_ms()
        return any(
            health.account_scope(label) not in refusing
            and health.provider_scope(account.provider) not in refusing
            and account.quota.refusal(now_ms) is None
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

    def offers_of(self, model: str | None) -> tuple[Offer, ...]:
        """The accounts that have what a request asks for; all of them when it names no model. Of an alias there may be
        several offers, each to be used when nothing can serve the ones before it.

        Raises NoAccount, or NotFound with near names for a model that nobody serves.
        """
        if not self.accounts:
            raise NoAccount("No account is set up; add one with: eggpool connect PROVIDER --key-env NAME")
        if model is None:
            return (self.everyone(),)
        known = self._offers.get(model)
        if known is not None:
            return known
        offers = self.catalog.chain(model)
        if not offers:
            near = self.catalog.near(model)
            hint = f" Near it: {', '.join(near)}." if near else " GET /v1/models lists what there is."
            raise NotFound(
                f"The model {model} is not served by any account.{hint}", param="model", code="model_not_found"
            )
        if len(self._offers) < MAX_REMEMBERED_NAMES:
            self._offers[model] = offers
        return offers

    def refuse_surface(self, candidate: Candidate, dialect: Dialect) -> None:
        """A provider does not serve a model in this dialect; for a while it is not asked for it."""
        now = self.clock.now()
        if len(self.refused_surfaces) >= MAX_REFUSED_SURFACES:
            self.refused_surfaces.clear()
        for surface in [one for one, until in self.refused_surfaces.items() if until <= now]:
            del self.refused_surfaces[surface]
        self.refused_surfaces[candidate.provider, candidate.model, dialect] = now + REFUSED_FOR_S

    def lease(self, choice: Choice, estimate: Spending = NOTHING) -> Lease:
        """Take the account of a choice; the caller settles the lease, whatever happens. `estimate` is set aside."""
        candidate = choice.candidate
        account = self.accounts[candidate.account]
        lease = Lease(account, candidate, estimate, self.resting_scopes, self.line, self.clock)
        lease.begin_trials()
        return lease

    def leave_line(self, waiter: Waiter) -> AccountLabel | None:
        """A request waits no longer. A place that was handed to it is free again, for it to take before it waits for
        anything, and then to be offered on with `offer`."""
        label = self.line.leave(waiter)
        if label is not None:
            self.accounts[label].in_flight -= 1
        return label

    def offer(self, label: AccountLabel) -> None:
        """Hand a place that was not taken to the next who waits."""
        hand_on(self.accounts[label], self.line)

    def told_codex(self) -> list[tuple[bytes, bytes]]:
        """The quota of the whole pool as Codex shows it."""
        now_ms = self.clock.wall_ms()
        return codex_headers.of_the_pool(account.quota.view(now_ms) for account in self.accounts.values())

    def learn(self, label: AccountLabel, reports: Iterable[QuotaReport], channel: Channel) -> None:
        """Take in what a provider said about an account's windows."""
        account = self.accounts.get(label)
        if account is None:
            return
        for report in reports:
            account.quota.learn(report, self.clock.wall_ms(), channel)
            account.changed = True

    def learn_reading(self, label: AccountLabel, reading: Reading) -> None:
        """Take in what an account's usage endpoint said. Where that is that there is quota, a rest for want of it is
        in doubt: it may have been given back before its time."""
        account = self.accounts.get(label)
        if account is None:
            return
        account.balance_nanodollars = reading.balance_nanodollars
        self.learn(label, reading.reports, "meter")
        if reading.reports and account.quota.refusal(self.clock.wall_ms()) is None:
            self.resting_scopes.doubt(health.account_scope(label), Kind.PLAN_WINDOW.value)
            self.line.wake()

    def learn_headers(self, candidate: Candidate, headers: Iterable[tuple[bytes, bytes]], now_ms: int) -> None:
        """Take in what the headers of a reply say about its account's windows."""
        account = self.accounts[candidate.account]
        reports = read_headers(headers, now_ms, model=candidate.model, periods=account.periods)
        if reports:
            self.learn(candidate.account, reports, "headers")

    def set_used(self, label: AccountLabel, window: str, share: float) -> bool:
        """A person says how far a window is used; it holds until the window resets. False: there is no such window."""
        account = self.accounts[label]
        account.changed = True
        return account.quota.set_used(window, share, self.clock.wall_ms())

    def take_list(self, account: AccountLabel, models: AccountModels) -> None:
        """Replace what an account is known to have, and the catalogue with it."""
        self.lists[account] = models
        self.rebuild()

    def rebuild(self) -> None:
        """Build the catalogue anew from the lists."""
        self._offers.clear()
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
