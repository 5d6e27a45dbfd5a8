"""What the scenarios of translation share: a pool whose only provider speaks one dialect, and judges of requests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
from openai.types.chat.completion_create_params import CompletionCreateParams
from openai.types.responses.response_create_params import ResponseCreateParams
from pydantic import TypeAdapter
from tests.helpers.pool import CLIENT_KEY, RunningPool, pool_of
from tests.scenarios.asking import CHAT, MESSAGES, PATHS, RESPONSES
from tests.wire.messages.judge import judged_request

from eggpool.domain import Dialect
from eggpool.engine.clock import Clock
from eggpool.scripted import Behaviour, ReceivedRequest, Script, ScriptedProvider, reply, stream

PROTOCOLS = {CHAT: "openai", MESSAGES: "anthropic", RESPONSES: "responses"}
CROSSINGS = [(ours, theirs) for ours in PROTOCOLS for theirs in PROTOCOLS if ours is not theirs]
"""Client's dialect and provider's dialect: the six directions."""

CROSSING_IDS = [f"{ours.value} to {theirs.value}" for ours, theirs in CROSSINGS]
OTHERS = {ours: [theirs for theirs in PROTOCOLS if theirs is not ours] for ours in PROTOCOLS}
GOLDEN = Path(__file__).parent.parent / "golden"
TRANSLATION = "x-eggpool-translation"

_REQUESTS: dict[Dialect, TypeAdapter[Any]] = {
    CHAT: TypeAdapter(CompletionCreateParams),
    RESPONSES: TypeAdapter(ResponseCreateParams),
}


@asynccontextmanager
async def one_dialect(
    folder: Path,
    theirs: Dialect,
    accounts: Mapping[str, Behaviour | Script],
    *,
    extra: str = "",
    more: str = "",
    clock: Clock | None = None,
) -> AsyncIterator[tuple[RunningPool, ScriptedProvider]]:
    """A pool of accounts at one provider that speaks nothing but `theirs`."""
    spoken = f'protocols = ["{PROTOCOLS[theirs]}"]\n{more}'
    async with pool_of(folder, accounts, more=spoken, extra=extra, clock=clock) as both:
        yield both


@asynccontextmanager
async def openai_client(pool: RunningPool) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official SDK of OpenAI, pointed at the pool."""
    async with openai.AsyncOpenAI(api_key=CLIENT_KEY, base_url=f"{pool.url}/v1", max_retries=0, timeout=10) as client:
        yield client


@asynccontextmanager
async def anthropic_client(pool: RunningPool) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The official SDK of Anthropic, pointed at the pool."""
    async with anthropic.AsyncAnthropic(api_key=CLIENT_KEY, base_url=pool.url, max_retries=0, timeout=10) as client:
        yield client


def judged(request: ReceivedRequest) -> Any:
    """What a provider was asked, as its own SDK would have asked it; fails when that SDK could not have."""
    theirs = request.dialect
    assert request.path == PATHS[theirs]
    if theirs is MESSAGES:
        assert request.header("anthropic-version") is not None
        return judged_request(request.body)
    assert request.header("anthropic-version") is None
    payload = request.payload
    known = payload | {"messages": list(map(_without_thoughts, payload["messages"]))} if theirs is CHAT else payload
    assert _exhausted(_REQUESTS[theirs].validate_python(known)) == known
    return payload


def _without_thoughts(message: dict[str, Any]) -> dict[str, Any]:
    """A message without the field that other providers have added to OpenAI's dialect."""
    return {name: value for name, value in message.items() if name != "reasoning_content"}


def golden(theirs: Dialect, name: str) -> Script:
    """A transcript of a provider, played whatever is asked."""
    body = (GOLDEN / theirs.value / name).read_bytes()
    if name.endswith(".json"):
        return reply(200, body, {"content-type": "application/json"})
    return stream((body,))


def _exhausted(value: Any) -> Any:
    """A validated value with its iterables read: they are only judged while that is done."""
    if isinstance(value, Mapping):
        return {name: _exhausted(inner) for name, inner in value.items()}
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return value
    return [_exhausted(inner) for inner in value]
