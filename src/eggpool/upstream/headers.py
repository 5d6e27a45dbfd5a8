"""Which headers cross the pool, in each direction.

Everything passes that is not named here: unknown headers of agents and providers must survive. Names are lower-case
bytes on the server's side and text on the client's side. Source for the hop-by-hop fields: RFC 9110 section 7.6.1.
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
KEPT_NAMES = 200  # for which it is known whether they cross; all that agents and providers use in a day are fewer

# Bytes of values that are no UTF-8 travel as characters at the end of the last private plane, above all others.
_MARKS = 0x10FF00
_FIRST_MARK = chr(_MARKS + 0x80)
_MARK = re.compile(rb"\xf4\x8f[\xbe\xbf][\x80-\xbf]")


def towards_provider(
    received: Iterable[tuple[bytes, bytes]],
    own: Iterable[tuple[str, str]],
    replaced: frozenset[bytes],
    fallbacks: Mapping[bytes, str],
) -> list[tuple[str, str]]:
    """The headers of an outgoing request: the client's that may cross, then the account's `own`.

    `replaced` has the lower-case names of `own`: the client's of that name are dropped. `fallbacks` are sent where the
    client and the account have none of that name.
    """
    received = list(received)
    nominated = _nominated(received)
    crossing = [
        (name.decode("latin-1"), value.decode("ascii") if value.isascii() else _text(value))
        for name, value in received
        if _goes_up(name) and name not in replaced and name not in nominated
    ]
    kept = {name for name, _ in crossing}
    crossing.append(("accept-encoding", "identity"))
    crossing.extend(own)
    for name, value in fallbacks.items():
        if name not in replaced and name.decode("latin-1") not in kept:
            crossing.append((name.decode("latin-1"), value))
    return crossing


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
    return [
        (name, hide(value, secrets))
        for name, value in received
        if _comes_back(name) and name not in redacted and name not in nominated and not _UNSENDABLE.search(value)
    ]


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


def _text(value: bytes) -> str:
    """A header's value for a client that writes UTF-8: what is none has a mark for each byte, see `unmarked`."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if not text or max(text) >= _FIRST_MARK:
        return "".join(chr(byte) if byte < 0x80 else chr(_MARKS + byte) for byte in value)
    return text


def unmarked(written: bytes) -> bytes:
    """Header lines as they were written, with each mark as the byte that it stands for."""
    return _MARK.sub(lambda mark: bytes((ord(mark[0].decode()) - _MARKS,)), written)


def _nominated(received: list[tuple[bytes, bytes]]) -> set[bytes]:
    """The names that a Connection header declares to be hop-by-hop."""
    named: set[bytes] = set()
    for name, value in received:
        if name == b"connection":
            named.update(part.strip().lower() for part in value.split(b","))
    return named
