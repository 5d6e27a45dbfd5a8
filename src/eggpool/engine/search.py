"""Which account a request tries next, and whether it waits for one.

Holds what one request has tried and what its model stands for; the order is `routing.plan`'s to say, and a plan is made
anew for each try, because other requests have moved the state on meanwhile.
"""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from eggpool.config.schema import Config, Routing
from eggpool.domain import AccountLabel, Dialect, Needs
from eggpool.engine.inbound import Inbound
from eggpool.engine.pool import Pool
from eggpool.errors import BadRequest
from eggpool.routing.capabilities import SURELY, asks_for_images, surely_too_long
from eggpool.routing.catalog import Candidate, Offer
from eggpool.routing.plan import NO_NEEDS, Affinity, Choice, Demand, Plan, plan
from eggpool.routing.speech import spoken
from eggpool.routing.spending import Spending
from eggpool.wire import too_long
from eggpool.wire.counting import content_bytes
from eggpool.wire.needs import glance, has_images

WELL_KNOWN = 0.1  # mean error of the estimates, as a share, below which they are trusted
CALIBRATED = 1.15  # by how much the estimate of a known model must be over its window
EXPECTED_OUTPUT_TOKENS = 500
IMPATIENT_WAIT_S = 5.0
"""How long a request of a client waits that gives up at its first 429 (Codex), where the configuration says nothing."""

SHORTEST_WAIT_S = 0.01


class Search:
    """The search of one request for an account. Raises NoAccount or NotFound when there is nothing to look through."""

    __slots__ = (
        "_bounded",
        "_ceiling",
        "_in_vain",
        "_inbound",
        "_input_tokens",
        "_max_wait_s",
        "_offers",
        "_place",
        "_plans",
        "_pool",
        "_rank",
        "_translates",
        "_tried",
        "_tries",
        "content",
        "demand",
        "dialect",
        "others_left",
        "planned",
    )

    def __init__(self, pool: Pool, inbound: Inbound, config: Config) -> None:
        routing = config.routing
        self._translates = config.translation.enabled
        self._pool = pool
        self._inbound = inbound
        self._offers = pool.offers_of(inbound.model)
        self._bounded = [one for offer in self._offers for one in offer.bounded]
        self._ceiling = routing.max_retries_before_stream
        self._max_wait_s = routing.max_wait_ms / 1000
        self._tries = 0
        self._tried: set[tuple[AccountLabel, str]] = set()  # that are not to be tried again
        self._in_vain: set[tuple[AccountLabel, str, Dialect | None]] = set()  # asked in vain in this dialect
        self._plans: list[Plan] = []
        self._place: AccountLabel | None = None  # that was handed to this request while it waited
        self._rank: int | None = None  # among those who wait
        self.content = content_bytes(inbound.body or b"")
        self._input_tokens = pool.calibration.estimate(self._offers[0].model, self.content)
        self.demand = self._demand(routing)
        self.dialect = self.demand.dialect  # in which the last choice is asked
        self.planned: Plan | None = None  # the first one that found an account, else the last one that found none
        self.others_left = False  # whether somebody could be tried after the last choice

    def check_length(self) -> None:
        """Raises BadRequest, in the words that agents look for, for what is surely too long for everybody."""
        if not self._bounded or not self._inbound.surface.answers:
            return
        tokens = self._input_tokens
        limit = self._shorter_than_it(CALIBRATED)
        if limit is None:
            return  # as nearly always: how well the estimates are known does not matter then
        error = self._pool.calibration.error(self._offers[0].model)
        if error is None or error > WELL_KNOWN:
            limit = self._shorter_than_it(SURELY)
        if limit is not None:
            message = too_long.counted(self.demand.dialect, tokens, limit)
            raise BadRequest(message, code=too_long.CODE)

    def _shorter_than_it(self, margin: float) -> int | None:
        candidates = (candidate for offer in self._offers for candidate in offer.candidates)
        return surely_too_long(candidates, self._input_tokens, margin)

    @property
    def counted(self) -> int:
        """The request's input tokens, as far as one can tell."""
        return self._input_tokens

    def next(self) -> Choice | None:
        """The account to try now, None when nobody is left. The caller leases it before it waits for anything."""
        self._plans = []
        if not self._may_go_on():
            return None
        for offer in self._offers:
            planned = self._plan(offer)
            self._plans.append(planned)
            choice = planned.first
            if choice is not None and not choice.last_resort:
                return self._chosen(planned, choice)
        for planned in self._plans:  # of a chain, the next model comes before the last resort
            choice = planned.first
            if choice is not None:
                return self._chosen(planned, choice)
        if not self._tries:
            # Of a chain, what can be waited for says more than that a model does not speak the client's dialect.
            self.planned = next((one for one in self._plans if not one.wrong_dialect), self._plans[0])
        return None

    def not_asked(self) -> None:
        """The last choice cannot be told what the request wants, in its dialect: that was no try."""
        self._tries -= 1

    @property
    def native_comes_back(self) -> bool:
        """Whether an account that speaks the client's dialect may be asked later, though not now."""
        native = tuple(
            Offer(offer.model, tuple(one for one in offer.candidates if self.demand.dialect in one.dialects))
            for offer in self._offers
        )
        return any(self._plan(offer, everybody=True).retry_after_s is not None for offer in native if offer.candidates)

    def once_more(self, candidate: Candidate) -> bool:
        """Let the first choice be chosen again, when it is the only one that there is; False when it is not."""
        if self._tries != 1 or self.others_left or not self._may_go_on():
            return False
        self._tried.discard((candidate.account, candidate.model))
        return True

    def ask_otherwise(self, candidate: Candidate) -> None:
        """The last choice does not serve the model in the dialect that it was asked in: it may in another one."""
        refused = self.dialect
        if not self.demand.translates or len(candidate.dialects) < 2:
            return
        self._pool.refuse_surface(candidate, refused)
        self._in_vain.add((candidate.account, candidate.model, refused))
        following = self._spoken(candidate)
        if (candidate.account, candidate.model, following) not in self._in_vain:
            self._tried.discard((candidate.account, candidate.model))

    def _spoken(self, candidate: Candidate) -> Dialect | None:
        pool, demand = self._pool, self.demand
        return spoken(
            candidate,
            demand.dialect,
            translates=demand.translates,
            refused=pool.refused_surfaces,
            now=pool.clock.now(),
        )

    def _chosen(self, planned: Plan, choice: Choice) -> Choice:
        if not self._tries:
            self.planned = planned
        candidate, wanted = choice.candidate, self.demand.dialect
        native = wanted in candidate.dialects and not self._pool.refused_surfaces
        self.dialect = wanted if native else self._spoken(candidate) or wanted
        self._tries += 1
        self._tried.add((candidate.account, candidate.model))
        self.others_left = self._may_go_on() and (planned.count > 1 or self._others_in_chain())
        return choice

    def _others_in_chain(self) -> bool:
        return len(self._offers) > 1 and any(self._plan(offer).count for offer in self._offers)

    def leased(self) -> None:
        """The choice was leased, or there was none: a place that was handed over and not taken goes to the next."""
        place, self._place = self._place, None
        if place is not None:
            self._pool.offer(place)

    def only_larger_than(self, candidate: Candidate) -> None:
        """From now on only accounts whose window for the model is known to be larger."""
        self._offers = tuple(offer.larger_than(candidate) for offer in self._offers)

    @property
    def retry_after_s(self) -> float | None:
        """When the first account comes back that may not be asked now, tried or not."""
        plans = [self._plan(offer, everybody=True) for offer in self._offers]
        return min((one.retry_after_s for one in plans if one.retry_after_s is not None), default=None)

    @property
    def offers(self) -> tuple[Offer, ...]:
        """What the model stands for."""
        return self._offers

    async def wait(self) -> bool:
        """Wait until an account may have come back; False when none will before the request's patience is over.

        One that was tried and rests since, for as long as it said itself, may then be tried again.
        """
        inbound = self._inbound
        patience_s = self._max_wait_s or (IMPATIENT_WAIT_S if inbound.gives_up_at_429 else 0.0)
        left_s = inbound.arrived + patience_s - self._pool.clock.now()
        if left_s <= 0 or not self._may_go_on():
            return False
        plans = [self._plan(offer, everybody=True) for offer in self._offers]
        full, word = self._refused(plans)
        back_s = min((one.retry_after_s for one in plans if one.retry_after_s is not None), default=None)
        if not full and (back_s is None or back_s > left_s):
            return False
        self._tried -= word
        wait_s = max(left_s if back_s is None else min(left_s, back_s), SHORTEST_WAIT_S)
        if self._rank is None:
            self._rank = self._pool.line.rank()
        waiter = self._pool.line.join(full, self._rank)
        try:
            async with asyncio.timeout(wait_s):
                await waiter.turn
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            self._place = self._pool.leave_line(waiter)
            self.leased()
            raise
        self._place = self._pool.leave_line(waiter)
        return True

    def _may_go_on(self) -> bool:
        return not self._ceiling or self._tries <= self._ceiling

    def _refused(self, plans: list[Plan]) -> tuple[set[AccountLabel], set[tuple[AccountLabel, str]]]:
        """Who is full and was not tried, and who is refused by a word that has an end."""
        full: set[AccountLabel] = set()
        word: set[tuple[AccountLabel, str]] = set()
        for offer, planned in zip(self._offers, plans, strict=True):
            reasons = {one.account: one for one in planned.refused}
            for candidate in offer.candidates:
                refusal, tried = reasons.get(candidate.account), (candidate.account, candidate.model)
                if refusal is None:
                    continue
                if refusal.reason == "max_concurrency" and tried not in self._tried:
                    full.add(candidate.account)
                elif refusal.until_at_ms is not None:
                    word.add(tried)
        return full, word

    def _plan(self, offer: Offer, *, everybody: bool = False) -> Plan:
        """A plan for those who were not tried yet, or for `everybody`."""
        clock, tried = self._pool.clock, self._tried
        if tried and not everybody:
            left = tuple(one for one in offer.candidates if (one.account, one.model) not in tried)
            offer = Offer(offer.model, left)
        return plan(self._pool, offer, self.demand, clock.now(), clock.wall_ms())

    def _demand(self, routing: Routing) -> Demand:
        inbound = self._inbound
        bound = self._pool.affinity.bound(inbound.conversation, inbound.arrived_ms)
        tokens = self._input_tokens + EXPECTED_OUTPUT_TOKENS
        return Demand(
            dialect=inbound.surface.dialect,
            translates=self._translates and inbound.surface.translates and inbound.envelope is not None,
            only=inbound.only,
            estimate=Spending(0, tokens, 1),
            affinity=None if bound is None else Affinity(bound.account, bound.warm),
            affinity_slack=routing.affinity_slack,
            needs=self._needs(),
        )

    def _needs(self) -> Needs:
        """What the request needs of a model; looked for only where a candidate is known to lack something."""
        envelope = self._inbound.envelope
        if envelope is None or not self._bounded:
            return NO_NEEDS
        needs = glance(envelope, self._input_tokens)
        return replace(needs, images=has_images(envelope)) if asks_for_images(self._bounded) else needs


def estimate_for(candidate: Candidate, demand: Demand) -> Spending:
    """What a request will probably cost at this candidate: what is set aside while it runs."""
    tokens, price = demand.estimate.tokens, candidate.price
    rate = price.input if price is not None else None
    return demand.estimate if rate is None else Spending(tokens * rate // 1_000_000, tokens, 1)
