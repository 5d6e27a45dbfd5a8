"""Why a request would go where it would go: a dry run of the plan on the live state, which changes nothing."""

from __future__ import annotations

import msgspec

from eggpool.domain import Dialect
from eggpool.engine.insight import Considered, Explanation, PassedOver
from eggpool.engine.pool import Pool
from eggpool.engine.search import EXPECTED_OUTPUT_TOKENS
from eggpool.routing import decision as decisions
from eggpool.routing.catalog import Offer
from eggpool.routing.decision import explanation
from eggpool.routing.plan import Affinity, Demand, Plan, plan
from eggpool.routing.spending import Spending
from eggpool.wire.conversation import named_keys

DEFAULT_CLIENT = "default"

_NOT_WHY = frozenset({"account", "model"})  # told by themselves


def explain(
    pool: Pool,
    model: str,
    dialect: Dialect | None = None,
    conversation: str | None = None,
    client: str = DEFAULT_CLIENT,
) -> Explanation:
    """Who would be tried for a request of that model now, in order, and who would not, and why.

    Without a dialect it is one that the model is served in. `conversation` is the client's own name for it, as it
    stands in its header or field. Of an alias the first model counts that somebody can serve. Raises NotFound for a
    model that nobody serves and NoAccount where there is no account at all.
    """
    offers = pool.offers_of(model)
    spoken = dialect or _spoken(offers)
    now, now_ms = pool.clock.now(), pool.clock.wall_ms()
    keys = () if conversation is None else named_keys(client, model, conversation)
    bound = next((found for key in keys if (found := pool.affinity.bound(key, now_ms)) is not None), None)
    affinity = None if bound is None else Affinity(bound.account, bound.warm)
    config = pool.config
    demand = Demand(
        spoken,
        translates=config.translation.enabled,
        estimate=Spending(0, EXPECTED_OUTPUT_TOKENS, 1),
        affinity=affinity,
        affinity_slack=config.routing.affinity_slack,
    )
    plans = [plan(pool, offer, demand, now, now_ms) for offer in offers]
    planned = _first_of(plans)
    told = explanation(planned, demand, pool, now_ms)
    candidates = tuple(
        Considered(number, one.account, one.model, _why(one)) for number, one in enumerate(told.choices, 1)
    )
    return Explanation(
        model=model,
        dialect=spoken,
        conversation=conversation,
        binding=told.binding,
        bound_to=told.bound_to,
        now_ms=now_ms,
        would_go_to=candidates[0].account if candidates else None,
        candidates=candidates,
        refused=tuple(
            PassedOver(one.account, one.reason, one.until_at_ms, _left_s(one.until_at_ms, now_ms))
            for one in sorted(planned.refused, key=lambda refusal: refusal.account)
        ),
        retry_after_s=None if planned.retry_after_s is None else round(planned.retry_after_s, 3),
    )


def _first_of(plans: list[Plan]) -> Plan:
    """Of the plans of a chain the one that a request would go by."""
    at_work = [one for one in plans if one.first is not None and not one.first.last_resort]
    anyone = [one for one in plans if one.first is not None]
    understood = [one for one in plans if not one.wrong_dialect]
    return (at_work or anyone or understood or plans)[0]


def _spoken(offers: tuple[Offer, ...]) -> Dialect:
    """The dialect of the first of these that is served in any."""
    for offer in offers:
        everywhere = {dialect for candidate in offer.candidates for dialect in candidate.dialects}
        found = next((dialect for dialect in Dialect if dialect in everywhere), None)
        if found is not None:
            return found
    return Dialect.CHAT


def _why(considered: decisions.Considered) -> dict[str, object]:
    """What the plan says of a choice, whatever that is: it is shown as it is and understood by people."""
    told: dict[str, object] = msgspec.to_builtins(considered)
    return {name: value for name, value in told.items() if name not in _NOT_WHY}


def _left_s(until_ms: int | None, now_ms: int) -> float | None:
    return None if until_ms is None else max(0.0, (until_ms - now_ms) / 1000)
