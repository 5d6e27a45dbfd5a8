"""Why a request would go where it would go: a dry run of the plan on the live state, which changes nothing."""

from __future__ import annotations

import msgspec

from eggpool.domain import Dialect
from eggpool.engine.insight import Considered, Explanation, PassedOver
from eggpool.engine.pool import Pool
from eggpool.routing.catalog import Offer
from eggpool.routing.plan import Choice, Demand, plan

_NOT_WHY = frozenset({"candidate", "last_used"})  # told by name; an instant that means something only in here


def explain(pool: Pool, model: str, dialect: Dialect | None = None, conversation: str | None = None) -> Explanation:
    """Who would be tried for a request of that model now, in order, and who would not, and why.

    Without a dialect it is one that the model is served in. Raises NotFound for a model that nobody serves and
    NoAccount where there is no account at all.
    """
    offer = pool.offer_of(model)
    spoken = dialect or _spoken(offer)
    now, now_ms = pool.clock.now(), pool.clock.wall_ms()
    planned = plan(pool, offer, Demand(spoken), now, now_ms)
    candidates = tuple(
        Considered(number, choice.candidate.account, choice.candidate.model, _why(choice))
        for number, choice in enumerate(planned.choices, 1)
    )
    return Explanation(
        model=model,
        dialect=spoken,
        conversation=conversation,
        now_ms=now_ms,
        would_go_to=candidates[0].account if candidates else None,
        candidates=candidates,
        refused=tuple(
            PassedOver(one.account, one.reason, one.until_at_ms, _left_s(one.until_at_ms, now_ms))
            for one in sorted(planned.refused, key=lambda refusal: refusal.account)
        ),
        retry_after_s=None if planned.retry_after_s is None else round(planned.retry_after_s, 3),
    )


def _spoken(offer: Offer) -> Dialect:
    everywhere = {dialect for candidate in offer.candidates for dialect in candidate.dialects}
    return next((dialect for dialect in Dialect if dialect in everywhere), Dialect.CHAT)


def _why(choice: Choice) -> dict[str, object]:
    """What the plan says of a choice, whatever that is: it is shown as it is and understood by people."""
    told: dict[str, object] = msgspec.to_builtins(choice)
    return {name: value for name, value in told.items() if name not in _NOT_WHY}


def _left_s(until_ms: int | None, now_ms: int) -> float | None:
    return None if until_ms is None else max(0.0, (until_ms - now_ms) / 1000)
