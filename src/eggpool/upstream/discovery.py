"""Ask a provider for its models, which is also how it is pinged.

Lists come in the shapes of OpenAI, Anthropic, Gemini and Ollama, with limits and prices under many names; what is
missing or odd is left out, never refused. Source for the field names: the model-list pages of the providers.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import msgspec

from eggpool import pricing
from eggpool.config.schema import PROTOCOL_DIALECTS
from eggpool.domain import Capabilities, Dialect, Limits, ListedModel
from eggpool.errors import UpstreamBroken, UpstreamError
from eggpool.upstream.client import Call, Client
from eggpool.upstream.headers import UNENCODED
from eggpool.upstream.target import Target
from eggpool.wire import fields
from eggpool.wire.envelope import MAX_MODEL_NAME_CHARS

MAX_LIST_BYTES = 32 * 1024 * 1024
MAX_PAGES = 20
LIST_TIMEOUT_S = 30.0

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LAST_INSTANT_S = 253_402_300_799  # the end of the year 9999, beyond which no date can be written

_CONTEXT_FIELDS = (
    "max_context_tokens",
    "context_window",
    "context_length",
    "max_context_length",
    "max_model_len",
    "max_position_embeddings",
)
_INPUT_FIELDS = ("max_input_tokens", "input_token_limit", "inputTokenLimit")
_OUTPUT_FIELDS = ("max_output_tokens", "output_token_limit", "outputTokenLimit", "max_completion_tokens")
# Where lists say what a model can take: a path to a flag, or to a list of words with the one that matters.
_IMAGES = (
    (("architecture", "input_modalities"), "image"),  # OpenRouter
    (("input_modalities",), "image"),  # OpenRouter's form for the providers behind it, which some of them serve
    (("modalities", "input"), "image"),  # models.dev
    (("capabilities", "vision"), None),  # Mistral
    (("capabilities", "image_input", "supported"), None),  # Anthropic
)
_TOOLS = (
    (("supported_parameters",), "tools"),  # OpenRouter
    (("supported_features",), "tools"),  # OpenRouter's form for the providers behind it
    (("tool_call",), None),  # models.dev
    (("capabilities", "function_calling"), None),  # Mistral
)
_DIALECT_NAMES = {**PROTOCOL_DIALECTS, "chat": Dialect.CHAT, "messages": Dialect.MESSAGES}


class Found(msgspec.Struct, frozen=True):
    """What came of asking: models when it was good, else an error that is safe to show."""

    models: tuple[ListedModel, ...]
    latency_us: int
    status: int | None
    error: str | None


async def fetch_models(client: Client, target: Target) -> Found:
    """Ask for all pages of an account's model list; never raises for what the provider does."""
    began = time.monotonic()
    status: int | None = None
    models: list[ListedModel] = []
    error: str | None = None
    try:
        async with asyncio.timeout(LIST_TIMEOUT_S):
            after: str | None = None
            seen: set[str] = set()
            for _ in range(MAX_PAGES):
                status, body = await _page(client, target, after)
                if status != 200:
                    error = f"The model list was answered with status {status}."
                    break
                payload = _decode(body)
                models.extend(model for model in read_list(payload) if model.id not in seen)
                seen.update(model.id for model in models)
                after = _next_page(payload)
                if after is None:
                    break
    except UpstreamError as failure:
        error = str(failure)
    except TimeoutError:
        error = f"The model list did not come within {LIST_TIMEOUT_S:g} s."
    if error is None and not models:
        error = "The model list is empty."
    return Found(
        models=() if error else tuple(models),
        latency_us=round((time.monotonic() - began) * 1_000_000),
        status=status,
        error=error,
    )


def lists_models(target: Target) -> bool:
    """Whether the account's provider has a model list at all."""
    endpoint = target.provider.models_endpoint
    return endpoint is None or endpoint.method != "DISABLED"


def read_list(payload: object) -> Iterator[ListedModel]:
    """The models of a decoded list, each once."""
    entries = fields.mapping(payload)
    found = payload if isinstance(payload, list) else entries.get("data") or entries.get("models")
    seen: set[str] = set()
    for item in fields.items(found):
        listed = ListedModel(id=item) if isinstance(item, str) else _read_model(fields.mapping(item))
        if listed is not None and _can_be_asked_for(listed.id) and listed.id not in seen:
            seen.add(listed.id)
            yield listed


def _can_be_asked_for(name: str) -> bool:
    """Whether a request may name the model: what is listed can be routed."""
    return bool(name.strip()) and len(name) <= MAX_MODEL_NAME_CHARS and not _CONTROL.search(name)


async def _page(client: Client, target: Target, after: str | None) -> tuple[int, bytes]:
    provider = target.provider
    endpoint = provider.models_endpoint
    method = endpoint.method if endpoint else provider.models_method
    query = dict(endpoint.query or {}) if endpoint else {}
    anthropic_only = provider.dialects == {Dialect.MESSAGES}
    if anthropic_only:
        query.setdefault("limit", "1000")  # its default page has twenty
    if after is not None:
        query["after_id"] = after
    headers = [(b"accept", b"application/json"), UNENCODED, *target.headers]
    if anthropic_only:
        wanted = target.fallbacks(Dialect.MESSAGES).items()
        headers += [(name, value) for name, value in wanted if name not in target.replaced]
    body: bytes | None = None
    if method == "POST":
        body = msgspec.json.encode(endpoint.body if endpoint and endpoint.body is not None else {})
        headers.append((b"content-type", b"application/json"))
    call = Call(
        method=method,
        url=target.url(endpoint.path if endpoint else provider.models_path, urlencode(query)),
        headers=headers,
        body=body,
        connect_timeout_s=provider.connect_timeout_s or LIST_TIMEOUT_S,
        header_timeout_s=LIST_TIMEOUT_S,
        idle_timeout_s=LIST_TIMEOUT_S,
    )
    try:
        reply = await client.send(call, target.proxy_url)
    except UpstreamBroken as error:
        if not error.stale:
            raise
        reply = await client.send(call, target.proxy_url, fresh=True)
    try:
        received = bytearray()
        while chunk := await reply.read():
            received += chunk
            if len(received) > MAX_LIST_BYTES:
                raise UpstreamBroken(f"The model list is longer than {MAX_LIST_BYTES // 1024**2} MiB.")
        return reply.status, bytes(received)
    finally:
        reply.close()


def _decode(body: bytes) -> object:
    try:
        payload: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UpstreamBroken("The model list is not JSON.") from None
    return payload


def _next_page(payload: object) -> str | None:
    entries = fields.mapping(payload)
    last = entries.get("last_id")
    return last if entries.get("has_more") is True and isinstance(last, str) and last else None


def _read_model(item: dict[str, object]) -> ListedModel | None:
    name = item.get("id") or item.get("name") or item.get("model")
    if not isinstance(name, str):
        return None
    top = fields.mapping(item.get("top_provider"))
    display = item.get("display_name") or item.get("displayName") or (item.get("name") if "id" in item else None)
    told = [item.get("api_type"), item.get("protocol"), *fields.items(item.get("protocols"))]
    return ListedModel(
        id=name.removeprefix("models/") if "inputTokenLimit" in item else name,
        display_name=display if isinstance(display, str) else None,
        created=_created(item),
        limits=Limits(
            context=_first(item, _CONTEXT_FIELDS) or _first(top, _CONTEXT_FIELDS),
            input=_first(item, _INPUT_FIELDS),
            output=_first(item, _OUTPUT_FIELDS) or _first(top, _OUTPUT_FIELDS),
        ),
        dialects=frozenset(_DIALECT_NAMES[word] for word in told if isinstance(word, str) and word in _DIALECT_NAMES),
        price=pricing.from_listing(item),
        capabilities=Capabilities(images=_can(item, _IMAGES), tools=_can(item, _TOOLS)),
    )


def _can(item: dict[str, object], told: tuple[tuple[tuple[str, ...], str | None], ...]) -> bool | None:
    """What the first place that says something says."""
    for path, word in told:
        value: object = item
        for step in path:
            value = fields.mapping(value).get(step)
        if word is None and isinstance(value, bool):
            return value
        if word is not None and isinstance(value, list) and value:
            return word in value
    return None


def _first(item: dict[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = fields.count(item.get(name))
        if value:
            return value
    return None


def _created(item: dict[str, object]) -> int | None:
    """Seconds since 1970, from seconds, milliseconds or RFC 3339."""
    seconds = fields.count(item.get("created"))
    seconds = seconds if seconds < 10**11 else seconds // 1000
    told = item.get("created_at")
    if not seconds and isinstance(told, str):
        try:
            moment = datetime.fromisoformat(told)
        except ValueError:
            return None
        seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    return seconds if 0 < seconds <= _LAST_INSTANT_S else None
