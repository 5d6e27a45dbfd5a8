"""What is read out of a reply on its way through: the values that all dialects report in the same terms."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from eggpool.domain import Usage
from eggpool.wire import fields


class ErrorInfo(msgspec.Struct, frozen=True):
    """An error as a provider worded it: its type, its code, its message; empty where it gave none."""

    type: str = ""
    code: str = ""
    message: str = ""


class Note(msgspec.Struct, frozen=True):
    """What one event of a stream means for the relay."""

    content: bool = False  # something the client shows or acts on: from here on no other account is tried
    terminal: bool = False  # the dialect's word that the reply is whole
    finished: bool = False  # one answer is whole, and with it the reply, unless it holds several
    several: bool = False  # the reply holds more than one answer
    usage: Usage | None = None
    usage_only: bool = False  # nothing but usage, which a client that did not ask for it must not get
    error: ErrorInfo | None = None
    reply_id: str | None = None  # names the reply in later requests


NOTHING = Note()


def told_error(payload: Mapping[str, object]) -> ErrorInfo:
    """The error in a decoded body or event, in whichever dialect's shape.

    Providers of every dialect answer now and then in another one's shape, leave the outer object, or send a bare text.
    """
    told = payload.get("error")
    if isinstance(told, str):
        return ErrorInfo(message=told)
    inner = fields.mapping(told) or payload
    return ErrorInfo(
        type=fields.text(inner.get("type")) or "",
        code=fields.text(inner.get("code")) or "",
        message=fields.text(inner.get("message")) or fields.text(inner.get("detail")) or "",
    )


def highest(first: Usage | None, second: Usage | None) -> Usage | None:
    """Two reports of one reply as one.

    Reports are cumulative, so the highest count of each kind holds, never the sum.
    """
    if first is None or second is None:
        return second or first
    costs = [usage.cost_nanodollars for usage in (first, second) if usage.cost_nanodollars is not None]
    return usage_of(
        input_tokens=max(first.input_tokens, second.input_tokens),
        output_tokens=max(first.output_tokens, second.output_tokens),
        cache_read=max(first.cache_read_tokens, second.cache_read_tokens),
        cache_write=max(first.cache_write_tokens, second.cache_write_tokens),
        cache_write_1h=max(first.cache_write_1h_tokens, second.cache_write_1h_tokens),
        reasoning=max(first.reasoning_tokens, second.reasoning_tokens),
        cost_nanodollars=max(costs) if costs else None,
    )


def usage_of(
    *,
    input_tokens: int,
    output_tokens: int,
    cache_read: int = 0,
    cache_write: int = 0,
    cache_write_1h: int = 0,
    reasoning: int = 0,
    cost_nanodollars: int | None = None,
) -> Usage:
    """A `Usage` whose parts are never larger than their wholes, whatever a provider reported."""
    if not cache_read and not cache_write and not reasoning:
        return Usage(input_tokens=input_tokens, output_tokens=output_tokens, cost_nanodollars=cost_nanodollars)
    cache_read = min(cache_read, input_tokens)
    cache_write = min(cache_write, input_tokens - cache_read)
    return Usage(
        input_tokens=input_tokens,
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
        cache_write_1h_tokens=min(cache_write_1h, cache_write),
        output_tokens=output_tokens,
        reasoning_tokens=min(reasoning, output_tokens),
        cost_nanodollars=cost_nanodollars,
    )
