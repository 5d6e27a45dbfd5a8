"""Which headers cross the pool, in each direction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.upstream.headers import HOP_BY_HOP, hide, towards_client, towards_provider

NAMES = st.text(alphabet="abcxyz-", min_size=1, max_size=12).map(lambda name: f"agent-{name}".encode())
VALUES = st.text(alphabet=st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=10).map(
    lambda value: value.encode("latin-1")
)
OWN = ((b"Authorization", b"Bearer account"), (b"x-static", b"1"))
REPLACED = frozenset({b"authorization", b"x-static"})
ALWAYS = [(b"accept-encoding", b"identity"), *OWN]


def sent(*received: tuple[bytes, bytes], fallbacks: dict[bytes, bytes] | None = None) -> list[tuple[bytes, bytes]]:
    """What a provider gets, without what it always gets."""
    out = towards_provider(received, OWN, REPLACED, fallbacks or {})
    assert [pair for pair in out if pair in ALWAYS] == ALWAYS
    return [pair for pair in out if pair not in ALWAYS]


@pytest.mark.parametrize(
    "name",
    [
        *sorted(name.decode() for name in HOP_BY_HOP),
        "accept-encoding",
        "api-key",
        "authorization",
        "content-length",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "origin",
        "referer",
        "sec-fetch-mode",
        "sec-ch-ua",
        "via",
        "x-api-key",
        "x-eggpool-account",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-goog-api-key",
        "x-proxy-request-id",
        "x-real-ip",
        "x-static",
    ],
)
def test_what_a_provider_does_not_get(name: str) -> None:
    """Credentials, cookies, addresses, framing and our own headers of the client stay here."""
    assert sent((name.encode(), b"secret")) == []


@pytest.mark.parametrize(
    "name",
    ["user-agent", "content-type", "accept", "anthropic-beta", "openai-organization", "x-request-id"],
)
def test_what_a_provider_gets(name: str) -> None:
    """What agents say about themselves and their request crosses."""
    assert sent((name.encode(), b"value")) == [(name.encode(), b"value")]


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6))
def test_unknown_headers_cross(received: list[tuple[bytes, bytes]]) -> None:
    """Headers that nobody knows cross in order, repeated ones too, in both directions."""
    assert sent(*received) == received
    assert towards_client(received) == received


@pytest.mark.parametrize("nomination", [b"x-hop", b"close, X-Hop", b" x-hop ,keep-alive"])
def test_nominated_headers_stay(nomination: bytes) -> None:
    """What a Connection header names is for one hop only, in both directions."""
    received = ((b"connection", nomination), (b"x-hop", b"1"), (b"x-stays", b"2"))
    assert sent(*received) == [(b"x-stays", b"2")]
    assert towards_client(received) == [(b"x-stays", b"2")]


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ((), [(b"anthropic-version", b"fallback")]),
        (((b"anthropic-version", b"mine"),), [(b"anthropic-version", b"mine")]),
        (((b"connection", b"anthropic-version"), (b"anthropic-version", b"x")), [(b"anthropic-version", b"fallback")]),
    ],
)
def test_fallbacks(received: tuple[tuple[bytes, bytes], ...], expected: list[tuple[bytes, bytes]]) -> None:
    """A fallback is sent when nothing of that name crosses, and only then."""
    assert sent(*received, fallbacks={b"anthropic-version": b"fallback"}) == expected


def test_the_account_goes_before_a_fallback() -> None:
    """What the account sets itself needs no fallback."""
    assert sent(fallbacks={b"x-static": b"other"}) == []


@pytest.mark.parametrize(
    "name",
    [
        *sorted(name.decode() for name in HOP_BY_HOP),
        "access-control-allow-origin",
        "alt-svc",
        "content-length",
        "date",
        "server",
        "set-cookie",
        "strict-transport-security",
        "x-eggpool-account",
        "x-proxy-attempt-count",
    ],
)
def test_what_a_client_does_not_get(name: str) -> None:
    """Framing, cookies, policies for browsers and headers that are ours do not come back."""
    assert towards_client([(name.encode(), b"x")]) == []


@pytest.mark.parametrize(
    "name", ["content-type", "retry-after", "retry-after-ms", "x-request-id", "x-ratelimit-limit-requests"]
)
def test_what_a_client_gets(name: str) -> None:
    """What the provider tells about the answer and its limits comes back, unless the operator holds it back."""
    assert towards_client([(name.encode(), b"x")]) == [(name.encode(), b"x")]
    assert towards_client([(name.encode(), b"x")], frozenset({name.encode()})) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x-a", b"a\x00b"),
        (b"x-a", b"a\x08b"),
        (b"x-a", b"a\nb"),
        (b"x-a", b"a\rb"),
        (b"x-a", b"a\x1fb"),
        (b"x-a", b"a\x7fb"),
        (b"x(a)", b"b"),
        (b"x a", b"b"),
        (b"x\xe9", b"b"),
        (b"", b"b"),
    ],
)
def test_what_no_server_sends(name: bytes, value: bytes) -> None:
    """A header that HTTP does not allow is left out, and the others cross."""
    assert towards_client([(name, value), (b"x-b", b"a\tb \xe9")]) == [(b"x-b", b"a\tb \xe9")]


def test_secrets_in_replies() -> None:
    """Secrets are masked wherever they stand; what holds none is the very same object."""
    secrets = (b"one-key-0000-long", b"one-key-0000")
    assert towards_client([(b"x-a", b"id one-key-0000-long")], frozenset(), secrets) == [(b"x-a", b"id ***")]
    assert hide(b"one-key-0000 and one-key-0000-long", secrets) == b"*** and ***"
    body = b"nothing"
    assert hide(body, secrets) is body
