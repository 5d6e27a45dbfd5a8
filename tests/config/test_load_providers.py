"""Providers and accounts: keys and where they come from, URLs, headers, proxies, inheritance."""

from __future__ import annotations

import pytest
from tests.config.reading import loaded, problems, provider

from eggpool.config.load import load
from eggpool.config.schema import Secret
from eggpool.errors import ConfigError, StartError

KEY = "sk-very-secret-0123456789"


def test_an_account_gets_its_label_and_its_key() -> None:
    """After loading, an account knows its label, its key, and every inherited value is there."""
    text = "[upstream]\nread_timeout_s = 7\n" + provider("connect_timeout_s = 2", "api_key_env = 'K'\nweight = 2")
    config = loaded(text, {"K": KEY}).config
    one = config.providers["p"]
    assert (one.accounts[0].label, one.accounts[0].api_key, one.accounts[0].weight) == ("p/a", Secret(KEY), 2.0)
    assert (one.connect_timeout_s, one.read_timeout_s) == (2.0, 7.0)
    for name in ("header_timeout_s", "first_event_timeout_s", "max_connections", "keepalive_timeout_s"):
        assert getattr(one, name) == getattr(config.upstream, name)


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("your-api-key", "is a placeholder"),
        ("your-proxy-api-key", "is a placeholder"),
        ("your-opencode-go-key-1", "is a placeholder"),
        ("your-opencode-go-key-2", "is a placeholder"),
        ("your-api-key-here", "is a placeholder"),
        ("your-local-api-key-here", "is a placeholder"),
        ("sk-your-key", "is a placeholder"),
        ("sk-your-...", "is a placeholder"),
        ("CHANGEME", "is a placeholder"),
        ("<paste the key here>", "is a placeholder"),
        ("Bearer sk-0123456789", "begins with 'Bearer'"),
        ("sk-0123\n456789", "contains a line end or NUL"),
        ("sk-0123456789\r", "contains a line end or NUL"),
        ("sk-0123\x00456789", "contains a line end or NUL"),
        ("sk-0123 456789", "contains white space"),
        ("schlüssel-0123", "contains characters that a header cannot carry"),
        ("", "is empty"),
    ],
)
def test_what_cannot_be_a_key_is_refused_by_name(key: str, fault: str) -> None:
    """A key that no provider would take is told before the first request, and never shown."""
    (found,) = problems(provider(account="api_key_env = 'K'"), {"K": key})
    assert found.startswith(f"providers.p.accounts[0].api_key_env: the key in the environment variable K {fault}")
    assert len(key) < 5 or key not in found


def test_an_unset_variable_is_named() -> None:
    """One reads which variable to set, and where it is asked for."""
    assert problems(provider(account="api_key_env = 'OPENAI_API_KEY'")) == [
        "providers.p.accounts[0].api_key_env: the environment variable OPENAI_API_KEY is not set"
    ]


@pytest.mark.parametrize("key", ["sk-abcdef0123456789", "gsk_abcdef0123456789"])
def test_a_key_pasted_as_the_name_of_a_variable_is_not_shown(key: str) -> None:
    """The most likely mistake does not put a key on the screen."""
    (found,) = problems(provider(account=f"api_key_env = '{key}'"))
    assert found.startswith("providers.p.accounts[0].api_key_env: ")
    assert key not in found


def test_what_is_disabled_needs_no_key_yet() -> None:
    """An unset variable of a disabled account or provider is a warning."""
    for text in (
        provider("enabled = false", "api_key_env = 'K'"),
        provider(account="api_key_env = 'K'\nenabled = false"),
    ):
        assert "providers.p.accounts[0].api_key_env: the environment variable K is not set" in loaded(text).warnings


def test_a_provider_without_authentication_needs_no_key() -> None:
    """auth mode none takes an account with nothing but a name."""
    assert loaded(provider('auth = { mode = "none" }', "")).config.providers["p"].accounts[0].api_key is None
    assert problems(provider(account="")) == [
        "providers.p.accounts[0]: has no key; set api_key_env, api_key_command or api_key"
    ]


def test_a_command_can_give_the_key() -> None:
    """api_key_command is run through the caller, and its failure is a problem of its place."""
    text = provider(account="api_key_command = 'pass show p'")
    config = loaded(text, run_command={"pass show p": KEY}.__getitem__).config
    assert config.providers["p"].accounts[0].api_key == Secret(KEY)

    def fail(command: str) -> str:
        raise StartError("the command ended with exit code 1")

    assert problems(text, run_command=fail) == [
        "providers.p.accounts[0].api_key_command: the command ended with exit code 1"
    ]
    assert problems(text) == ["providers.p.accounts[0].api_key_command: commands are not run here"]


def test_keys_can_be_left_alone() -> None:
    """A command that calls no provider asks for no variable and runs nothing."""
    text = provider("headers = [{ name = 'x-team', value_env = 'TEAM' }]", "api_key_env = 'K'\nproxy_url_env = 'PROXY'")
    account = loaded(text, upstream_keys=False).config.providers["p"].accounts[0]
    assert (account.api_key, account.outbound) == (None, None)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("p.example/v1", "must be an absolute http:// or https:// URL"),
        ("ftp://p.example", "must be an absolute http:// or https:// URL"),
        ("https://", "must be an absolute http:// or https:// URL"),
        ("https://me:secret@p.example", "must not contain credentials; keys belong to accounts"),
        ("https://p.example?x=1", "must not contain a query or a fragment"),
        ("https://p.example#", "must not contain a query or a fragment"),
        ("https://p.example/a b", "must be a URL in ASCII without white space"),
        ("https://p.example:99999", "is not a URL"),
        ("https://[::1", "is not a URL"),
    ],
)
def test_a_base_url_is_absolute_and_bare(url: str, fault: str) -> None:
    """Only scheme, host, port and path; the URL itself is not repeated."""
    assert problems(provider().replace("https://p.example/api", url)) == [f"providers.p.base_url: {fault}"]


def test_a_trailing_slash_makes_no_difference() -> None:
    """base_url is kept without it, as paths begin with one."""
    text = provider().replace("https://p.example/api", "https://p.example/api//")
    assert loaded(text).config.providers["p"].base_url == "https://p.example/api"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/v1/chat", "/compatible-mode/v1/x", "/v1beta/x"])
@pytest.mark.parametrize("base", ["https://p.example/v1/", "https://p.example/compatible-mode/v1", "https://x/api/v4"])
def test_a_version_is_not_said_twice(base: str, path: str) -> None:
    """/v1 in both the base URL and the path would ask for /v1/v1."""
    text = provider(f"openai_path = '{path}'").replace("https://p.example/api", base)
    assert problems(text) == [
        "providers.p.openai_path: begins with a version, and base_url ends in one already; keep one of them"
    ]
    assert loaded(provider(f"openai_path = '{path}'")).config.providers["p"].openai_path == path


def test_a_provider_is_called_like_its_table() -> None:
    """`id` repeats the table's name, or is left out."""
    assert problems(provider().replace('id = "p"', 'id = "q"')) == [
        "providers.p.id: must be equal to the table's name, 'p'"
    ]
    assert loaded(provider().replace('id = "p"\n', "")).config.providers["p"].id == "p"
    (found,) = problems(provider().replace("providers.p", 'providers."a/b"').replace('id = "p"\n', ""))
    assert found.startswith('providers."a/b": the name of a provider has at most 64 letters')


def test_account_names_are_unique_at_a_provider() -> None:
    """A label must mean one account."""
    again = "[[providers.p.accounts]]\nname = 'a'\napi_key = 'sk-9876543210'\n"
    assert problems(provider() + again) == ["providers.p.accounts[1].name: 'a' is used twice at this provider"]
    assert problems(provider() + again.replace("'a'", "'a/b'")) == [
        "providers.p.accounts[1].name: expected a name without white space and '/', of at most 64 characters, "
        "got other text"
    ]


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        ("{ name = 'Host', value = 'x' }", "headers[0].name: 'Host' is set by the pool itself"),
        ("{ name = 'content-length', value = '1' }", "headers[0].name: 'content-length' is set by the pool itself"),
        ("{ name = 'Connection', value = 'x' }", "headers[0].name: 'Connection' is set by the pool itself"),
        ("{ name = 'x-proxy-thing', value = 'x' }", "headers[0].name: 'x-proxy-thing' is set by the pool itself"),
        ("{ name = 'authorization', value = 'x' }", "headers[0].name: 'authorization' carries the key already"),
        ("{ name = 'a b', value = 'x' }", "headers[0].name: is not a header name"),
        ("{ name = 'x-a' }", "headers[0]: needs exactly one of value and value_env"),
        ("{ name = 'x-a', value = 'x', value_env = 'X' }", "headers[0]: needs exactly one of value and value_env"),
        ("{ name = 'x-a', value_env = 'X' }", "headers[0].value_env: the environment variable X is not set"),
        ('{ name = "x-a", value = "a\\r\\nb: c" }', "headers[0].value: the value contains a line end or NUL"),
        ("{ name = 'x-a', value = '1' }, { name = 'X-A', value = '2' }", "headers[1].name: 'X-A' is set twice"),
    ],
)
def test_static_headers_are_ours_to_add(header: str, fault: str) -> None:
    """A static header has one value, one name, and is not one that the pool manages."""
    assert problems(provider(f"headers = [{header}]")) == [f"providers.p.{fault}"]


def test_a_header_gets_its_value_from_the_environment() -> None:
    """value_env is resolved once, at load; white space inside a value is fine."""
    text = provider("headers = [{ name = 'X-Title', value_env = 'TITLE' }]")
    (header,) = loaded(text, {"TITLE": "my pool"}).config.providers["p"].headers
    assert header.value == Secret("my pool")


def test_a_header_of_its_own_may_carry_the_key() -> None:
    """With auth mode api_key the clash is with that header, x-api-key by default."""
    clash = "headers = [{ name = 'X-Api-Key', value = 'x' }]\nauth = { mode = 'api_key' }"
    assert problems(provider(clash)) == ["providers.p.headers[0].name: 'X-Api-Key' carries the key already"]
    apart = loaded(provider(clash.replace("'api_key'", "'api_key', header = 'api-key'"))).config.providers["p"]
    assert (apart.auth.header, apart.headers[0].name) == ("api-key", "X-Api-Key")


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("https://proxy.example:3128/", "https://proxy.example:3128"),
        ("SOCKS5://me:pa%40ss@proxy.example:1080", "socks5://me:pa%40ss@proxy.example:1080"),
        ("socks5h://[::1]:1080", "socks5h://[::1]:1080"),
        ("socks4://proxy.example:1080#me:p@ss", "socks4://me:p%40ss@proxy.example:1080"),
    ],
)
def test_an_outbound_proxy_is_filled_in(url: str, kept: str) -> None:
    """However it was written, the account has one URL with its credentials before the host."""
    named = f"[proxies.office]\nurl = '{url}'\n" + provider(account="api_key = 'abcdefgh'\nproxy = 'office'")
    own = provider(account=f"api_key = 'abcdefgh'\nproxy_url = '{url}'")
    variable = provider(account="api_key = 'abcdefgh'\nproxy_url_env = 'P'")
    for text in (named, own, variable):
        assert loaded(text, {"P": url}).config.providers["p"].accounts[0].outbound == Secret(kept)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("ss://secret@proxy.example:1", "has a scheme that is not supported; use http, https, socks4, socks5, socks5h"),
        ("http+socks5://secret@proxy.example:1", "has a scheme that is not supported"),
        ("proxy.example:1", "has a scheme that is not supported"),
        ("http://me:secret@proxy.example", "must name a host and a port"),
        ("http://:secret@:1", "must name a host and a port"),
        ("http://me:secret@proxy.example:1/path", "must end after the port"),
        ("http://me:secret@proxy.example:1#a:b", "has credentials twice"),
        ("http://me:sec ret@proxy.example:1", "contains white space"),
        ("http://me:secret@[::1:1", "is not a URL"),
    ],
)
def test_an_outbound_proxy_that_cannot_be_used_is_refused_unseen(url: str, fault: str) -> None:
    """The sentence says what is supported and holds nothing of the URL."""
    (found,) = problems(provider(account=f"api_key = 'abcdefgh'\nproxy_url = '{url}'"))
    assert found.startswith(f"providers.p.accounts[0].proxy_url: the proxy URL {fault}")
    assert "secret" not in found
    assert "proxy.example" not in found


def test_an_account_has_at_most_one_proxy_and_it_exists() -> None:
    """Two ways at once, a name without a table, and a table without a URL are problems."""
    both = provider(account="api_key = 'abcdefgh'\nproxy = 'x'\nproxy_url = 'http://p:1'")
    assert problems(both) == ["providers.p.accounts[0]: must have at most one of proxy, proxy_url and proxy_url_env"]
    missing = provider(account="api_key = 'abcdefgh'\nproxy = 'x'")
    assert problems(missing) == ["providers.p.accounts[0].proxy: there is no table [proxies.x]"]
    assert problems("[proxies.x]\n" + missing) == ["proxies.x: needs exactly one of url and url_env"]
    unset = "[proxies.x]\nurl_env = 'X'\n"
    assert problems(unset + missing) == ["proxies.x.url_env: the environment variable X is not set"]
    assert "proxies.x.url_env: the environment variable X is not set" in loaded(unset).warnings


def test_what_is_odd_but_works_is_a_warning() -> None:
    """Two sources of a key, a provider without accounts, and an override in a foreign dialect."""
    warnings = loaded(
        provider("[providers.p.model_overrides.m]\nprotocol = 'anthropic'", f"api_key = '{KEY}'\napi_key_env = 'K'")
        + "[providers.q]\nbase_url = 'https://q.example'\n"
    ).warnings
    assert warnings == (
        "providers.p.model_overrides.m.protocol: is not one of the provider's protocols",
        "providers.p.accounts[0]: has more than one of api_key, api_key_env and api_key_command;"
        " the first of them is used",
        "providers.q: has no accounts",
    )


def test_accounts_with_one_variable_are_told() -> None:
    """Two accounts of a provider with one key are one account to the provider."""
    accounts = "".join(
        f"[[providers.p.accounts]]\nname = '{name}'\napi_key_env = 'SAME'\n" for name in ("first", "second")
    )
    text = "[providers.p]\nbase_url = 'https://p.example'\n" + accounts
    assert load(text, {"SAME": "sk-0123456789"}, folder="/").warnings == (
        "providers.p.accounts[1].api_key_env: another account of this provider has the same key",
    )


@pytest.mark.parametrize("length", [64, 65])
def test_names_are_bounded(length: int) -> None:
    """Names and ids have at most 64 characters: they are columns, labels and headers."""
    text = "[[clients]]\nname = '{0}'\nkey_hash = 'sha256:{1}'\n[providers.{0}]\nbase_url = 'https://p.example'\n"
    text += "[[providers.{0}.accounts]]\nname = '{0}'\napi_key = 'sk-0123456789'\n"
    whole = text.format("n" * length, "0" * 64)
    if length == 64:
        load(whole, {}, folder="/")
        return
    with pytest.raises(ConfigError) as raised:
        load(whole, {}, folder="/")
    assert len(raised.value.problems) == 3
    assert all("at most 64" in problem for problem in raised.value.problems)
