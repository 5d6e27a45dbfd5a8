"""The data-plane paths: which dialect and which of a provider's endpoints each of them is, as one table."""

from __future__ import annotations

import re

import msgspec

from eggpool.domain import Dialect
from eggpool.engine.inbound import LEGACY_COMPLETIONS, Surface


class Route(msgspec.Struct, frozen=True):
    """One path. `reply_id` is what it refers to, where it names a reply that an account has made."""

    surface: Surface
    methods: frozenset[str] = frozenset({"POST"})
    reply_id: str | None = None


_EXACT: dict[str, Route] = {
    "/v1/chat/completions": Route(Surface(Dialect.CHAT)),
    "/v1/messages": Route(Surface(Dialect.MESSAGES)),
    "/v1/messages/count_tokens": Route(Surface(Dialect.MESSAGES, below="/count_tokens")),
    "/v1/responses": Route(Surface(Dialect.RESPONSES)),
    "/v1/responses/input_tokens": Route(Surface(Dialect.RESPONSES, below="/input_tokens")),
    "/v1/embeddings": Route(Surface(Dialect.CHAT, beside="/embeddings")),
    "/v1/completions": Route(Surface(Dialect.CHAT, beside=LEGACY_COMPLETIONS)),
    "/v1/rerank": Route(Surface(Dialect.CHAT, beside="/rerank")),
}

_DOUBLED = re.compile(r"(?:/v1)+(?=/v1/)")
_BARE = frozenset(
    {"audio", "chat", "completions", "embeddings", "images", "messages", "models", "rerank", "responses"}
)  # what begins a path of an agent whose base URL lacks /v1
_BESIDE = re.compile(r"/v1(/(?:images|audio)/[A-Za-z0-9_-]+)")
_REPLY = re.compile(r"/v1/responses/([A-Za-z0-9_.-]+)((?:/[A-Za-z0-9_.-]+)?)")
_REPLY_METHODS = frozenset({"GET", "POST", "DELETE"})


def usual(path: str) -> str:
    """A path as it is meant, for base URLs that lack `/v1` or have it although the agent adds it."""
    if path.startswith("/v1/"):
        doubled = _DOUBLED.match(path) if path.startswith("/v1/", 3) else None
        return path[doubled.end() :] if doubled else path
    return "/v1" + path if path[1:].partition("/")[0] in _BARE else path


def find(path: str) -> Route | None:
    """The route of a path, None when it is not of the data plane."""
    known = _EXACT.get(path)
    if known is not None:
        return known
    beside = _BESIDE.fullmatch(path)
    if beside:
        return Route(Surface(Dialect.CHAT, beside=beside[1]))
    reply = _REPLY.fullmatch(path)
    if reply and ".." not in path:
        return Route(Surface(Dialect.RESPONSES, below=f"/{reply[1]}{reply[2]}"), _REPLY_METHODS, reply[1])
    return None
