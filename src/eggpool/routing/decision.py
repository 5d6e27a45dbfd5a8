"""A decision as it is kept and shown: who was considered, with what score, and what ruled the others out.

The short form stands in the books of every request, so it is bounded; the long form answers "why" for one request.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache

import msgspec

from eggpool.domain import AccountLabel, Billing, Refusal
from eggpool.routing.plan import Binding, Demand, Plan, View
from eggpool.routing.quota import WindowView

MAX_BYTES = 600
_BEST = 5
_LONGEST_NAME = 64
_REASONS = 8


class Considered(msgspec.Struct, frozen=True):
    """One account that could take the request, in the long form."""

    account: AccountLabel
    model: str
    routing_priority: int
    billing: Billing
    last_resort: bool
    exhausted: bool
    score: float
    in_flight: int
    windows: tuple[WindowView, ...]


class Explanation(msgspec.Struct, frozen=True):
    """The long form: every account once, in order, with all that was weighed."""

    binding: Binding
    bound_to: AccountLabel | None
    choices: tuple[Considered, ...]
    refused: tuple[Refusal, ...]
    retry_after_s: float | None


def decision(
    planned: Plan, demand: Demand, tried: Iterable[tuple[str, str | None]] = (), lost: Collection[str] = ()
) -> str:
    """The short form: JSON of at most `MAX_BYTES` bytes.

    `best` are the five best with their scores, the first is the one to try; `could` is how many there are, when there
    are more; `no` counts the reasons of refusal; `bound` is what became of the conversation's binding, and `to` the
    account, where it was not obeyed; `tried` are the attempts, each with the kind of its failure or null; `lost` is
    what a translation could not say.
    """
    best = [[_short(account), round(score, 3)] for account, score in planned.best(_BEST)]
    attempts = [[_short(account), failure and _short(failure)] for account, failure in tried]
    shown: dict[str, object] = {"best": best}
    if planned.count > len(best):
        shown["could"] = planned.count
    if planned.refused:
        shown["no"] = _counts(planned.refused)
    if planned.binding != "none":
        shown["bound"] = planned.binding
        if demand.affinity is not None and planned.binding not in ("kept", "cool"):
            shown["to"] = _short(demand.affinity.account)
    if attempts:
        shown["tried"] = attempts
    left_out = [_short(name) for name in dict.fromkeys(lost)] if lost else []
    if left_out:
        shown["lost"] = left_out
    text = msgspec.json.encode(shown)
    while len(text) > MAX_BYTES:
        # The winner and the last attempt say most, so they go last.
        if len(attempts) > 1:
            del attempts[0]
        elif len(left_out) > 1:
            left_out.pop()
        elif len(best) > 1:
            best.pop()
            shown["could"] = planned.count
        else:
            shown.pop("no", shown.pop("lost", None))
        text = msgspec.json.encode(shown)
    return text.decode()


def also_lost(text: str, lost: Iterable[str]) -> str:
    """A short form, and what a translation was found to have left out since; the same where that has no room."""
    told = msgspec.json.decode(text, type=dict[str, object])
    before = told.get("lost")
    known = [name for name in before if isinstance(name, str)] if isinstance(before, list) else []
    told["lost"] = list(dict.fromkeys([*known, *map(_short, lost)]))
    longer = msgspec.json.encode(told)
    return longer.decode() if len(longer) <= MAX_BYTES else text


def explanation(planned: Plan, demand: Demand, view: View, now_ms: int) -> Explanation:
    """The long form, as things stand at `now_ms`."""
    return Explanation(
        binding=planned.binding,
        bound_to=demand.affinity.account if demand.affinity else None,
        choices=tuple(
            Considered(
                account=one.candidate.account,
                model=one.candidate.model,
                routing_priority=one.candidate.routing_priority,
                billing=one.billing,
                last_resort=one.last_resort,
                exhausted=one.exhausted,
                score=one.score,
                in_flight=one.in_flight,
                windows=view.accounts[one.candidate.account].quota.view(now_ms),
            )
            for one in planned.choices
        ),
        refused=planned.refused,
        retry_after_s=planned.retry_after_s,
    )


def _counts(refused: Iterable[Refusal]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for refusal in refused:
        reason = _short(refusal.reason)
        if reason not in counts and len(counts) >= _REASONS:
            reason = "other"
        counts[reason] = counts.get(reason, 0) + 1
    return counts


@lru_cache(maxsize=1024)  # the same accounts and kinds over and over
def _short(name: str) -> str:
    """A name that fits, whatever it is made of."""
    text = name if name.isascii() and name.isprintable() else "".join(map(_plain, name))
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "~"


def _plain(letter: str) -> str:
    """A letter that takes one byte, or a question mark."""
    return letter if letter.isascii() and letter.isprintable() else "?"
