"""Which headers cross the pool, in each direction.

Everything passes that is not named here: unknown headers of agents and providers must survive. Names that came in are
in lower case. Source for the hop-by-hop fields: RFC 9110 section 7.6.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import compress
from operator import itemgetter

from eggpool.wire.head import NOT_IN_VALUES

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

_name_of = itemgetter(0)
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
MASK = b"***"
UNENCODED = (b"accept-encoding", b"identity")
KEPT_NAMES = 200  # for which it is known whether they cross; all that agents and providers use in a day are fewer


def towards_provider(
    received: Sequence[tuple[bytes, bytes]],
    own: Iterable[tuple[bytes, bytes]],
    replaced: frozenset[bytes],
    fallbacks: Mapping[bytes, bytes],
) -> list[tuple[bytes, bytes]]:
    """The headers of an outgoing request: the client's that may cross, then the account's `own`.

    `replaced` has the lower-case names of `own`: the client's of that name are dropped. `fallbacks` are sent where the
    client and the account have none of that name.
    """
    crossing = _crossing(received, _goes_up)
    if not replaced.isdisjoint(map(_name_of, crossing)):
        crossing = [field for field in crossing if field[0] not in replaced]
    missing: list[tuple[bytes, bytes]] = []
    if fallbacks:
        present = replaced.union(name for name, _ in crossing)
        missing = [field for field in fallbacks.items() if field[0] not in present]
    return [*crossing, UNENCODED, *own, *missing]


def without_dialect(received: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The client's headers without those that only providers of its own dialect understand."""
    return [(name, value) for name, value in received if not name.startswith(_OF_A_DIALECT)]


def towards_client(
    received: Sequence[tuple[bytes, bytes]],
    redacted: frozenset[bytes] = frozenset(),
    secrets: Iterable[bytes] = (),
) -> list[tuple[bytes, bytes]]:
    """The headers of a reply that may cross; `redacted` are lower-case names that the operator holds back.

    `secrets` are masked in the values. What HTTP does not allow is left out, because a server refuses to send the whole
    reply with it (RFC 9110 sections 5.1 and 5.5).
    """
    crossing = _crossing(received, _comes_back)
    if redacted:
        crossing = [field for field in crossing if field[0] not in redacted]
    together = b" ".join([value for _, value in crossing])  # nearly always there is nothing in any of them
    if not _is_sendable(together) or hide(together, secrets) is not together:
        return [(name, hide(value, secrets)) for name, value in crossing if _is_sendable(value)]
    return crossing


@lru_cache(maxsize=KEPT_NAMES)
def _goes_up(name: bytes) -> bool:
    """Whether providers may get a header of that name."""
    return name not in _NOT_UPSTREAM and not name.startswith(_NOT_UPSTREAM_PREFIXES)


@lru_cache(maxsize=KEPT_NAMES)
def _comes_back(name: bytes) -> bool:
    """Whether clients may get a header of that name, and HTTP allows it."""
    return name not in _NOT_BACK and not name.startswith(_NOT_BACK_PREFIXES) and _NAME.fullmatch(name) is not None


def _is_sendable(value: bytes) -> bool:
    return len(value.translate(None, NOT_IN_VALUES)) == len(value)


def hide(text: bytes, secrets: Iterable[bytes]) -> bytes:
    """`text` with each of the `secrets` masked; the very same object when it holds none."""
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, MASK)
    return text


def _crossing(received: Iterable[tuple[bytes, bytes]], crosses: Callable[[bytes], bool]) -> list[tuple[bytes, bytes]]:
    """Those that cross by their names, without those that a Connection header declares to be hop-by-hop."""
    crossing = [*compress(received, map(crosses, map(_name_of, received)))]
    if b"connection" not in map(_name_of, received):
        return crossing
    nominated: set[bytes] = set()
    for name, value in received:
        if name == b"connection":
            nominated.update(part.strip().lower() for part in value.split(b","))
    return [field for field in crossing if field[0] not in nominated]
