"""Where an account's requests go, and the headers that it sends."""

from __future__ import annotations

import pytest
from tests.upstream.calling import provider, target

from eggpool.config.schema import Account, Auth, Secret, StaticHeader
from eggpool.domain import AccountLabel, Dialect
from eggpool.upstream.target import Target

KEY = "test-one-key-0000"


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        (Auth(), ("Authorization", f"Bearer {KEY}")),
        (Auth(scheme="Token"), ("Authorization", f"Token {KEY}")),
        (Auth(header="X-Auth"), ("X-Auth", f"Bearer {KEY}")),
        (Auth(mode="api_key"), ("x-api-key", KEY)),
        (Auth(mode="api_key", header="api-key", scheme="Key"), ("api-key", f"Key {KEY}")),
        (Auth(mode="raw_authorization"), ("Authorization", KEY)),
        (Auth(mode="none"), None),
    ],
)
def test_each_way_to_show_a_key(auth: Auth, expected: tuple[str, str] | None) -> None:
    """Each mode puts the key where the provider wants it; the client's header of that name gives way."""
    made = target(provider("http://h/v1", auth=auth, headers=(StaticHeader(name="X-A", value=Secret("b")),)))
    assert [(name.decode(), value.decode()) for name, value in made.headers] == [
        ("X-A", "b"),
        *filter(None, [expected]),
    ]
    assert made.replaced == {b"x-a", *([expected[0].lower().encode()] if expected else [])}


def test_an_account_without_a_key() -> None:
    """A provider that wants a key gets none from an account that has none."""
    assert Target(provider("http://h"), Account(name="x", label=AccountLabel("p/x"))).headers == ()


def test_no_secret_can_be_printed() -> None:
    """Neither text of a target shows a key or a proxy's password."""
    made = target(provider("http://h"), "http://user:pass-word@proxy:1")
    assert made.proxy_url == "http://user:pass-word@proxy:1"
    for text in (repr(made), str(made), f"{made}"):
        assert KEY not in text
        assert "pass-word" not in text


@pytest.mark.parametrize("base", ["http://h:1/v1", "http://h:1/v1/"])
def test_urls(base: str) -> None:
    """A path and a query are put behind the base URL as they are."""
    made = target(provider(base, anthropic_path="/special"))
    assert str(made.url(made.endpoint(Dialect.MESSAGES))) == "http://h:1/v1/special"
    assert str(made.url(made.endpoint(Dialect.CHAT), "a=%2f&b")) == "http://h:1/v1/chat/completions?a=%2f&b"
    assert str(made.url(made.endpoint(Dialect.RESPONSES) + "/r%2F1")) == "http://h:1/v1/responses/r%2F1"
    assert made.url("/x") is made.url("/x")


def test_many_urls() -> None:
    """However many paths clients make up, all are right."""
    made = target(provider("http://h"))
    for number in range(200):
        assert str(made.url(f"/{number}")) == f"http://h/{number}"


def test_fallbacks() -> None:
    """Only Messages endpoints insist on a version."""
    made = target(provider("http://h"))
    assert made.fallbacks(Dialect.MESSAGES) == {b"anthropic-version": b"2023-06-01"}
    assert made.fallbacks(Dialect.CHAT) == made.fallbacks(Dialect.RESPONSES) == {}


def test_what_no_client_may_see() -> None:
    """The key and the values of static headers are secret, in each form in which they may be quoted."""
    headers = (
        StaticHeader(name="X-Team", value=Secret('pass/"word"')),
        StaticHeader(name="X-Proxy-Auth", value=Secret("Bearer other-key")),
        StaticHeader(name="X-Short", value=Secret("short")),
        StaticHeader(name="Accept", value=Secret("application/json")),
    )
    made = target(provider("http://h", headers=headers))
    assert set(made.secrets) == {
        KEY.encode(),
        b'pass/"word"',
        b'pass/\\"word\\"',
        b"pass%2F%22word%22",
        b"Bearer other-key",
        b"Bearer%20other-key",
        b"other-key",
    }
    assert [*made.secrets] == sorted(made.secrets, key=len, reverse=True)


def test_an_account_without_secrets() -> None:
    """Where there is no key there is nothing to hide."""
    assert Target(provider("http://h"), Account(name="x", label=AccountLabel("p/x"))).secrets == ()
