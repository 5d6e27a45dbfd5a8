"""What a client is told when no account answers its request."""

from __future__ import annotations

import math

from eggpool.engine.inbound import Inbound
from eggpool.engine.judging import Failure
from eggpool.engine.search import Search
from eggpool.errors import AllLimited, BadRequest, CannotServe, NotFound, RequestRefused
from eggpool.routing.verdict import Kind
from eggpool.wire import too_long

MAX_REASONS = 20  # accounts named in an error message

_LIMITS = frozenset({Kind.RATE, Kind.PLAN_WINDOW, Kind.BALANCE, Kind.CONCURRENCY})


def with_retry_after(
    headers: list[tuple[bytes, bytes]], told_s: float | None, back_s: float | None
) -> list[tuple[bytes, bytes]]:
    """A 429 says when to come back: as its provider said, unless another account is back before that."""
    told = any(name == b"retry-after" for name, _ in headers)
    if told and (back_s is None or (told_s is not None and told_s <= back_s + 1.0)):
        return headers
    kept = [header for header in headers if header[0] not in (b"retry-after", b"retry-after-ms")]
    return [*kept, (b"retry-after", b"%d" % max(1, math.ceil(back_s or told_s or 1)))]


def raise_again(failure: Failure, inbound: Inbound, wait_s: float | None) -> None:
    """Tell what a provider said under a 200 by the status that it should have had; returns where no status is known.

    Clients that give up at a 429 read a limit inside a stream as a reason to wait, so they get none.
    """
    if failure.kind is Kind.PROMPT_TOO_LONG:
        raise BadRequest(too_long.translated(inbound.surface.dialect, failure.detail), code=too_long.CODE)
    if failure.kind is Kind.BAD_REQUEST:
        raise BadRequest(failure.detail)
    if failure.kind in _LIMITS and not inbound.gives_up_at_429:
        raise AllLimited(failure.detail, retry_after_s=wait_s or 1.0)


def nothing_to_try(inbound: Inbound, search: Search) -> RequestRefused | CannotServe:
    """Why no account can be tried at all, in words for the client."""
    dialect, planned = inbound.surface.dialect.value, search.planned
    if planned is not None and planned.wrong_dialect and inbound.model is None:
        return NotFound(f"No account speaks the dialect {dialect}.")
    if planned is not None and planned.wrong_dialect:
        candidates = [candidate for offer in search.offers for candidate in offer.candidates]
        spoken = sorted({one.value for candidate in candidates for one in candidate.dialects})
        return BadRequest(
            f"The model {inbound.model} is served in the dialect {' and '.join(spoken)} only, and this endpoint speaks "
            f"{dialect}.",
            param="model",
            code="wrong_dialect",
        )
    refused = planned.refused if planned is not None else ()
    reasons = ", ".join(f"{refusal.account}: {refusal.reason}" for refusal in refused[:MAX_REASONS])
    return AllLimited(
        f"Every account for this request is at a limit at the moment ({reasons}).",
        retry_after_s=search.retry_after_s or 1.0,
    )
