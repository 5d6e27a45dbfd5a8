"""Where the requests of one account go: its URLs and its own headers, put together once.

Secrets end here: a target holds the account's key in the headers that it sends, and its `repr` shows none of them.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from eggpool.config.schema import Account, Provider
from eggpool.domain import AccountLabel, Dialect
from eggpool.upstream.url import Url

ANTHROPIC_VERSION = {b"anthropic-version": b"2023-06-01"}
"""What a Messages endpoint insists on; sent when neither the client nor the configuration names one."""

SHORTEST_SECRET = 8  # characters; a shorter one would blot out ordinary words

# Static headers that hold no secret: masked, their values would spoil ordinary words, a content type for one.
_PUBLIC = frozenset(
    {
        "accept",
        "accept-language",
        "anthropic-beta",
        "anthropic-version",
        "content-type",
        "http-referer",
        "openai-beta",
        "referer",
        "user-agent",
        "x-title",
    }
)

NO_FALLBACKS: dict[bytes, bytes] = {}


_SCHEME = re.compile(r"(?:bearer|basic|token|key)\s+", re.IGNORECASE)


class Target:
    """The way to one account.

    `secrets` are what only this account's provider may see, the longest first: a provider that quotes them in a reply
    must not show them to a client.
    """

    __slots__ = (
        "_base",
        "_folder",
        "_paths",
        "_urls",
        "account",
        "headers",
        "provider",
        "proxy_url",
        "replaced",
        "secrets",
    )

    def __init__(self, provider: Provider, account: Account) -> None:
        self.provider = provider
        self.account: AccountLabel = account.label
        self.proxy_url = account.outbound.reveal() if account.outbound else None
        self.headers = tuple(_own_headers(provider, account))
        self.replaced = frozenset(name.lower() for name, _ in self.headers)
        self.secrets = _secrets(provider, account)
        self._base = Url.parse(provider.base_url)
        self._folder = self._base.path.rstrip("/")
        self._paths = {
            Dialect.CHAT: provider.openai_path,
            Dialect.MESSAGES: provider.anthropic_path,
            Dialect.RESPONSES: provider.responses_path,
        }
        self._urls: dict[tuple[str, str], Url] = {}

    def __repr__(self) -> str:
        return f"Target({self.account})"

    def endpoint(self, dialect: Dialect) -> str:
        """The path of a dialect's own endpoint, below the base URL."""
        return self._paths[dialect]

    def fallbacks(self, dialect: Dialect) -> dict[bytes, bytes]:
        """Headers that this dialect's endpoints need when nobody else sets them."""
        return ANTHROPIC_VERSION if dialect is Dialect.MESSAGES else NO_FALLBACKS

    @property
    def base(self) -> Url:
        """The provider's base URL."""
        return self._base

    def url(self, path: str, query: str = "") -> Url:
        """The URL of a path below the base URL; both are sent as they are."""
        known = self._urls.get((path, query))
        if known is None:
            known = self._base.at(self._folder + path + ("?" + query if query else ""))
            if len(self._urls) < 64 and len(query) < 256:
                self._urls[(path, query)] = known
        return known


def _secrets(provider: Provider, account: Account) -> tuple[bytes, ...]:
    """The account's key and its static headers' values, in each form in which a reply may quote them."""
    told = [
        header.value.reveal()
        for header in provider.headers
        if header.value is not None and header.name.lower() not in _PUBLIC
    ]
    told += [value[found.end() :] for value in told if (found := _SCHEME.match(value))]
    if account.api_key is not None:
        told.append(account.api_key.reveal())
    forms: set[bytes] = set()
    for value in told:
        if len(value) >= SHORTEST_SECRET:
            in_json = value.replace("\\", "\\\\").replace('"', '\\"')
            in_url = quote(value, safe="", errors="replace")
            forms |= {form.encode("utf-8", "surrogateescape") for form in (value, in_json, in_url)}
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))


def _own_headers(provider: Provider, account: Account) -> list[tuple[bytes, bytes]]:
    headers = [_field(header.name, header.value.reveal()) for header in provider.headers if header.value is not None]
    auth = provider.auth
    if auth.mode == "none" or account.api_key is None:
        return headers
    key = account.api_key.reveal()
    if auth.mode == "bearer":
        headers.append(_field(auth.header or "Authorization", f"{auth.scheme or 'Bearer'} {key}"))
    elif auth.mode == "api_key":
        headers.append(_field(auth.header or "x-api-key", f"{auth.scheme} {key}" if auth.scheme else key))
    else:
        headers.append(_field(auth.header or "Authorization", key))
    return headers


def _field(name: str, value: str) -> tuple[bytes, bytes]:
    return name.encode("latin-1"), value.encode("utf-8", "surrogateescape")
