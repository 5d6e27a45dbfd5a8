"""Which headers cross the pool, in each direction.

Everything passes that is not named here: unknown headers of agents and providers must survive. Names that came in are
in lower case. Source for the hop-by-hop fields: RFC 9110 section 7.6.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

_NOT_UPSTREAM = HOP_BY_HOP | {
    b"accept-encoding",  # replies are asked for unencoded, so that they can be read on the way
    b"authorization",
    b"content-length",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"origin",
    b"referer",
    b"via",
    b"x-api-key",
    b"api-key",
    b"x-goog-api-key",
    b"x-real-ip",
}
_NOT_UPSTREAM_PREFIXES = (b"x-forwarded-", b"sec-", b"x-proxy-", b"x-eggpool-")

_NOT_BACK = HOP_BY_HOP | {
    b"alt-svc",
    b"content-length",  # set anew for a plain reply; a stream has none
    b"date",
    b"server",
    b"set-cookie",
    b"strict-transport-security",
}
_NOT_BACK_PREFIXES = (b"access-control-", b"x-proxy-", b"x-eggpool-")

_OF_A_DIALECT = (b"anthropic-", b"openai-", b"x-openai-", b"x-stainless-", b"x-claude-", b"x-codex-", b"x-app")

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNSENDABLE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
MASK = b"***"
UNENCODED = (b"accept-encoding", b"identity")
KEPT_NAMES = 200  # for which it is known whether they cross; all that agents and providers use in a day are fewer


def towards_provider(
    received: Iterable[tuple[bytes, bytes]],
    own: Iterable[tuple[bytes, bytes]],
    replaced: frozenset[bytes],
    fallbacks: Mapping[bytes, bytes],
) -> list[tuple[bytes, bytes]]:
    """The headers of an outgoing request: the client's that may cross, then the account's `own`.

    `replaced` has the lower-case names of `own`: the client's of that name are dropped. `fallbacks` are sent where the
    client and the account have none of that name.
    """
    received = list(received)
    nominated = _nominated(received)
    crossing = [
        field for field in received if _goes_up(field[0]) and field[0] not in replaced and field[0] not in nominated
    ]
    missing = [(name, value) for name, value in fallbacks.items() if name not in replaced]
    if missing:
        kept = {name for name, _ in crossing}
        missing = [field for field in missing if field[0] not in kept]
    return [*crossing, UNENCODED, *own, *missing]


def without_dialect(received: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The client's headers without those that only providers of its own dialect understand."""
    return [(name, value) for name, value in received if not name.startswith(_OF_A_DIALECT)]


def towards_client(
    received: Iterable[tuple[bytes, bytes]],
    redacted: frozenset[bytes] = frozenset(),
    secrets: Iterable[bytes] = (),
) -> list[tuple[bytes, bytes]]:
    """The headers of a reply that may cross; `redacted` are lower-case names that the operator holds back.

    `secrets` are masked in the values. What HTTP does not allow is left out, because a server refuses to send the whole
    reply with it (RFC 9110 sections 5.1 and 5.5).
    """
    received = list(received)
    nominated = _nominated(received)
    crossing = [
        field for field in received if _comes_back(field[0]) and field[0] not in redacted and field[0] not in nominated
    ]
    together = b" ".join([value for _, value in crossing])  # nearly always there is nothing in any of them
    if _UNSENDABLE.search(together) or hide(together, secrets) is not together:
        return [(name, hide(value, secrets)) for name, value in crossing if not _UNSENDABLE.search(value)]
    return crossing


@lru_cache(maxsize=KEPT_NAMES)
def _goes_up(name: bytes) -> bool:
    """Whether providers may get a header of that name."""
    return name not in _NOT_UPSTREAM and not name.startswith(_NOT_UPSTREAM_PREFIXES)


@lru_cache(maxsize=KEPT_NAMES)
def _comes_back(name: bytes) -> bool:
    """Whether clients may get a header of that name, and HTTP allows it."""
    return name not in _NOT_BACK and not name.startswith(_NOT_BACK_PREFIXES) and _NAME.fullmatch(name) is not None


def hide(text: bytes, secrets: Iterable[bytes]) -> bytes:
    """`text` with each of the `secrets` masked; the very same object when it holds none."""
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, MASK)
    return text


def _nominated(received: list[tuple[bytes, bytes]]) -> set[bytes]:
    """The names that a Connection header declares to be hop-by-hop."""
    named: set[bytes] = set()
    for name, value in received:
        if name == b"connection":
            named.update(part.strip().lower() for part in value.split(b","))
    return named
