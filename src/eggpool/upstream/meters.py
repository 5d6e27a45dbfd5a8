"""Ask a provider how much quota or money an account has left.

One GET, sometimes two, through the account's own way out and with its own key. The key goes to the host of the
account's base URL, or where a provider has its accounts on another host, to that one; which hosts belong together is
the table here, and nothing that a person configures adds to it.
"""

from __future__ import annotations

import asyncio
import time

import msgspec

from eggpool.domain import MeterName, QuotaReport
from eggpool.errors import UpstreamBroken, UpstreamError
from eggpool.upstream import meter_bodies as bodies
from eggpool.upstream.client import Call, Client
from eggpool.upstream.headers import UNENCODED
from eggpool.upstream.target import Target
from eggpool.upstream.url import Url

ASK_LIMIT_S = 20.0
MAX_ANSWER_BYTES = 1024 * 1024


class Question(msgspec.Struct, frozen=True):
    """One usage endpoint. `hosts` has, for a known host of a base URL, the host that is asked instead."""

    path: str
    read: bodies.Read
    hosts: dict[str, str] = {}
    only_for: frozenset[str] = frozenset()  # hosts of base URLs; empty: for all


class Reading(msgspec.Struct, frozen=True):
    """What came of asking: what was told when it was good, else an error that is safe to show."""

    reports: tuple[QuotaReport, ...]
    balance_nanodollars: int | None
    error: str | None
    latency_us: int


_CHUTES = {"llm.chutes.ai": "api.chutes.ai"}
_YUAN = frozenset({"api.moonshot.cn"})

QUESTIONS: dict[MeterName, tuple[Question, ...]] = {
    "opencode-go": (Question("/zen/go/v1/usage", bodies.opencode_go),),
    "zai": (Question("/api/monitor/usage/quota/limit", bodies.zai),),
    "kimi": (Question("/coding/v1/usages", bodies.kimi),),
    "moonshot": (
        Question("/v1/users/me/balance", bodies.moonshot_in_yuan, only_for=_YUAN),
        Question("/v1/users/me/balance", bodies.moonshot),
    ),
    "minimax": (
        Question("/v1/token_plan/remains", bodies.minimax, {"api.minimax.io": "www.minimax.io"}),
        Question("/v1/api/openplatform/coding_plan/remains", bodies.minimax),
    ),
    "synthetic": (Question("/v2/quotas", bodies.synthetic),),
    "chutes": (
        Question("/users/me/subscription_usage", bodies.chutes_subscription, _CHUTES),
        Question("/users/me/quota_usage/me", bodies.chutes_quota, _CHUTES),
    ),
    "nano-gpt": (Question("/api/subscription/v1/usage", bodies.nano_gpt),),
    "openrouter": (
        Question("/api/v1/key", bodies.openrouter_key),
        Question("/api/v1/credits", bodies.openrouter_credits),
    ),
    "deepseek": (Question("/user/balance", bodies.deepseek),),
}
"""By meter: what is asked, one after the other, until one has told something."""

_ALL_ASKED: frozenset[MeterName] = frozenset({"openrouter"})
"""Meters whose questions are about different things, so that each one is asked."""


async def ask(client: Client, target: Target, meter: MeterName, at_ms: int, *, limit_s: float = ASK_LIMIT_S) -> Reading:
    """Ask for an account's usage; never raises for what the provider does. `at_ms` is now, on the wall clock."""
    began = time.monotonic()
    told: list[bodies.Told] = []
    errors: list[str] = []
    try:
        async with asyncio.timeout(limit_s):
            for question in _asked(meter, target):
                found = await _answer(client, target, question, at_ms)
                if isinstance(found, str):
                    errors.append(found)
                    continue
                told.append(found)
                if meter not in _ALL_ASKED:
                    break
    except UpstreamError as failure:
        errors.append(str(failure))
    except TimeoutError:
        errors.append(f"The usage endpoint did not answer within {limit_s:g} s.")
    balances = [one.balance_nanodollars for one in told if one.balance_nanodollars is not None]
    return Reading(
        reports=bodies.distinct(tuple(report for one in told for report in one.reports)),
        balance_nanodollars=balances[0] if balances else None,
        error=None if told else errors[0],
        latency_us=round((time.monotonic() - began) * 1_000_000),
    )


def address(target: Target, question: Question) -> Url:
    """Where a question is asked for an account."""
    base = target.base
    other = question.hosts.get(base.host)
    if other is not None and base.scheme == "https" and base.port == 443:
        return Url.parse(f"https://{other}{question.path}")
    return base.at(question.path)


def _asked(meter: MeterName, target: Target) -> list[Question]:
    own = [question for question in QUESTIONS[meter] if target.base.host in question.only_for]
    return own or [question for question in QUESTIONS[meter] if not question.only_for]


async def _answer(client: Client, target: Target, question: Question, at_ms: int) -> bodies.Told | str:
    """What one endpoint told, or an error. Raises UpstreamError when none came."""
    call = Call(
        method="GET",
        url=address(target, question),
        headers=[(b"accept", b"application/json"), UNENCODED, *_credentials(target)],
        body=None,
        connect_timeout_s=target.provider.connect_timeout_s or ASK_LIMIT_S,
        header_timeout_s=ASK_LIMIT_S,
        idle_timeout_s=ASK_LIMIT_S,
    )
    reply = await client.send(call, target.proxy_url)
    try:
        if reply.status != 200:
            refused = " It refuses the key." if reply.status in (401, 403) else ""
            return f"The usage endpoint answered with status {reply.status}.{refused}"
        received = bytearray()
        while chunk := await reply.read():
            received += chunk
            if len(received) > MAX_ANSWER_BYTES:
                raise UpstreamBroken(f"The usage endpoint's answer is longer than {MAX_ANSWER_BYTES // 1024} KiB.")
    finally:
        reply.close()
    payload = bodies.decode(bytes(received))
    if payload is None:
        return "The usage endpoint's answer is not JSON."
    return question.read(payload, at_ms) or "The usage endpoint told nothing that can be read."


def _credentials(target: Target) -> list[tuple[bytes, bytes]]:
    """The account's own headers; a key that requests carry in a header of their own is shown as Authorization, too."""
    headers = list(target.headers)
    if b"authorization" not in target.replaced:
        keys = [value for name, value in target.headers if name.lower() == b"x-api-key"]
        headers += [(b"Authorization", b"Bearer " + key) for key in keys]
    return headers
